"""``quictunnel-edge backup``: write the persistent state of an edge into one tar file, to move it to another
machine. The edge may be running."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from edge_server.cli.common import EXIT_UNKNOWN, STATE_DIR
from edge_server.clients.qlog import DIRECTORY as TRACES
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import Command
from quictunnel.shared.files import new_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_PUBLISHED: Final = ("client.env", "admin.url", "public-address", "domain", "edge.sock", "edge.lock")
EXCLUDED_FILES: Final = frozenset((*_PUBLISHED, "held.db", "last-held", "quic.pem", "quic.key"))
"""Files of the current run: created again by the next one, or outdated after a minute (the snapshot of held names
and its file of an older version)."""
DATABASE_SUFFIX: Final = ".db"
"""Suffix of the databases, which are copied consistently."""
SQLITE_SUFFIXES: Final = (".db-wal", ".db-shm", ".db-journal")
"""Suffixes of SQLite's temporary files; the copy of the database includes their content."""


@click.command(
    cls=Command,
    help="Write the keys, tokens, owners of names and certificates of an edge into a tar file that only its "
    "owner can read. The edge may be running. To restore: tar --extract --file FILE --directory DIR, into an "
    "empty state directory, before the edge is started.",
)
@click.argument("file", help="the tar file, which must not exist yet; - is standard output")
@STATE_DIR
def backup(file: str, state_dir: Path) -> int:
    """Write the archive and return the exit status.

    Raises:
        ConfigError: the archive cannot be written, or a file of the state cannot be read.
    """
    if not (state_dir / "ca.key").exists():
        print(f"No state of an edge in {state_dir}.", file=sys.stderr)
        return EXIT_UNKNOWN
    try:
        if file == "-":
            write_backup(state_dir, sys.stdout.buffer)
        else:
            with new_file(Path(file)) as archive:
                write_backup(state_dir, archive)
    except FileExistsError:
        raise ConfigError(f"{file} exists already; choose another file.") from None
    except BrokenPipeError:
        raise  # the reader of standard output has closed it; the state directory is all right
    except OSError as error:
        raise ConfigError(str(error)) from None
    return 0


def write_backup(directory: Path, file: IO[bytes]) -> None:
    """Write the archive to ``file``, which need not be seekable. Raises ConfigError, OSError."""
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for path in _included_files(directory):
            name = str(path.relative_to(directory))
            if path.suffix == DATABASE_SUFFIX:
                with _database_copy(path) as copy:
                    archive.add(copy, name)
            else:
                with contextlib.suppress(FileNotFoundError):  # replaced in the meantime; the new file follows
                    archive.add(path, name, recursive=False)


def _included_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") for part in relative.parts) or relative.name in EXCLUDED_FILES:
            continue
        if relative.parts[0] == TRACES:  # up to a gigabyte, of no use on another machine
            continue
        if path.name.endswith(SQLITE_SUFFIXES) or not (path.is_dir() or path.is_file()):
            continue
        yield path


@contextlib.contextmanager
def _database_copy(path: Path) -> Iterator[Path]:
    """Provide a consistent copy of a database that may be in use (https://sqlite.org/backup.html)."""
    with tempfile.TemporaryDirectory(prefix="quictunnel-backup-") as temporary:
        copy = Path(temporary) / path.name
        try:
            with (
                contextlib.closing(sqlite3.connect(path)) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise ConfigError(f"{path} cannot be copied: {error}.") from None
        copy.chmod(0o600)
        yield copy
