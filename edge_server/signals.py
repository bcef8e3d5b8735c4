"""Signals of the edge's process, which stop it, reload its configuration, dump its state, or start a successor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

from edge_server.handoff.protocol import IS_SUPPORTED
from edge_server.observability import state_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
MAX_WAKEUP_READ: Final = 4096
"""Bytes, one a signal, that are read at a time from the wake-up socket."""


class Signals:
    """Events and actions for the signals of an edge. Create it on the running loop, in the main thread."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        """SIGTERM or SIGINT, or SIGHUP because the terminal was closed: drain."""
        self.force_stop = asyncio.Event()
        """The second SIGTERM or SIGINT: end without waiting for visitors."""
        self.reload = asyncio.Event()
        """SIGHUP: read the configuration again."""
        self.dump: Callable[[], object] = state_dump.refuse_dump
        """Action of SIGUSR1."""
        self._is_stop_received = False
        self._had_terminal = has_terminal()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers for the block, and restore the previous ones at its end."""
        actions: dict[int, Callable[[], None]] = dict.fromkeys(STOP_SIGNALS, self._stop)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            actions[signal.SIGHUP] = self._hang_up
            actions[signal.SIGUSR1] = self._dump
        if IS_SUPPORTED:
            actions[signal.SIGUSR2] = start_successor
        loop = asyncio.get_running_loop()

        def handle(number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(actions[number])

        # Not loop.add_signal_handler(): if two signals arrive together, uvloop 0.23 may call a handler twice for
        # one signal, and the second SIGTERM cuts the visitors.
        with wakeup_descriptor(loop):
            before = {number: signal.signal(number, handle) for number in actions}
            try:
                yield
            finally:
                for number, action in before.items():
                    signal.signal(number, action)

    def _hang_up(self) -> None:
        # The original meaning of SIGHUP: the terminal was closed, which ends the programs in it. The kernel sends
        # one and a shell may send another, so a second one does not force the end.
        if self._had_terminal and not has_terminal():
            self.stop.set()
        else:
            self.reload.set()

    def _stop(self) -> None:
        # Not ``stop.is_set()``: systemd ends a login session with SIGTERM and SIGHUP at once.
        (self.force_stop if self._is_stop_received else self.stop).set()
        self._is_stop_received = True

    def _dump(self) -> None:
        self.dump()


@contextlib.contextmanager
def wakeup_descriptor(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Make each signal wake the loop for the block. asyncio's own loop on Unix does so only for handlers of its
    own: a signal just before its wait, or in another thread, would be handled at the next event."""
    existing = signal.set_wakeup_fd(-1)
    if existing != -1:  # uvloop's, or that of the loop on Windows
        signal.set_wakeup_fd(existing)
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, MAX_WAKEUP_READ)
        signal.set_wakeup_fd(writer.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(reader)


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
