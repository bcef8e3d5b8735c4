"""The program that ``quictunnel run`` runs: started in a session of its own, watched, and ended with all it made.

A session of its own, so that Ctrl-C at a terminal comes to quictunnel alone, which ends the tunnel first; what the
program reads and writes stays as it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, TextIO

from quictunnel.cli.process_guard import LEFT_GRACE, STOP_GRACE, ProcessGuard, is_gone, signal_group
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

POSIX = os.name == "posix"


class Child:
    """See the module. Raises ConfigError when the program cannot be started."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        stdout: TextIO | None = None,
        when_over: Callable[[], object] = lambda: None,
    ) -> None:
        """``when_over`` is called from another thread when it has ended."""
        self.name = os.path.basename(command[0])  # noqa: PTH119 - as it was typed, which may be no path here
        self._guard = ProcessGuard() if POSIX else None
        self.over = threading.Event()
        flags = 0 if POSIX else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        try:
            self._process = subprocess.Popen(
                list(command), env=dict(environ), stdout=stdout, start_new_session=POSIX, creationflags=flags
            )
        except (OSError, ValueError) as error:
            self._dismiss()
            why = error.strerror if isinstance(error, OSError) and error.strerror else "not a command"
            raise ConfigError(f"{self.name} cannot be started ({why}): correct the command after --.") from None
        if self._guard is not None:
            self._guard.watch_over(self._process.pid)
        threading.Thread(target=self._wait, args=(when_over,), name="quictunnel-run", daemon=True).start()

    @property
    def status(self) -> int | None:
        """Its exit status as a shell reports it, 128 and the number for one that a signal ended; None while it
        runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def ending(self) -> str:
        """How it ended, for a sentence."""
        code = self._process.poll()
        assert code is not None, "it runs"
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return f"was ended by signal {-code}"

    def tell(self, number: int) -> None:
        """Pass a signal on to the program itself."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM to it and all it made, SIGKILL to whoever is left after their time. Interrupted, or called
        again, it does no harm; when it returns nobody is left."""
        group = self._process.pid
        try:
            if POSIX:
                signal_group(group, signal.SIGTERM)
            elif self.status is None:  # pragma: no cover - Windows has no groups to tell
                self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            self.over.wait(STOP_GRACE)
            if POSIX and self.over.is_set():
                is_gone(group, LEFT_GRACE)
        finally:
            self.kill()
            self._process.wait()
            self._dismiss()

    def kill(self) -> None:
        """End all of it at once."""
        if POSIX:
            signal_group(self._process.pid, signal.SIGKILL)
        else:  # pragma: no cover - likewise
            self._process.kill()

    def _wait(self, when_over: Callable[[], object]) -> None:
        self._process.wait()
        self.over.set()
        when_over()

    def _dismiss(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()
