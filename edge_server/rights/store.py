"""Tokens on disk: a SQLite database in the state directory, of hashes, rights and dates.

The edge reads it, and so does ``python -m edge_server token``, which also writes; SQLite's write-ahead log lets
both go on at once (https://sqlite.org/wal.html). What a token itself says is nowhere in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.rights.identity import Identity, Rights
from edge_server.rights.token import digest_of, new_token
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE: Final = "tokens.db"
VERSION: Final = 1
"""Of the schema (``PRAGMA user_version``)."""
BUSY_SECONDS: Final = 5.0
"""For another process to finish what it writes."""
MAX_NOTE: Final = 200

_SCHEMA: Final = """
CREATE TABLE token (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    note TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER,
    rights TEXT NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One token, as the database has it."""

    key: str
    digest: bytes
    note: str
    created: int
    """Seconds since the epoch, as is ``revoked``."""
    revoked: int | None
    rights: Rights

    @property
    def identity(self) -> Identity:
        return Identity(self.key, self.rights)

    def state(self, now: float) -> str:
        """``good``, ``revoked`` or ``expired``."""
        if self.revoked is not None:
            return "revoked"
        expires = self.rights.expires
        return "expired" if expires is not None and expires <= now else "good"


class Store:
    """The database. Every method raises ConfigError, in one line, when it cannot be read or written."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def create(self, rights: Rights, note: str, now: int) -> tuple[str, Entry]:
        """A new token, which is told this once, and its entry."""
        key, token = new_token()
        entry = Entry(key, digest_of(token), note[:MAX_NOTE], now, None, rights)
        with self._writing() as database:
            database.execute(
                "INSERT INTO token VALUES (?, ?, ?, ?, NULL, ?)",
                (entry.key, entry.digest, entry.note, entry.created, _written(rights)),
            )
        return token, entry

    def revoke(self, key: str, now: int) -> bool:
        """Whether there was such a token. One that is revoked stays so, and is kept for the record."""
        with self._writing() as database:
            database.execute("UPDATE token SET revoked = ? WHERE key = ? AND revoked IS NULL", (now, key))
            return database.execute("SELECT 1 FROM token WHERE key = ?", (key,)).fetchone() is not None

    def entries(self) -> list[Entry]:
        """All of them, oldest first; none when no token was ever made."""
        if self._connection is None and not self._path.exists():
            return []
        with self._trouble():
            rows = self._open().execute(
                "SELECT key, digest, note, created, revoked, rights FROM token ORDER BY created, key"
            )
            return [Entry(key, digest, note, created, revoked, _read(rights))
                    for key, digest, note, created, revoked, rights in rows]  # fmt: skip

    def version(self) -> int:
        """A number that changes when another process has written (``PRAGMA data_version``)."""
        if self._connection is None and not self._path.exists():
            return 0
        with self._trouble():
            (version,) = self._open().execute("PRAGMA data_version").fetchone()
            return int(version)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._trouble():
            database = self._open()
            with database:
                yield database

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"The tokens in {self._path} cannot be used: {error}.") from None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        # Made here, because SQLite would make it readable for everybody.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self._path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # A revocation that was answered for must be there after a crash of the machine.
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
            if version == 0:
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise ConfigError(f"{self._path} is of another version of quictunnel ({version}, not {VERSION}).")


def _written(rights: Rights) -> str:
    ports = rights.tcp_ports
    return json.dumps(
        {
            "tunnels": rights.tunnels,
            "visitors": rights.visitors,
            "tcp_ports": None if ports is None else [ports.start, ports.stop],
            "expires": rights.expires,
        }
    )


def _read(text: str) -> Rights:
    fields = json.loads(text)
    ports = fields.pop("tcp_ports")
    # Something that is not known here would be a right that is not enforced: TypeError, and no edge.
    return Rights(tcp_ports=None if ports is None else range(*ports), **fields)
