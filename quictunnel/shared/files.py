"""Atomic writes of files, which only their owner can read.

The content is written to a temporary file in the same directory (``.NAME.xxxxxxxx``), which is then renamed to the
target. Readers see the old content or the new, never a part; so does the next start after a crash. Of several
writers, the last one wins. A crash between the two steps leaves the temporary file, which nothing reads.

The temporary file has mode 0600 from its creation, whatever the umask and the mode of the replaced file. It is
opened exclusively, so a symbolic link of an attacker is never followed; one at the target's name is replaced. On
Windows the user's profile protects the files, and modes have no effect.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE: Final = 0o600
"""Mode of a file with a secret: its owner can read and write it."""
PUBLIC: Final = 0o644
"""Mode of a file that everybody can read, such as a certificate."""
DIRECTORY: Final = 0o700
"""Mode of a directory with secrets."""


def replace_file(path: Path, content: bytes, *, mode: int = PRIVATE, durable: bool = True) -> os.stat_result:
    """Write a file atomically, in place of one that may exist. Return what identifies the new file, read before
    anybody else could replace it in turn.

    Args:
        path: path of the file; its directory exists.
        content: the whole content.
        mode: permissions, independent of the umask.
        durable: wait until the content is on the disk, so that it survives a crash of the machine. False for
            files that only the current run needs.

    Raises:
        OSError: the file cannot be written, for example on a full disk. The old file is unchanged then.
    """
    temporary = _write_temporary(path, content, mode, durable=durable)
    try:
        written = temporary.stat()
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise
    if durable:
        _sync_directory(path.parent)
    return written


def create_once(path: Path, content: bytes) -> None:
    """Write a private file atomically, unless it exists.

    Creating a link is atomic: if two processes do it at the same time, exactly one succeeds, and both use its
    file. Raises OSError if the file does not exist and cannot be written.
    """
    temporary = _write_temporary(path, content, PRIVATE, durable=True)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        _remove(temporary)
    _sync_directory(path.parent)


def open_private(path: Path, flags: int = 0) -> int:
    """Create a private file, and return its descriptor, which is open for writing.

    Args:
        path: path of the file; its directory exists.
        flags: further flags of ``os.open``.

    Raises:
        OSError: the file exists or cannot be created.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | flags, PRIVATE)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new private file for writing, and remove it if the body fails.

    Raises FileExistsError if the path exists, or another OSError.
    """
    descriptor = open_private(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        _remove(path)
        raise


def ensure_file(path: Path) -> None:
    """Create an empty private file, unless it exists. For files that a library would make readable for all users.

    Raises OSError.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))


def make_directory(path: Path) -> None:
    """Create a private directory and its parents, unless it exists. Raises OSError."""
    path.mkdir(mode=DIRECTORY, parents=True, exist_ok=True)


def own_directory(path: Path) -> Path:
    """Create a directory for this user alone, or check the existing one.

    Raises:
        OSError: the directory cannot be created, or other users may write to it. The message has the remedy.
    """
    make_directory(path)
    check_directory(path)
    return path


def check_directory(path: Path) -> None:
    """Check that a directory belongs to this user alone, and is not a symbolic link.

    Raises:
        OSError: the directory does not exist, or other users may access it.
    """
    found = path.lstat()
    if sys.platform == "win32":
        return  # protected by the access list of the user's profile
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory of this user alone: remove it, or set XDG_RUNTIME_DIR")


def _write_temporary(path: Path, content: bytes, mode: int, *, durable: bool) -> Path:
    """Write a temporary file in the target's directory. Return its path. Raises OSError; no file is left then."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if mode != PRIVATE:
            temporary.chmod(mode)
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    """Wait until the new directory entry is on the disk. Raises nothing, because the file is in place already, and
    Windows and some file systems cannot do this for directories."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file if possible. Raises nothing, so that the caller's own error is raised."""
    with contextlib.suppress(OSError):
        path.unlink()
