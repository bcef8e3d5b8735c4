"""The first process of a container: passes signals on, and reaps the processes that nobody waits for.

A process whose parent has ended becomes a child of process 1, which has to wait for it; else it stays in the table
of processes as a zombie until the container ends. A program that starts others, as ``quictunnel run`` does, gets
such orphans. So process 1 does nothing else: the command itself runs as its child. Linux only, as containers are.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SENT_BY_KERNEL: Final = 0x80
"""``si_code`` of a signal that a terminal made (SI_KERNEL): the terminal has sent it to the child as well."""
NOT_PASSED_ON: Final = ("SIGTTIN", "SIGTTOU")
"""Signals about the terminal of a process that is not in front; the child has its own."""


def as_first_process(program: Callable[[], int]) -> int:
    """Run a program; where this is process 1, in a child of it. Return its exit status.

    To be called while this process has one thread: a fork copies no other.
    """
    if sys.platform != "linux" or os.getpid() != 1:
        return program()
    signals = signal.valid_signals() - {getattr(signal, name) for name in NOT_PASSED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return program()
    while True:
        came = signal.sigwaitinfo(signals)
        if came.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif came.si_code != SENT_BY_KERNEL:
            os.kill(child, came.si_signo)


def _reap(child: int) -> int | None:
    """Wait for those that have ended. Return the exit status of ``child``, as a shell reports it, once it has."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
