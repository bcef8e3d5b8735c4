"""Guard process that ends the program's process group when quictunnel is gone.

PR_SET_PDEATHSIG would end only the program itself, on Linux, and none of its child processes. The guard is forked
before any thread starts and reads from a pipe. When the pipe is closed, quictunnel has ended, perhaps by SIGKILL;
the guard then ends the program's whole process group. POSIX only.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

STOP_GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL: the default of container platforms."""
ORPHAN_GRACE: Final = 1.0
"""Seconds for the remaining processes of the group after the program itself has ended."""
POLL_INTERVAL: Final = 0.02
"""Seconds between checks whether a process group is gone."""
DISMISSED: Final = b"done\n"
"""Line that dismisses the guard."""
MAX_INPUT: Final = 64
"""Bytes that the guard reads: a number and a word."""


class ProcessGuard:
    """Handle of the guard process. Create it while this process has one thread, because a fork copies no other."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:  # pragma: no cover - another process
            try:
                os.close(self._writing)
                _watch(reading)
            finally:
                os._exit(0)
        os.close(reading)

    def watch(self, group: int) -> None:
        """Make the guard end this process group when this process has ended."""
        os.write(self._writing, b"%d\n" % group)

    def dismiss(self) -> None:
        """End the guard without ending the group, and wait for it."""
        os.write(self._writing, DISMISSED)
        os.close(self._writing)
        os.waitpid(self._pid, 0)


def end_group(group: int, grace: float = STOP_GRACE) -> None:
    """Send SIGTERM to a process group, and SIGKILL if processes are left after ``grace`` seconds."""
    if signal_group(group, signal.SIGTERM) and not is_gone(group, grace):
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group. Return False if the group has no processes."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: a group of zombies; the group has no other users' processes
        return False
    return True


def is_gone(group: int, timeout: float) -> bool:
    """Wait until a process group has no processes. Return False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while signal_group(group, 0):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _watch(reading: int) -> None:  # pragma: no cover - another process
    """Run the guard process until quictunnel is gone or dismisses it."""
    os.setsid()  # detach from signals of the terminal and to the parent's group
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)  # readers of the parent's output must see its end
    os.dup2(reading, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    received = b""
    while (more := os.read(3, MAX_INPUT)) and len(received) < MAX_INPUT:
        received += more
    group, _, rest = received.partition(b"\n")
    if group and rest != DISMISSED and group + b"\n" != DISMISSED:
        end_group(int(group))
