"""Signals of the edge's process, which stop it, reload its configuration, or start a successor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Final

from edge_server.handoff.protocol import IS_SUPPORTED

logger = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handlers of SIGTERM, SIGINT and SIGHUP, which set events, and of SIGUSR2, which starts a successor. Create
    it on the running loop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        """SIGTERM or SIGINT: drain."""
        self.force_stop = asyncio.Event()
        """The second SIGTERM or SIGINT: end without waiting for visitors."""
        self.reload = asyncio.Event()
        """SIGHUP: read the configuration again."""
        self._had_terminal = has_terminal()
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            try:
                loop.add_signal_handler(number, self._stop)
            except NotImplementedError:  # Windows: the handler runs in the main thread, so the loop is woken
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop))
        if IS_SUPPORTED:
            loop.add_signal_handler(signal.SIGUSR2, start_successor)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        # The original meaning of SIGHUP: the terminal was closed, which ends the programs in it.
        if self._had_terminal and not has_terminal():
            self._stop()
        else:
            self.reload.set()

    def _stop(self) -> None:
        (self.force_stop if self.stop.is_set() else self.stop).set()


def has_terminal() -> bool:
    """Return True if a standard stream is an open terminal."""
    return any(os.isatty(descriptor) for descriptor in range(3))


def start_successor() -> None:
    """Start this program again with ``--takeover``, which takes over from this process and logs if it cannot."""
    command = sys.orig_argv if "--takeover" in sys.orig_argv else [*sys.orig_argv, "--takeover"]
    with contextlib.suppress(ChildProcessError):  # reap successors that have failed
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    try:
        child = os.posix_spawn(sys.executable, command, os.environ)
    except OSError as error:
        logger.error("no successor could be started: %s", error.strerror)
    else:
        logger.info("process %d is to take over", child)
