"""Ownership of public names and TCP ports, which persists between runs.

Lookups use memory only. :meth:`NameOwnership.synchronise` writes changes to the database and reads the changes
that operator commands have made there. It runs twice a second in another thread, so a crash of the machine loses
only the claims of the last half second.

A claim lasts until :meth:`NameOwnership.remove_expired` removes it. This method keeps the claims of names in use,
and is only called while the edge's clock is settled (:mod:`edge_server.storage.steady_clock`), so that a wrong
clock removes nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.resources.shares import Shares
from edge_server.tunnels.ownership_store import Claim, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from edge_server.tunnels.ownership_store import OwnershipStore

MAX_UNUSED_DAYS: Final = 30
"""Days for which an unused name stays with its owner: longer than a holiday, so that its visitors do not reach
another owner in the meantime."""
MAX_UNUSED_SECONDS: Final = MAX_UNUSED_DAYS * 86_400
MARK_USED_INTERVAL: Final = 86_400
"""Seconds after which the time of a claim in use is written again."""
MAX_CLAIMS: Final = 100
"""Names and ports together that one identity may claim: as many as a session may hold. Without a limit, one
identity could claim all good names."""
MAX_UNWRITTEN: Final = 10_000
"""Names with unwritten events; each owner may have its share of them. Events beyond that are dropped: within half
a second, or while the database cannot be written."""


class HeldTunnel(Protocol):
    """A tunnel as the history uses it."""

    @property
    def name(self) -> str:
        """Return the name."""

    @property
    def tcp_port(self) -> int:
        """Return the number of the TCP port; 0 for none."""

    @property
    def owner(self) -> str:
        """Return the key of the token."""


class NameOwnership:
    """The owners of names and ports, in memory and in the database."""

    def __init__(self, store: OwnershipStore, now: Callable[[], float] = time.time) -> None:
        """Read the database. ``now``: returns seconds since the epoch. Raises ConfigError if it cannot be read."""
        self._store = store
        self._now = now
        self._claims: dict[str, Claim] = {}
        self._by_owner: dict[str, set[str]] = {}
        """Names and ports by owner."""
        self._changed: dict[str, Claim] = {}
        self._removed: dict[str, Claim] = {}
        """Claims to remove from the database."""
        self._events: dict[tuple[int, str, str], HistoryEntry] = {}
        self._event_shares = Shares(MAX_UNWRITTEN)
        self._lock = threading.Lock()
        """Protects the pending changes and events, which the loop's thread and the writing thread both use."""
        self._version = -1
        self._claims_read: list[Claim] | None = None
        self.synchronise()
        self.apply_read()

    def owner(self, subject: str) -> str | None:
        """Return the owner of a name or port; BANNED_OWNER if the operator has banned it, None if it is free."""
        claim = self._claims.get(subject)
        return None if claim is None else claim.owner

    def may_claim(self, owner: str, subject: str) -> bool:
        """Return True if an owner has this claim already, or is below the limit of claims."""
        return self.owner(subject) == owner or len(self._by_owner.get(owner, ())) < MAX_CLAIMS

    def claim(self, owner: str, subject: str) -> None:
        """Assign a name or port to an owner, and record that it is in use now.

        It has to be free or the owner's already, and :meth:`may_claim` has to return True.
        """
        self._change(Claim(subject, owner, int(self._now())))

    def mark_used(self, owner: str, subject: str) -> None:
        """Record that a claim is in use, or was until now."""
        claim = self._claims.get(subject)
        if claim is not None and claim.owner == owner and claim.last_used < self._now() - MARK_USED_INTERVAL:
            self.claim(owner, subject)

    def remove_expired(self, in_use: Container[str]) -> None:
        """Remove the claims that were unused for :data:`MAX_UNUSED_SECONDS` seconds.

        Call it only while the clock is settled.

        Args:
            in_use: names and ports whose claims stay.
        """
        oldest = self._now() - MAX_UNUSED_SECONDS
        for subject, claim in tuple(self._claims.items()):
            if claim.last_used < oldest and not claim.is_banned and subject not in in_use:
                self._drop(subject)
                with self._lock:
                    self._changed.pop(subject, None)
                    self._removed[subject] = claim

    def clock_changed(self, forward: float) -> None:
        """Move the times of claims with a clock that was set forward by this many seconds, so that none expires.

        After a clock was set back (``forward`` is negative), claims are kept longer by that time.
        """
        if forward <= 0:
            return
        for claim in tuple(self._claims.values()):
            if not claim.is_banned:
                self._change(replace(claim, last_used=claim.last_used + int(forward)))

    def add_to_history(self, event: str, tunnel: HeldTunnel, address: str, visitors: int = 0) -> None:
        """Add an event of a name to the history.

        Args:
            event: as in ``HistoryEntry.of``.
            tunnel: the tunnel that has the name.
            address: address of its client; empty where none takes part.
            visitors: number of visitors that the client served, if it releases the name.
        """
        owner = tunnel.owner
        fresh = HistoryEntry.of(
            event,
            int(self._now()),
            name=tunnel.name,
            port=tunnel.tcp_port,
            owner=owner,
            host=address,
            visitors=visitors,
        )
        key = fresh.day, fresh.owner, fresh.name
        with self._lock:
            earlier = self._events.get(key)
            if earlier is None:
                if not self._event_shares.may_take(owner):
                    return
                self._event_shares.take(owner)
            self._events[key] = fresh if earlier is None else earlier.joined(fresh)

    def banned_networks(self) -> list[str]:
        """Return the networks from which neither visitors nor clients are admitted."""
        return [subject[1:] for subject, claim in self._claims.items() if subject[0] == "@" and claim.is_banned]

    def is_free_to(self, owner: str, port: int) -> bool:
        """Return True if a TCP port has no other owner."""
        return self.owner(f":{port}") in (None, owner)

    def close(self) -> None:
        """Write the pending changes, and close the database."""
        self.synchronise()
        self._store.close()

    def synchronise(self) -> None:
        """Write the pending changes and read the changes of others; may be called in any thread.

        :meth:`apply_read` has to follow in the loop's thread. Raises ConfigError; the changes then stay pending.
        """
        with self._lock:
            changed, removed = tuple(self._changed.values()), tuple(self._removed.values())
        if removed:
            self._store.remove_these(removed)
        if changed:
            self._store.write(changed)
        with self._lock:
            for table, done in ((self._changed, changed), (self._removed, removed)):
                for claim in done:
                    if table.get(claim.subject) is claim:
                        del table[claim.subject]
        self._write_events()
        version = self._store.changes()
        if version != self._version:
            self._claims_read = self._store.claims()
            self._version = version

    def _write_events(self) -> None:
        with self._lock:
            events = dict(self._events)
        if not events:
            return
        self._store.add_to_history(events.values())
        with self._lock:
            for key, event in events.items():
                if self._events[key] is event:
                    del self._events[key]
                    self._event_shares.release(event.owner)
                else:
                    self._events[key] = self._events[key].without(event)

    def apply_read(self) -> bool:
        """Apply the claims that :meth:`synchronise` has read. Return False if it has read none."""
        read, self._claims_read = self._claims_read, None
        if read is None:
            return False
        self._claims.clear()
        self._by_owner.clear()
        with self._lock:
            changed, removed = tuple(self._changed.values()), dict(self._removed)
        for claim in (*read, *changed):
            known = self._claims.get(claim.subject)
            if claim != removed.get(claim.subject) and (known is None or not known.is_banned):
                self._put(claim)
        return True

    def _change(self, claim: Claim) -> None:
        self._put(claim)
        with self._lock:
            self._removed.pop(claim.subject, None)
            self._changed[claim.subject] = claim

    def _put(self, claim: Claim) -> None:
        self._drop(claim.subject)
        self._claims[claim.subject] = claim
        self._by_owner.setdefault(claim.owner, set()).add(claim.subject)

    def _drop(self, subject: str) -> None:
        claim = self._claims.pop(subject, None)
        if claim is not None:
            mine = self._by_owner[claim.owner]
            mine.remove(subject)
            if not mine:
                del self._by_owner[claim.owner]
