"""The database of claims, which survive restarts and crashes, and of the history of names by day."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_server.storage.sqlite import Database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

FILE: Final = "claims.db"
VERSION: Final = 2
BANNED_OWNER: Final = ""
"""Owner of banned names."""
DAY: Final = 86_400
MAX_DAYS: Final = 90
"""Days of history that are kept. Only days with tunnels count, so a clock that jumps deletes nothing."""
MAX_NAMES_A_DAY: Final = 4000
"""Names in the history of one owner and day, some 150 bytes each: more than the limit of new names in a day
(:mod:`edge_server.auth.request_limit`) and the names that the owner has already. Further names share one entry."""
OTHERS: Final = ""
"""The name of that shared entry."""

_HISTORY: Final = """
CREATE TABLE history (
    number INTEGER PRIMARY KEY,
    day INTEGER NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    port INTEGER NOT NULL,
    host TEXT NOT NULL,
    last_host TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    held INTEGER NOT NULL,
    released INTEGER NOT NULL,
    banned INTEGER NOT NULL,
    visitors INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX history_of_day ON history (owner, day, name);
CREATE INDEX history_of_name ON history (name, number);
CREATE INDEX days_of_history ON history (day, number)
"""
_SCHEMA: Final = f"""
CREATE TABLE claim (
    what TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
{_HISTORY}
"""
_SUMMED: Final = """
INSERT INTO history
    SELECT NULL, of.day, of.owner, of.name, of.port, first.host, last.host, of.since, of.until,
        of.held, of.released, of.banned, 0
    FROM (
        SELECT at / 86400 AS day, owner, name, max(port) AS port, min(number) AS first, max(number) AS last,
            min(at) AS since, max(at) AS until,
            sum(event = 'held') AS held, sum(event = 'released') AS released, sum(event = 'banned') AS banned
        FROM event GROUP BY at / 86400, owner, name
    ) AS of
    JOIN event AS first ON first.number = of.first
    JOIN event AS last ON last.number = of.last
    ORDER BY of.first
"""
_FROM_1: Final = (
    "ALTER TABLE history RENAME TO event",
    "DROP INDEX history_of_name",
    _HISTORY,
    _SUMMED,
    "DROP TABLE event",
)
"""Statements that upgrade version 1, which had a row for each event, at most 200,000 for all owners together."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The ownership of a name or port, or the ban of a name, port or network."""

    subject: str
    """A name, a TCP port as ``:20022``, or a network as ``@203.0.113.0/24`` (``:`` and ``@`` are not valid in
    names). Networks can only be banned."""
    owner: str
    last_used: int
    """Time of its last use: seconds since the epoch."""

    @property
    def is_banned(self) -> bool:
        """Return True if this is a ban."""
        return self.owner == BANNED_OWNER


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Totals of the events of one name, owner and day."""

    day: int
    """Days since the epoch, in UTC."""
    owner: str
    name: str
    """:data:`OTHERS` for the shared entry of names beyond the limit."""
    port: int
    """The latest TCP port of its tunnel; 0 for none."""
    host: str
    """Address of the first client of the day; ``last_host`` is that of the last one."""
    last_host: str
    since: int
    """Time of the first event (seconds since the epoch); ``until`` is that of the last one."""
    until: int
    held: int
    """Number of times that the name was bound; ``released`` and ``banned`` count likewise."""
    released: int
    banned: int
    visitors: int
    """Visitors of the leases that were released."""

    @classmethod
    def of(
        cls, event: str, at: int, *, name: str, owner: str, port: int = 0, host: str = "", visitors: int = 0
    ) -> HistoryEntry:
        """Return the entry of one event: ``held``, ``released``, ``banned``, or ``in_use`` for a name that is
        still held."""
        counts = {each: int(each == event) for each in ("held", "released", "banned")}
        return cls(
            day=at // DAY,
            owner=owner,
            name=name,
            port=port,
            host=host,
            last_host=host,
            since=at,
            until=at,
            visitors=visitors,
            **counts,
        )

    def joined(self, later: HistoryEntry) -> HistoryEntry:
        """Return the sum of this entry and a later one."""
        return replace(
            self,
            port=later.port or self.port,
            host=self.host or later.host,
            last_host=later.last_host or self.last_host,
            since=min(self.since, later.since),
            until=max(self.until, later.until),
            held=self.held + later.held,
            released=self.released + later.released,
            banned=self.banned + later.banned,
            visitors=self.visitors + later.visitors,
        )

    def without(self, written: HistoryEntry) -> HistoryEntry:
        """Return this entry without the counts that have been written."""
        return replace(
            self,
            held=self.held - written.held,
            released=self.released - written.released,
            banned=self.banned - written.banned,
            visitors=self.visitors - written.visitors,
        )


_INSERT: Final = """
INSERT INTO history VALUES (NULL, :day, :owner, :name, :port, :host, :last_host, :since, :until, :held, :released,
    :banned, :visitors)
"""
_UPDATE: Final = """
UPDATE history SET
    port = iif(:port, :port, port),
    host = iif(host = '', :host, host),
    last_host = iif(:last_host = '', last_host, :last_host),
    since = min(since, :since),
    until = max(until, :until),
    held = held + :held,
    released = released + :released,
    banned = banned + :banned,
    visitors = visitors + :visitors
WHERE owner = :owner AND day = :day AND name = :name
"""


class OwnershipStore:
    """The database. Every method raises ConfigError when it cannot be read or written."""

    def __init__(self, directory: Path) -> None:
        self._database = Database(directory / FILE, _SCHEMA, VERSION, {1: _FROM_1})

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def write(self, claims: Iterable[Claim]) -> None:
        """Write claims, except those that an operator has banned meanwhile."""
        with self._database.writing() as database:
            database.executemany(
                "INSERT INTO claim VALUES (?, ?, ?) ON CONFLICT (what) DO UPDATE SET owner = excluded.owner, "
                "seen = excluded.seen WHERE owner <> ?",
                [(claim.subject, claim.owner, claim.last_used, BANNED_OWNER) for claim in claims],
            )

    def ban(self, subject: str, now: int) -> None:
        """Ban a name, port or network."""
        with self._database.writing() as database:
            database.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", (subject, BANNED_OWNER, now))

    def remove(self, subject: str) -> bool:
        """Remove a claim or a ban. Return False if there is none."""
        with self._database.writing() as database:
            return database.execute("DELETE FROM claim WHERE what = ?", (subject,)).rowcount > 0

    def remove_these(self, claims: Iterable[Claim]) -> None:
        """Remove claims, except those that have changed in the database since."""
        with self._database.writing() as database:
            database.executemany(
                "DELETE FROM claim WHERE what = ? AND owner = ? AND seen <= ?",
                [astuple(claim) for claim in claims],
            )

    def add_to_history(self, entries: Iterable[HistoryEntry]) -> None:
        """Add entries to the history. An owner's names beyond the limit of a day are added to their shared
        entry."""
        with self._database.writing() as database:
            days_before = _days(database)
            for entry in entries:
                _add(database, entry)
            if _days(database) > days_before:
                database.execute(
                    "DELETE FROM history WHERE day IN (SELECT day FROM history GROUP BY day "
                    "ORDER BY max(number) DESC LIMIT -1 OFFSET ?)",
                    (MAX_DAYS,),
                )

    def history(self, name: str | None, most: int, owner: str | None = None) -> list[HistoryEntry]:
        """Return the latest ``most`` entries, oldest first: of one name, of one owner, or of all."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT day, owner, name, port, host, last_host, since, until, held, released, banned, visitors "
                "FROM history WHERE (?1 IS NULL OR name = ?1) AND (?2 IS NULL OR owner = ?2) "
                "ORDER BY until DESC, number DESC LIMIT ?3",
                (name, owner, most),
            ).fetchall()
        return [HistoryEntry(*row) for row in reversed(rows)]

    def claims(self) -> list[Claim]:
        """Return all claims and bans, sorted by name."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            return [Claim(*row) for row in database.execute("SELECT what, owner, seen FROM claim ORDER BY what")]

    def changes(self) -> int:
        """Return a number that changes when another process has written."""
        return self._database.changes()


def _days(database: sqlite3.Connection) -> int:
    """Return the number of days in the history, with one index lookup for each day."""
    query = (
        "WITH RECURSIVE d(day) AS (SELECT min(day) FROM history UNION ALL "
        "SELECT (SELECT min(day) FROM history WHERE day > d.day) FROM d WHERE d.day IS NOT NULL) "
        "SELECT count(day) FROM d"
    )
    return int(database.execute(query).fetchone()[0])


def _add(database: sqlite3.Connection, entry: HistoryEntry) -> None:
    for each in (entry, replace(entry, name=OTHERS)):
        fields = asdict(each)
        if database.execute(_UPDATE, fields).rowcount:
            return
        (count,) = database.execute(
            "SELECT count(*) FROM history WHERE owner = ? AND day = ?", (each.owner, each.day)
        ).fetchone()
        if count < MAX_NAMES_A_DAY or each.name == OTHERS:
            database.execute(_INSERT, fields)
            return
