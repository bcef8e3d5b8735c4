"""Claims on disk, so that a name stays its owner's through restarts and crashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE: Final = "claims.db"
VERSION: Final = 1
BANNED: Final = ""
"""Whose names nobody may have: a tombstone's owner."""

_SCHEMA: Final = """
CREATE TABLE claim (
    what TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is somebody's."""

    what: str
    """A name, or a TCP port as ``:20022``, which no name can be."""
    owner: str
    seen: int
    """When it was last in use: seconds since the epoch."""

    @property
    def is_banned(self) -> bool:
        return self.owner == BANNED


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
        with self._database.writing() as database:
            database.execute("DELETE FROM claim WHERE seen < ? AND owner <> ?", (before, BANNED))

    def claims(self) -> list[Claim]:
        """All of them, by what they claim."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            return [Claim(*row) for row in database.execute("SELECT what, owner, seen FROM claim ORDER BY what")]

    def changes(self) -> int:
        """A number that changes when another process has written."""
        return self._database.changes()
