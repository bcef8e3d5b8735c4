"""A process that outlives this one by a moment, to end what this one started.

PR_SET_PDEATHSIG would reach the program itself, on Linux, and none of the processes that it has made. The guard
is forked before there are threads, holds one end of a pipe, and learns from its end that this process is gone,
however it went; then it ends the program's whole process group. POSIX only.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

STOP_GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL: what container platforms give a program by default."""
LEFT_GRACE: Final = 1.0
"""Seconds that processes of the program's group get when the program itself has ended."""
LOOK: Final = 0.02
"""Seconds between looks at whether they are gone."""
DONE: Final = b"done\n"
MAX_ORDERS: Final = 64
"""Bytes that the guard is told: a number and a word."""


class ProcessGuard:
    """See the module. To be made while this process has one thread: a fork copies no other."""

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

    def watch_over(self, group: int) -> None:
        """End this process group when this process is gone."""
        os.write(self._writing, b"%d\n" % group)

    def dismiss(self) -> None:
        """There is nothing to end any more. Waits for the guard, which ends at once."""
        os.write(self._writing, DONE)
        os.close(self._writing)
        os.waitpid(self._pid, 0)


def end_group(group: int, grace: float = STOP_GRACE) -> None:
    """SIGTERM to a process group, and SIGKILL to whoever is left of it after ``grace`` seconds."""
    if signal_group(group, signal.SIGTERM) and not is_gone(group, grace):
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Whether anybody was there to be told."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies; others' processes are not in a group of ours
        return False
    return True


def is_gone(group: int, patience: float) -> bool:
    """Wait until nobody is left."""
    deadline = time.monotonic() + patience
    while signal_group(group, 0):
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK)
    return True


def _watch(reading: int) -> None:  # pragma: no cover - another process
    """Everything that the guard does."""
    os.setsid()  # no signal of a terminal or to the parent's group gets here
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)  # who reads the parent's output learns that it has ended
    os.dup2(reading, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    orders = b""
    while (more := os.read(3, MAX_ORDERS)) and len(orders) < MAX_ORDERS:
        orders += more
    group, _, rest = orders.partition(b"\n")
    if group and rest != DONE and group + b"\n" != DONE:
        end_group(int(group))
