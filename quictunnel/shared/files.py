"""Files that are written whole or not at all, and that only their owner can read.

The content is written to a new file beside the target (``.NAME.xxxxxxxx``), which then takes the target's name.
Readers see the old content or the new, never a part; so does the next start after a crash. Of several writers, the
last one wins. A crash between the two steps leaves the new file beside the target, and nothing reads it.

The new file has mode 0600 from the first moment, whatever the umask and the mode of a file that it replaces. It is
opened exclusively, so a symbolic link that somebody has planted is never followed: one at the target's name is
replaced. On Windows the user's profile protects the files, and modes have no effect.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE: Final = 0o600
"""Mode of a file with a secret: its owner can read and write it."""
PUBLIC: Final = 0o644
"""Mode of a file that everybody can read, such as a certificate."""
DIRECTORY: Final = 0o700
"""Mode of a directory with secrets."""


class FileIdentity(NamedTuple):
    """A written file, as opposed to one of the same name and content that somebody else wrote."""

    inode: int
    modified: int
    """Time in nanoseconds, because numbers of inodes are used again."""

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of a file with this status."""
        return cls(status.st_ino, status.st_mtime_ns)


def replace_file(path: Path, content: bytes, *, mode: int = PRIVATE, durable: bool = True) -> FileIdentity:
    """Write a file atomically, in place of one that may exist. Return its identity.

    Args:
        path: of the file; its directory exists.
        content: all of it.
        mode: permissions, independent of the umask.
        durable: wait until the disk has it, so that it also outlives a crash of the machine. False for files of
            the current run.

    Raises:
        OSError: it cannot be written, for example on a full disk. The old file is unchanged then.
    """
    aside, identity = _write_aside(path, content, mode, durable=durable)
    try:
        aside.replace(path)
    except BaseException:
        _remove(aside)
        raise
    if durable:
        _sync_directory(path.parent)
    return identity


def create_once(path: Path, content: bytes) -> None:
    """Write a private file atomically, unless there is one of that name.

    A link is atomic: of two processes that start together exactly one wins, and both continue with its file.
    Raises OSError if the file can be neither found nor written.
    """
    aside, _ = _write_aside(path, content, PRIVATE, durable=True)
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        pass
    finally:
        _remove(aside)
    _sync_directory(path.parent)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new private file for writing, and remove it if the body fails.

    Raises FileExistsError if there is anything of that name, and OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        _remove(path)
        raise


def ensure_file(path: Path) -> None:
    """Create an empty private file, unless there is one. For libraries that would make it readable for all users.
    Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))


def make_directory(path: Path) -> None:
    """Create a private directory and its parents, unless there is one. Raises OSError."""
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
    """Check that a directory belongs to this user alone, and is no symbolic link.

    Raises:
        OSError: the directory does not exist, or other users may access it.
    """
    found = path.lstat()
    if sys.platform == "win32":
        return  # protected by the access list of the user's profile
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory of this user alone: remove it, or set XDG_RUNTIME_DIR")


def _write_aside(path: Path, content: bytes, mode: int, *, durable: bool) -> tuple[Path, FileIdentity]:
    """Write a new file beside the target. Return its path and its identity, which it keeps when it is renamed.
    Raises OSError; nothing is left then."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            identity = FileIdentity.of(os.fstat(file.fileno()))
        if mode != PRIVATE:
            aside.chmod(mode)
    except BaseException:
        _remove(aside)
        raise
    return aside, identity


def _sync_directory(directory: Path) -> None:
    """Wait until the disk has the new name. The file is in place already, so nothing is raised: Windows and some
    file systems cannot do this for directories."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file if that is possible; the error that led here is the one to raise."""
    with contextlib.suppress(OSError):
        path.unlink()
