"""The lock of a state directory, which one edge holds while it serves.

On POSIX the lock belongs to an open file (flock(2)): every copy of its descriptor holds it, and the kernel
releases it with the last copy, also after a crash. In a hot restart the predecessor passes its descriptor to the
successor, and closes its own when that one is ready, so a third edge cannot get the lock in between. It is never
unlocked explicitly, because that would unlock the copies as well. Child processes have no copy: programs do not
inherit the descriptor, and a forked child closes it.

The file stays when the edge ends: if it were removed, two edges could lock two files of the same name. It contains
the process ID of the edge, for the error that a second edge prints.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Final, Self

from quictunnel.errors import ConfigError
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

LOCK_FILE: Final = "edge.lock"
MAX_PID_BYTES: Final = 32
"""Bytes that are read of the file."""
WINDOWS_OFFSET: Final = 1024
"""Position of the byte that is locked on Windows, where nobody else may read a locked byte."""
_HELD: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""Errors of an attempt to get a lock that another edge holds."""
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of a file system without locks."""


class EdgeLock:
    """The lock, held from its creation to :meth:`release`."""

    def __init__(self, descriptor: int) -> None:
        """Use the descriptor of a locked file, which :meth:`release` closes."""
        self._descriptor = descriptor
        self._process = os.getpid()
        os.set_inheritable(descriptor, False)
        descriptors.set_close_on_fork(self)

    @classmethod
    def acquire(cls, directory: Path, advice: str) -> Self:
        """Return the lock of a state directory.

        Raises ConfigError if another edge holds it, with ``advice`` at the end, or if the file cannot be opened.
        """
        path = directory / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            raise ConfigError(f"{path} cannot be opened ({error.strerror}).") from None
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                holder = _process_in(descriptor) if error.errno in _HELD else ""
                os.close(descriptor)
                if error.errno not in _HELD:
                    raise ConfigError(f"{path} cannot be locked ({error.strerror}).") from None
                raise ConfigError(
                    f"An edge{holder} already runs with the state directory {directory}: {advice}."
                ) from None
            logger.warning("%s: no locks (%s), so a second edge here would not be noticed", path, error.strerror)
        lock = cls(descriptor)
        lock.sign()
        return lock

    def fileno(self) -> int:
        """Return the descriptor; -1 after :meth:`release`."""
        return self._descriptor

    def sign(self) -> None:
        """Write the ID of this process into the file."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:  # a full disk must not keep an edge from starting
            logger.warning("%s cannot be written: %s", LOCK_FILE, error.strerror)

    def release(self) -> None:
        """Give the lock up; a process with a copy of the descriptor keeps it. A second call does nothing."""
        if self._descriptor >= 0 and self._process == os.getpid():  # a forked child has closed its copy already
            descriptors.clear_close_on_fork(self)
            os.close(self._descriptor)
        self._descriptor = -1


def _lock(descriptor: int) -> None:
    """Lock a file without waiting. Raises OSError."""
    if sys.platform == "win32":
        os.lseek(descriptor, WINDOWS_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _process_in(descriptor: int) -> str:
    """Return the process that the file names, in brackets; empty if it names none."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    found = re.fullmatch(rb"([0-9]{1,20})\n", os.read(descriptor, MAX_PID_BYTES))
    return f" (process {int(found[1])})" if found else ""
