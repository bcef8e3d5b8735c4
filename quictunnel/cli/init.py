"""Init process of a container: forwards signals and reaps orphaned processes.

A process whose parent has ended becomes a child of process 1. If process 1 does not wait for it, it stays a zombie
until the container ends. ``quictunnel run`` starts a program that may leave such orphans. So process 1 does only
this, and the command itself runs as its child. Linux only.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SENT_BY_KERNEL: Final = 0x80
"""``si_code`` of a signal from a terminal (SI_KERNEL), which the terminal has sent to the child as well."""
NOT_FORWARDED: Final = ("SIGTTIN", "SIGTTOU")
"""Signals for a background process that uses the terminal; the child gets its own."""


def as_first_process(program: Callable[[], int]) -> int:
    """Run a program and return its exit status. In process 1, run it in a child process.

    Call this while the process has one thread, because a fork copies no other.
    """
    if sys.platform != "linux" or os.getpid() != 1:
        return program()
    signals = signal.valid_signals() - {getattr(signal, name) for name in NOT_FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return program()
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif received.si_code != SENT_BY_KERNEL:
            os.kill(child, received.si_signo)


def _reap(child: int) -> int | None:
    """Reap all ended children. Return the exit status of ``child`` as a shell reports it, or None while it
    runs."""
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
