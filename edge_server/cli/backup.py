"""``python -m edge_server backup``: what an edge needs to be the same again on another machine, in one tar file.
The edge may run meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, add_state_dir
from edge_server.clients.qlog import DIRECTORY as TRACES
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEFT_OUT: Final = frozenset(("client.env", "edge.sock", "admin.url", "last-held", "quic.pem", "quic.key"))
"""Of the run, and made anew by the next, or of use for a minute (``lastheld``)."""
DATABASE: Final = ".db"
_PARTS: Final = (".db-wal", ".db-shm", ".db-journal")
"""Of databases that are in use; their content is in the copy."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_server backup",
        description="Write the keys, tokens, claims and certificates of an edge into a tar file that only its "
        "owner may read. The edge may run meanwhile. To have them back: tar --extract --file FILE --directory "
        "DIR, into an empty state directory, before the edge is started.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="which must not exist yet; - is standard output")
    add_state_dir(parser)
    options = parser.parse_args(argv)
    directory: Path = options.state_dir
    if not (directory / "ca.key").exists():
        print(f"There is no edge's state in {directory}.", file=sys.stderr)
        return EXIT_UNKNOWN
    try:
        if options.file == "-":
            write(directory, sys.stdout.buffer)
        else:
            descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                write(directory, file)
    except BrokenPipeError:
        raise  # whoever was to read it has left, which is no fault of the directory
    except (ConfigError, OSError) as error:
        print(f"edge_server: error: {error}", file=sys.stderr)
        return EXIT_CONFIG
    return 0


def write(directory: Path, file: IO[bytes]) -> None:
    """Into a file that need not be one that can be sought in. Raises ConfigError, OSError."""
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for path in _kept(directory):
            name = str(path.relative_to(directory))
            if path.suffix == DATABASE:
                with _copied(path) as copy:
                    archive.add(copy, name)
            else:
                with contextlib.suppress(FileNotFoundError):  # replaced by another that is to come
                    archive.add(path, name, recursive=False)


def _kept(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") for part in relative.parts) or relative.name in LEFT_OUT:
            continue
        if relative.parts[0] == TRACES:  # up to a gigabyte that is of no use there
            continue
        if path.name.endswith(_PARTS) or not (path.is_dir() or path.is_file()):
            continue
        yield path


@contextlib.contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """A database as of one moment, whoever writes to it (https://sqlite.org/backup.html)."""
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
