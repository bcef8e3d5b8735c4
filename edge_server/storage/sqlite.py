"""A SQLite database in the state directory, with one way to open, create and migrate it.

The edge and the commands beside it (``quictunnel-edge token``, ``name``) use it at the same time; SQLite's
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
_DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB))
"""Error codes of a file that SQLite, or this version's SQL, cannot read; ERROR: a table is missing."""


class DamagedDatabaseError(ConfigError):
    """The file is no database, is damaged, or is of another version."""


class Database:
    """A file with one schema. Every method raises ConfigError, in one line, when the file cannot be read or
    written. Threads may use it one after another, never two at once."""

    def __init__(
        self,
        path: Path,
        schema: str,
        version: int,
        changes: Mapping[int, Sequence[str]] = MappingProxyType({}),
        *,
        is_durable: bool = True,
    ) -> None:
        """Open nothing yet.

        Args:
            path: of the file.
            schema: SQL that creates the tables.
            version: of the schema (``PRAGMA user_version``).
            changes: by version, the statements that migrate a database to the next version.
            is_durable: True if each write has to survive a crash of the machine; False if it has to survive only
                that of the process, which does not wait for the disk.
        """
        self._path = path
        self._schema = schema
        self._version = version
        self._changes = changes
        self._is_durable = is_durable
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    @property
    def exists(self) -> bool:
        """Return True if the database was ever written."""
        return self._connection is not None or self._path.exists()

    @property
    def is_replaced(self) -> bool:
        """Return True if the open file is not the one at the path any more: it was removed or replaced."""
        if self._connection is None:
            return False
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def discard(self) -> None:
        """Remove the database with all that is in it; the next use creates it again. Raises ConfigError."""
        self.close()
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be removed: {error}.") from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection, opened on first use. Raises ConfigError for every SQLite and file error
        inside."""
        try:
            yield self._open()
        except UnicodeDecodeError:  # in a text of a damaged file, or in SQLite's message about it
            raise DamagedDatabaseError(f"{self._path} cannot be used: it is damaged.") from None
        except (sqlite3.Error, OSError) as error:
            is_damaged = isinstance(error, sqlite3.Error) and _code_of(error) in _DAMAGED
            kind = DamagedDatabaseError if is_damaged else ConfigError
            raise kind(f"{self._path} cannot be used: {error}.") from None

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
            database.execute(f"PRAGMA synchronous = {'FULL' if self._is_durable else 'NORMAL'}")
            self._prepare(database)
            self._inode = self._path.stat().st_ino
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
                raise DamagedDatabaseError(
                    f"{self._path} is of another version of quictunnel ({version}, not {self._version})."
                )
            for statement in ";".join(statements).split(";"):  # executescript would commit before all is done
                database.execute(statement)
            if statements:
                database.execute(f"PRAGMA user_version = {version}")


def _code_of(error: sqlite3.Error) -> int:
    """Return the primary error code; 0 if SQLite gave none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
