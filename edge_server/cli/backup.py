"""``python -m edge_server backup``: write the persistent state of an edge into one tar file, to move it to another
machine. The edge may be running."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, add_state_dir
from edge_server.clients.qlog import DIRECTORY as TRACES
from quictunnel.errors import ConfigError
from quictunnel.shared.files import new_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXCLUDED_FILES: Final = frozenset(
    ("client.env", "edge.sock", "admin.url", "held.db", "last-held", "quic.pem", "quic.key")
)
"""Files of the current run: created again by the next one, or outdated after a minute (the snapshot of held names
and its file of an older version)."""
DATABASE_SUFFIX: Final = ".db"
"""Suffix of the databases, which are copied consistently."""
SQLITE_SUFFIXES: Final = (".db-wal", ".db-shm", ".db-journal")
"""Suffixes of SQLite's temporary files; the copy of the database includes their content."""


def main(argv: Sequence[str]) -> int:
    """Run the command. Return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_server backup",
        description="Write the keys, tokens, claims and certificates of an edge into a tar file that only its "
        "owner can read. The edge may be running. To restore: tar --extract --file FILE --directory "
        "DIR, into an empty state directory, before the edge is started.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file", metavar="FILE", help="the tar file, which must not exist yet; - is standard output"
    )
    add_state_dir(parser)
    options = parser.parse_args(argv)
    directory: Path = options.state_dir
    if not (directory / "ca.key").exists():
        print(f"No state of an edge in {directory}.", file=sys.stderr)
        return EXIT_UNKNOWN
    try:
        if options.file == "-":
            write_backup(directory, sys.stdout.buffer)
        else:
            with new_file(Path(options.file)) as file:
                write_backup(directory, file)
    except BrokenPipeError:
        raise  # the reader of standard output has closed it, which is no fault of the directory
    except (ConfigError, OSError) as error:
        print(f"edge_server: error: {error}", file=sys.stderr)
        return EXIT_CONFIG
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
    with tempfile.TemporaryDirectory(prefix="quictunnel-backup-") as place:
        copy = Path(place) / path.name
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
