"""A SQLite database in the state directory, with one way to open, create and migrate it.

The edge and the commands beside it (``python -m edge_server token``, ``name``) use it at the same time; SQLite's
write-ahead log allows that (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import sqlite3
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.files import ensure_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process to finish its write."""


class Database:
    """A file with one schema. Every method raises ConfigError, in one line, when the file cannot be read or
    written. Threads may use it one after another, never two at once."""

    def __init__(
        self, path: Path, schema: str, version: int, changes: Mapping[int, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Open nothing yet.

        Args:
            path: of the file.
            schema: SQL that creates the tables.
            version: of the schema (``PRAGMA user_version``).
            changes: by version, the statements that migrate a database to the next version.
        """
        self._path = path
        self._schema = schema
        self._version = version
        self._changes = changes
        self._connection: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Return True if the database was ever written."""
        return self._connection is not None or self._path.exists()

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection, opened on first use. Raises ConfigError for every SQLite and file error
        inside."""
        try:
            yield self._open()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"{self._path} cannot be used: {error}.") from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection within a transaction: everything is written, or nothing."""
        with self.reading() as database, database:
            yield database

    def changes(self) -> int:
        """Return a number that changes after another process has written (``PRAGMA data_version``)."""
        if not self.exists:
            return 0
        with self.reading() as database:
            (version,) = database.execute("PRAGMA data_version").fetchone()
            return int(version)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        # Created here, because SQLite would make the file readable for all users.
        ensure_file(self._path)
        database = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # A confirmed write, a revocation above all, must survive a crash of the machine.
            database.execute("PRAGMA synchronous = FULL")
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        self._connection = database
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            statements: list[str] = []
            if version == 0:
                statements, version = [self._schema], self._version
            while version in self._changes:
                statements += self._changes[version]
                version += 1
            if version != self._version:
                raise ConfigError(
                    f"{self._path} is of another version of quictunnel ({version}, not {self._version})."
                )
            for statement in ";".join(statements).split(";"):  # executescript would commit before all is done
                database.execute(statement)
            if statements:
                database.execute(f"PRAGMA user_version = {version}")
