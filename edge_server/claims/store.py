"""Claims on disk, so that a name stays its owner's through restarts and crashes; and who held what when."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from edge_server.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE: Final = "claims.db"
VERSION: Final = 1
BANNED: Final = ""
"""Whose names nobody may have: a tombstone's owner."""
MAX_EVENTS: Final = 200_000
"""Of the history, some 100 bytes each; the oldest are forgotten."""

_SCHEMA: Final = """
CREATE TABLE claim (
    what TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE history (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    name TEXT NOT NULL,
    port INTEGER NOT NULL,
    owner TEXT NOT NULL,
    host TEXT NOT NULL
) STRICT;
CREATE INDEX history_of_name ON history (name, number);
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is somebody's."""

    what: str
    """A name; a TCP port as ``:20022`` or a network as ``@203.0.113.0/24``, which no name can be. A network is
    only ever banned."""
    owner: str
    seen: int
    """When it was last in use: seconds since the epoch."""

    @property
    def is_banned(self) -> bool:
        return self.owner == BANNED


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a name."""

    at: int
    """Seconds since the epoch."""
    event: str
    """``held``, ``released`` or ``banned``."""
    name: str
    port: int
    """The TCP port that went with it; 0 for none."""
    owner: str
    host: str
    """From where its client came."""


class Store:
    """The database. Every method raises ConfigError when it cannot be read or written."""

    def __init__(self, directory: Path) -> None:
        self._database = Database(directory / FILE, _SCHEMA, VERSION)

    def close(self) -> None:
        self._database.close()

    def write(self, claims: Iterable[Claim]) -> None:
        with self._database.writing() as database:
            # What an operator has banned meanwhile stays so.
            database.executemany(
                "INSERT INTO claim VALUES (?, ?, ?) ON CONFLICT (what) DO UPDATE SET owner = excluded.owner, "
                "seen = excluded.seen WHERE owner <> ?",
                [(claim.what, claim.owner, claim.seen, BANNED) for claim in claims],
            )

    def ban(self, what: str, now: int) -> None:
        """Nobody may have it from now on."""
        with self._database.writing() as database:
            database.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", (what, BANNED, now))

    def remove(self, what: str) -> bool:
        """Anybody may have it from now on. Whether it was anybody's."""
        with self._database.writing() as database:
            return database.execute("DELETE FROM claim WHERE what = ?", (what,)).rowcount > 0

    def remove_old(self, before: int) -> None:
        if not self._database.exists:
            return
        with self._database.writing() as database:
            database.execute("DELETE FROM claim WHERE seen < ? AND owner <> ?", (before, BANNED))

    def record(self, events: Iterable[Event]) -> None:
        with self._database.writing() as database:
            database.executemany(
                "INSERT INTO history (at, event, name, port, owner, host) VALUES (?, ?, ?, ?, ?, ?)",
                [astuple(event) for event in events],
            )
            database.execute(
                "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?", (MAX_EVENTS,)
            )

    def history(self, name: str | None, most: int) -> list[Event]:
        """What happened last to a name, or to all of them, the oldest first."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT at, event, name, port, owner, host FROM history WHERE ?1 IS NULL OR name = ?1 "
                "ORDER BY number DESC LIMIT ?2",
                (name, most),
            ).fetchall()
        return [Event(*row) for row in reversed(rows)]

    def claims(self) -> list[Claim]:
        """All of them, by what they claim."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            return [Claim(*row) for row in database.execute("SELECT what, owner, seen FROM claim ORDER BY what")]

    def changes(self) -> int:
        """A number that changes when another process has written."""
        return self._database.changes()
