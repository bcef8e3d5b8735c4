"""Whose is this name, or this port?

Everything is answered from memory. :meth:`Claims.synchronise` writes what has changed and reads what commands have
changed; it is called twice a second, off the loop's thread, so a crash of the machine forgets half a second of new
claims, and no owner that was there before.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.claims.store import Claim, Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.claims.store import Store

KEPT_DAYS: Final = 30
"""For which a name that nobody uses stays its owner's: longer than holidays, so that nobody picks up the
visitors of somebody who was away."""
KEPT: Final = KEPT_DAYS * 86_400
SEEN_AGAIN: Final = 86_400
"""Seconds after which it is written down once more that a claim is in use."""
SWEEP: Final = 3600.0
"""Seconds between looks for claims that are over."""
MAX_CLAIMS: Final = 100
"""Names and ports together that one identity may claim: as many as a session may hold. Whoever could claim without
end would leave nothing to others."""
MAX_PENDING_EVENTS: Final = 10_000
"""Events that wait to be written; more in half a second, or while the database cannot be written, are not kept."""


class Held(Protocol):
    """A lease, as the history knows it."""

    name: str
    tcp_port: int
    owner: str


class Claims:
    """See the module."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        """Reads the database; raises ConfigError when it cannot."""
        self._store = store
        self._now = now
        self._claims: dict[str, Claim] = {}
        self._count: Counter[str] = Counter()
        self._changed: dict[str, Claim] = {}
        self._events: list[Event] = []
        self._lock = threading.Lock()
        """Held over what is to be written, which the loop's thread and the one that writes both change."""
        self._version = -1
        self._swept = float("-inf")
        self._read: list[Claim] | None = None
        self.synchronise()
        self.settle()

    def owner(self, what: str) -> str | None:
        """Whose it is (``store.BANNED``: nobody's, for good), None when it is free."""
        claim = self._claims.get(what)
        if claim is None or (not claim.is_banned and claim.seen < self._now() - KEPT):
            return None
        return claim.owner

    def may_claim(self, owner: str, what: str) -> bool:
        """Whether it is not one too many."""
        if self._count[owner] >= MAX_CLAIMS:
            for old in [each for each, claim in self._claims.items() if claim.owner == owner]:
                if self.owner(old) is None:
                    del self._claims[old]
                    self._count[owner] -= 1
        return self.owner(what) == owner or self._count[owner] < MAX_CLAIMS

    def claim(self, owner: str, what: str) -> None:
        """It is theirs, and in use now. For what is free or theirs already, and :meth:`may_claim`."""
        claim = Claim(what, owner, int(self._now()))
        self._put(claim)
        with self._lock:
            self._changed[what] = claim

    def seen(self, owner: str, what: str) -> None:
        """It is still in use, or was until now."""
        claim = self._claims.get(what)
        if claim is not None and claim.owner == owner and claim.seen < self._now() - SEEN_AGAIN:
            self.claim(owner, what)

    def record(self, event: str, lease: Held, host: str) -> None:
        """Something happened to a name, for the history."""
        if len(self._events) < MAX_PENDING_EVENTS:
            self._events.append(Event(int(self._now()), event, lease.name, lease.tcp_port, lease.owner, host))

    def banned_networks(self) -> list[str]:
        """From where nobody may come, neither visitors nor clients."""
        return [what[1:] for what, claim in self._claims.items() if what[0] == "@" and claim.is_banned]

    def is_free_to(self, owner: str, port: int) -> bool:
        """Whether a TCP port is theirs, or nobody's."""
        return self.owner(f":{port}") in (None, owner)

    def close(self) -> None:
        """Write what is left."""
        self.synchronise()
        self._store.close()

    def synchronise(self) -> None:
        """Write and read, in any thread. Raises ConfigError: what was to be written then is so next time.
        :meth:`settle` has to follow on the loop's."""
        with self._lock:
            changed = tuple(self._changed.values())
        if changed:
            self._store.write(changed)
            with self._lock:
                for claim in changed:
                    if self._changed.get(claim.what) is claim:
                        del self._changed[claim.what]
        if events := tuple(self._events):
            self._store.record(events)
            del self._events[: len(events)]
        version = self._store.changes()
        now = self._now()
        if version != self._version or now >= self._swept + SWEEP:
            self._swept = now
            self._store.remove_old(int(now) - KEPT)
            self._read = self._store.claims()
            self._version = version

    def settle(self) -> bool:
        """Hold to what :meth:`synchronise` has read; whether that is anything."""
        read, self._read = self._read, None
        if read is None:
            return False
        self._claims.clear()
        self._count.clear()
        for claim in (*read, *self._changed.values()):
            if (known := self._claims.get(claim.what)) is None or not known.is_banned:
                self._put(claim)
        return True

    def _put(self, claim: Claim) -> None:
        before = self._claims.get(claim.what)
        if before is not None:
            self._count[before.owner] -= 1
        self._claims[claim.what] = claim
        self._count[claim.owner] += 1
