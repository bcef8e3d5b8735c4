"""Which lease holds a name now."""

from __future__ import annotations

import base64
import secrets
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Final

from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.leases import Lease

NAME_BYTES: Final = 10
"""80 random bits, 16 characters of base32: names are secrets to those who were not told them."""


def random_name() -> str:
    """A label nobody guesses, and nobody may ask for."""
    while True:
        name = base64.b32encode(secrets.token_bytes(NAME_BYTES)).decode().lower()
        if RANDOM_LABEL.fullmatch(name):
            return name


class Registry:
    """See the module. A name is a label below the edge's domain, or a whole domain, which has dots. A pool's has
    several leases."""

    def __init__(self, name: Callable[[], str] = random_name) -> None:
        self._leases: dict[str, Lease] = {}
        self._held: Counter[str] = Counter()
        self.alive: weakref.WeakSet[Lease] = weakref.WeakSet()
        """All leases that ever were here, as long as they have visitors."""
        self.changes = 0
        """How often anything was added or removed: who has looked at all of it need not look again at the same."""
        self._name = name

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        """One lease of each name."""
        return iter(tuple(self._leases.values()))

    def find(self, name: str) -> Lease | None:
        return self._leases.get(name)

    def held_by(self, owner: str) -> int:
        """How many leases are an owner's."""
        return self._held[owner]

    def fresh_name(self) -> str:
        """A name that nobody holds."""
        while (name := self._name()) in self._leases:
            pass
        return name

    def add(self, lease: Lease) -> None:
        """It has its name now, with those of its pool or alone."""
        holder = self._leases.get(lease.name)
        assert holder is None or (lease.pool is not None and holder.pool is lease.pool)
        if lease.pool is not None:
            lease.pool.add(lease)
        self._leases.setdefault(lease.name, lease)
        self.alive.add(lease)
        self._held[lease.owner] += 1
        self.changes += 1

    def remove(self, lease: Lease) -> None:
        """It has not any more; may be said again."""
        if not self._holds(lease):
            return
        self.changes += 1
        others = []
        if lease.pool is not None:
            lease.pool.remove(lease)
            others = lease.pool.members
        if self._leases[lease.name] is lease:
            if others:
                self._leases[lease.name] = others[0]
            else:
                del self._leases[lease.name]
        self._held[lease.owner] -= 1
        if not self._held[lease.owner]:
            del self._held[lease.owner]

    def _holds(self, lease: Lease) -> bool:
        if lease.pool is not None:
            return lease in lease.pool.members
        return self._leases.get(lease.name) is lease
