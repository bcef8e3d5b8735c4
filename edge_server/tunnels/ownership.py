"""Ownership of public names and TCP ports, kept between runs.

Every question is answered from memory. :meth:`NameOwnership.synchronise` writes what has changed and reads what
commands have changed. It is called twice a second in another thread, so a crash of the machine loses the new
claims of half a second, and no older ones.

A claim does not end because a clock says so: it stays until :meth:`NameOwnership.sweep` has removed it, which
spares what is held and does nothing as long as the edge's clock is not settled
(:mod:`edge_server.storage.steady_clock`).
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

KEPT_DAYS: Final = 30
"""For which a name that nobody uses stays its owner's: longer than holidays, so that nobody picks up the
visitors of somebody who was away."""
KEPT: Final = KEPT_DAYS * 86_400
SEEN_AGAIN: Final = 86_400
"""Seconds after which it is written down once more that a claim is in use."""
MAX_CLAIMS: Final = 100
"""Names and ports together that one identity may claim: as many as a session may hold. Whoever could claim without
end would leave nothing to others."""
MAX_PENDING: Final = 10_000
"""Names whose events wait to be written, of which an owner has its share; more in half a second, or while the
database cannot be written, are not kept."""


class Held(Protocol):
    """A tunnel, as the history knows it."""

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
        """Reads the database; raises ConfigError when it cannot. ``now``: seconds since the epoch."""
        self._store = store
        self._now = now
        self._claims: dict[str, Claim] = {}
        self._of: dict[str, set[str]] = {}
        """Names and ports by owner."""
        self._changed: dict[str, Claim] = {}
        self._over: dict[str, Claim] = {}
        """Removed here, and not yet in the database."""
        self._events: dict[tuple[int, str, str], HistoryEntry] = {}
        self._waiting = Shares(MAX_PENDING)
        self._lock = threading.Lock()
        """Held over what is to be written, which the loop's thread and the one that writes both change."""
        self._version = -1
        self._read: list[Claim] | None = None
        self.synchronise()
        self.settle()

    def owner(self, what: str) -> str | None:
        """Return the owner of a name or port; BANNED if nobody may have it, None if it is free."""
        claim = self._claims.get(what)
        return None if claim is None else claim.owner

    def may_claim(self, owner: str, what: str) -> bool:
        """Return True if an owner has this claim already, or may have one more."""
        return self.owner(what) == owner or len(self._of.get(owner, ())) < MAX_CLAIMS

    def claim(self, owner: str, what: str) -> None:
        """Give a name or port to an owner, and note that it is in use now.

        It has to be free or theirs already, and :meth:`may_claim` True.
        """
        self._change(Claim(what, owner, int(self._now())))

    def seen(self, owner: str, what: str) -> None:
        """Note that a claim is in use, or was until now."""
        claim = self._claims.get(what)
        if claim is not None and claim.owner == owner and claim.seen < self._now() - SEEN_AGAIN:
            self.claim(owner, what)

    def sweep(self, held: Container[str]) -> None:
        """Remove claims that nobody has used for so long, but none that is held. For a clock that is settled."""
        before = self._now() - KEPT
        for what, claim in tuple(self._claims.items()):
            if claim.seen < before and not claim.is_banned and what not in held:
                self._drop(what)
                with self._lock:
                    self._changed.pop(what, None)
                    self._over[what] = claim

    def moved(self, forward: float) -> None:
        """Follow a clock that was set by so many seconds (back below zero): nothing becomes older by that. (Set
        back, everything is kept for so much longer.)"""
        if forward <= 0:
            return
        for claim in tuple(self._claims.values()):
            if not claim.is_banned:
                self._change(replace(claim, seen=claim.seen + int(forward)))

    def record(self, event: str, held: Held, host: str, visitors: int = 0) -> None:
        """Add an event of a name to the history.

        Args:
            event: as in ``HistoryEntry.of``.
            held: the tunnel that has the name.
            host: address of its client; empty where none takes part.
            visitors: visitors that came for the client that gives the name back.
        """
        owner = held.owner
        fresh = HistoryEntry.of(
            event, int(self._now()), name=held.name, port=held.tcp_port, owner=owner, host=host, visitors=visitors
        )
        key = fresh.day, fresh.owner, fresh.name
        with self._lock:
            before = self._events.get(key)
            if before is None:
                if not self._waiting.may_take(owner):
                    return
                self._waiting.take(owner)
            self._events[key] = fresh if before is None else before.joined(fresh)

    def banned_networks(self) -> list[str]:
        """Return the networks that neither visitors nor clients may come from."""
        return [what[1:] for what, claim in self._claims.items() if what[0] == "@" and claim.is_banned]

    def is_free_to(self, owner: str, port: int) -> bool:
        """Return True if a TCP port is this owner's, or nobody's."""
        return self.owner(f":{port}") in (None, owner)

    def close(self) -> None:
        """Write what is left."""
        self.synchronise()
        self._store.close()

    def synchronise(self) -> None:
        """Write and read, in any thread. Raises ConfigError: what was to be written then is so next time.
        :meth:`settle` has to follow on the loop's."""
        with self._lock:
            changed, over = tuple(self._changed.values()), tuple(self._over.values())
        if over:
            self._store.remove_these(over)
        if changed:
            self._store.write(changed)
        with self._lock:
            for table, done in ((self._changed, changed), (self._over, over)):
                for claim in done:
                    if table.get(claim.what) is claim:
                        del table[claim.what]
        self._write_events()
        version = self._store.changes()
        if version != self._version:
            self._read = self._store.claims()
            self._version = version

    def _write_events(self) -> None:
        with self._lock:
            events = dict(self._events)
        if not events:
            return
        self._store.record(events.values())
        with self._lock:
            for key, event in events.items():
                if self._events[key] is event:
                    del self._events[key]
                    self._waiting.give_back(event.owner)
                else:
                    self._events[key] = self._events[key].less(event)

    def settle(self) -> bool:
        """Hold to what :meth:`synchronise` has read; whether that is anything."""
        read, self._read = self._read, None
        if read is None:
            return False
        self._claims.clear()
        self._of.clear()
        with self._lock:
            changed, over = tuple(self._changed.values()), dict(self._over)
        for claim in (*read, *changed):
            known = self._claims.get(claim.what)
            if claim != over.get(claim.what) and (known is None or not known.is_banned):
                self._put(claim)
        return True

    def _change(self, claim: Claim) -> None:
        self._put(claim)
        with self._lock:
            self._over.pop(claim.what, None)
            self._changed[claim.what] = claim

    def _put(self, claim: Claim) -> None:
        self._drop(claim.what)
        self._claims[claim.what] = claim
        self._of.setdefault(claim.owner, set()).add(claim.what)

    def _drop(self, what: str) -> None:
        before = self._claims.pop(what, None)
        if before is not None:
            mine = self._of[before.owner]
            mine.remove(what)
            if not mine:
                del self._of[before.owner]
