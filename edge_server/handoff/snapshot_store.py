"""The table of held names, in a database of the state directory (:data:`FILE`).

It has a database separate from ``claims.db``, because its content is only useful for a minute. An edge starts
without it if it is damaged, writes are not synced to disk, backups leave it out, and its writes do not cause the
edge to read all claims again.

Each row is sealed (AES-256-GCM) and its key is a keyed hash of the name, because a random name is a secret. The
sealing key is derived from the ticket key, the domain and the writing run, so a row that was changed, or is from
another edge, domain or run, cannot be decrypted.

One run writes at a time. The first write of a run takes the table; a write of a run that has lost the table
changes nothing (:class:`AnotherWriterError`) while the other one writes; :data:`MAX_AGE` after its last write, the
table is taken back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_server.handoff.snapshot_entry import SnapshotEntry, is_valid, without_outdated_fields
from edge_server.storage.sqlite import DamagedDatabaseError, Database
from edge_server.tunnels.registry import MAX_LEASES_PER_EDGE, weight_of
from edge_server.tunnels.tickets import NONCE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FILE: Final = "held.db"
VERSION: Final = 1
MAX_WEIGHT: Final = MAX_LEASES_PER_EDGE
"""Sum of the weights (``weight_of``) of the names in the table: as many as the registry grants. Each lease of a
name weighs one, and one more for each 16 networks that it allows or denies. If there are more, as after a hot
restart of an edge with other limits, the tokens share the space."""
MAX_BYTES: Final = 12 * 1024 * 1024
"""Bytes of all rows: :data:`MAX_WEIGHT` names of maximum length, each with 16 allowed or denied networks
(1.1 KiB)."""
MAX_AGE: Final = 60.0
"""Seconds since a client was last connected after which its name is not kept: by then visitors have seen the
outage, and the client pauses for many seconds between its dials."""
RUN_BYTES: Final = 16
_STATE: Final = b"state"
"""Associated data with which the state of the run is sealed; a row has its key there, of 16 bytes."""

_UNREADABLE: Final = (InvalidTag, ValueError, TypeError, msgspec.MsgspecError)
"""Errors of a row that cannot be decrypted. ValueError: it is too short for a nonce. TypeError: it is NULL, which
is possible in a damaged database in spite of the schema."""

_SCHEMA: Final = """
CREATE TABLE held (
    key BLOB PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE run (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    writer BLOB NOT NULL,
    sealed BLOB NOT NULL
) STRICT
"""


class AnotherWriterError(Exception):
    """A later run writes the table."""


class _RunState(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The state of a run, stored with each write."""

    written_at: int
    """Time of the write (seconds since the epoch)."""
    is_last: bool
    """True if it was written at the stop, after which no name was assigned."""


@dataclass(frozen=True, slots=True)
class HeldNames:
    """The names that were held at a moment."""

    written_at: int
    """Time of that moment (seconds since the epoch)."""
    entries: list[SnapshotEntry]
    """The names, each with the time at which its client was last connected, without fields that may be
    outdated."""

    @classmethod
    def of(cls, entries: Iterable[SnapshotEntry], written_at: int, *, is_last: bool) -> HeldNames:
        """Return the names that a run wrote."""
        return cls(
            written_at,
            [
                SnapshotEntry(without_outdated_fields(record, is_last=is_last), last_connected or written_at)
                for record, last_connected in ((entry.record, entry.last_connected) for entry in entries)
            ],
        )


class _RowCipher:
    """Seals the rows of one run."""

    def __init__(self, key: bytes, domain: str, run: bytes) -> None:
        context = b"quictunnel held names 1 " + run + domain.encode()
        self._name_key = hmac.digest(key, b"name " + context, hashlib.sha256)
        self._cipher = AESGCM(hmac.digest(key, b"seal " + context, hashlib.sha256))

    def key_of(self, name: str) -> bytes:
        """Return the key of a name's row."""
        return hmac.digest(self._name_key, name.encode(), hashlib.sha256)[:16]

    def seal(self, key: bytes, content: SnapshotEntry | _RunState) -> bytes:
        """Return the sealed content of the row with this key."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode(content), key)

    def open(self, key: bytes, sealed: bytes) -> bytes:
        """Return the content of a row. Raises one of ``_UNREADABLE`` if it is not of this run."""
        return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], key)


class SnapshotStore:
    """The table. Its methods may be called in any thread, one at a time; they raise ConfigError, in one line, when
    the database cannot be used, and DamagedDatabaseError when only :meth:`discard` helps."""

    def __init__(self, directory: Path, key: bytes, domain: str) -> None:
        """Open nothing yet.

        Args:
            directory: the state directory.
            key: the key of the tickets.
            domain: the domain of the edge.
        """
        self.path = directory / FILE
        self._database = Database(self.path, _SCHEMA, VERSION, is_durable=False)
        self._key = key
        self._domain = domain
        self._run = os.urandom(RUN_BYTES)
        self._cipher = _RowCipher(key, domain, self._run)
        self._written: dict[str, SnapshotEntry] | None = None
        """The rows of this run; None if they are unknown."""
        self._has_written = False

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()

    def discard(self) -> None:
        """Remove the database; the next write creates it again."""
        self._written = None
        self._database.discard()

    def read(self) -> HeldNames | None:
        """Return the names that the last run has written; None if no run has."""
        if not self._database.exists:
            return None
        with self._database.reading() as database, database:
            database.execute("BEGIN")  # all of it as of one moment
            run = database.execute("SELECT writer, sealed FROM run").fetchone()
            count, size = database.execute("SELECT count(*), total(length(sealed)) FROM held").fetchone()
            if count > MAX_WEIGHT or size > MAX_BYTES:
                raise self._damaged(f"it has {count} names in {size:.0f} bytes, which is more than an edge writes")
            rows = database.execute("SELECT key, sealed FROM held LIMIT ?", (MAX_WEIGHT,)).fetchall()
        if run is None:
            return None
        try:
            cipher = _RowCipher(self._key, self._domain, run[0])
            state = msgspec.msgpack.decode(cipher.open(_STATE, run[1]), type=_RunState)
            entries = [msgspec.msgpack.decode(cipher.open(*row), type=SnapshotEntry) for row in rows]
        except _UNREADABLE:
            raise self._damaged("it is damaged, or of another --domain or ticket.key") from None
        if not is_valid(entries):
            raise self._damaged("it has names that no edge can have held")
        return HeldNames.of(entries, state.written_at, is_last=state.is_last)

    def write(self, entries: Iterable[SnapshotEntry], *, at: float, is_last: bool = False) -> bool:
        """Make these the rows of the table; only those that differ from the last write are written.

        Args:
            entries: the names that are held, each once.
            at: the time (seconds since the epoch).
            is_last: True at the stop.

        Returns:
            False if there are more than there is room for. The rest is written, with a fair share for each token.

        Raises:
            AnotherWriterError: a later run has taken the table. Nothing is written.
        """
        wanted = list(entries)
        chosen = select_fairly(wanted)
        self._write({entry.record.name: entry for entry in chosen}, _RunState(int(at), is_last))
        return len(chosen) == len(wanted)

    def stamp(self, at: float) -> bool:
        """Update the time of the last write alone.

        Returns:
            False if the rows have to be written first.

        Raises:
            AnotherWriterError: a later run has taken the table. Nothing is written.
        """
        if self._written is None or self._database.is_replaced:
            return False
        self._write(self._written, _RunState(int(at), is_last=False))
        return True

    def _write(self, entries: dict[str, SnapshotEntry], state: _RunState) -> None:
        if self._database.is_replaced:
            self._database.close()
        before, self._written = self._written, None  # unknown if the transaction fails
        sealed = self._cipher.seal(_STATE, state)
        with self._database.writing() as database:
            # The first statement takes the lock, so no other run writes between it and the end.
            query = "UPDATE run SET sealed = ? WHERE writer = ?"
            if not database.execute(query, (sealed, self._run)).rowcount:
                self._take(database, state.written_at, sealed)
                before = None
            if before is None:
                database.execute("DELETE FROM held")
                before = {}
            gone = [name for name in before if name not in entries]
            database.executemany("DELETE FROM held WHERE key = ?", ((self._cipher.key_of(name),) for name in gone))
            database.executemany("INSERT OR REPLACE INTO held VALUES (?, ?)", self._changed(before, entries))
        self._written, self._has_written = entries, True

    def _take(self, database: sqlite3.Connection, now: int, sealed: bytes) -> None:
        """Take the table from the run that wrote last. Raises AnotherWriterError."""
        other = database.execute("SELECT writer, sealed FROM run").fetchone()
        if other is not None and self._has_written and self._is_running(*other, now=now):
            raise AnotherWriterError
        database.execute("INSERT OR REPLACE INTO run VALUES (1, ?, ?)", (self._run, sealed))

    def _is_running(self, run: bytes, sealed: bytes, *, now: int) -> bool:
        """Return True if that run has written within :data:`MAX_AGE` seconds."""
        try:
            content = _RowCipher(self._key, self._domain, run).open(_STATE, sealed)
            return abs(now - msgspec.msgpack.decode(content, type=_RunState).written_at) <= MAX_AGE
        except _UNREADABLE:
            return False

    def _changed(
        self, before: dict[str, SnapshotEntry], entries: dict[str, SnapshotEntry]
    ) -> Iterator[tuple[bytes, bytes]]:
        for name, entry in entries.items():
            if before.get(name) != entry:
                key = self._cipher.key_of(name)
                yield key, self._cipher.seal(key, entry)

    def _damaged(self, why: str) -> DamagedDatabaseError:
        return DamagedDatabaseError(f"{self.path} cannot be used: {why}.")


def select_fairly(entries: list[SnapshotEntry], limit: int = MAX_WEIGHT) -> list[SnapshotEntry]:
    """Return the entries that fit into the limit.

    If there are too many, each owner gets the same space (max-min fairness): owners that need less keep all of
    their entries, and the others share the rest.

    Args:
        entries: all entries; the first ones of each owner are preferred.
        limit: the maximum sum of their weights.
    """
    by_owner: dict[str, list[SnapshotEntry]] = defaultdict(list)
    weights: dict[str, int] = defaultdict(int)
    for entry in entries:
        by_owner[entry.record.owner].append(entry)
        weights[entry.record.owner] += weight_of(entry.record.options)
    if sum(weights.values()) <= limit:
        return entries
    selected: list[SnapshotEntry] = []
    owners = sorted(weights, key=lambda owner: (weights[owner], owner))
    for position, owner in enumerate(owners):
        room = limit // (len(owners) - position)
        for entry in by_owner[owner]:
            weight = weight_of(entry.record.options)
            if weight <= room:
                selected.append(entry)
                room -= weight
                limit -= weight
    return selected
