"""The program of ``quictunnel run``: started in a new process session, watched, and ended with its child
processes.

In its own process session the program does not get Ctrl-C from the terminal. Only quictunnel gets it and closes
the tunnel first. The program's standard input and output are unchanged.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, TextIO

from quictunnel.cli.process_guard import ORPHAN_GRACE, STOP_GRACE, ProcessGuard, is_gone, signal_group
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

POSIX = os.name == "posix"


class Child:
    """A running program with all its child processes."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        stdout: TextIO | None = None,
        when_ended: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the program.

        Args:
            command: the program and its arguments.
            environ: its environment variables.
            stdout: file for its standard output; None: that of this process.
            when_ended: called on another thread when the program has ended.

        Raises:
            ConfigError: the program cannot be started.
        """
        self.name = os.path.basename(command[0])  # noqa: PTH119 - as typed, which may be no path here
        self._guard = ProcessGuard() if POSIX else None
        self.ended = threading.Event()
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
            self._guard.watch(self._process.pid)
        threading.Thread(target=self._wait, args=(when_ended,), name="quictunnel-run", daemon=True).start()

    @property
    def status(self) -> int | None:
        """Exit status as a shell reports it (128 + number after a signal); None while the program runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def description_of_end(self) -> str:
        """End of a sentence about how the program ended."""
        code = self._process.poll()
        assert code is not None, "the program still runs"
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return f"was ended by signal {-code}"

    def forward_signal(self, number: int) -> None:
        """Forward a signal to the program itself."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Send SIGTERM to the program and its children, and SIGKILL to those left after STOP_GRACE seconds.

        May be interrupted and called again. When it returns, no process is left.
        """
        group = self._process.pid
        try:
            if POSIX:
                signal_group(group, signal.SIGTERM)
            elif self.status is None:  # pragma: no cover - Windows sends no signals to groups
                self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            self.ended.wait(STOP_GRACE)
            if POSIX and self.ended.is_set():
                is_gone(group, ORPHAN_GRACE)
        finally:
            self.kill()
            self._process.wait()
            self._dismiss()

    def kill(self) -> None:
        """Send SIGKILL to the program and its children."""
        if POSIX:
            signal_group(self._process.pid, signal.SIGKILL)
        else:  # pragma: no cover - likewise
            self._process.kill()

    def _wait(self, when_ended: Callable[[], object]) -> None:
        self._process.wait()
        self.ended.set()
        when_ended()

    def _dismiss(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()
