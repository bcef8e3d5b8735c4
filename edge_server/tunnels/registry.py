"""The registry of leases by name."""

from __future__ import annotations

import base64
import secrets
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.options import TunnelOptions

NAME_BYTES: Final = 10
"""80 random bits, 16 characters of base32: names are secrets to those who were not told them."""
MAX_LEASES: Final = 10_000
"""Leases of one edge: twice as many as it has room for (OPERATIONS.md), and as many as are noted for a restart
(``lastheld``)."""
ALWAYS: Final = 16
"""Leases that each owner may have as long as there are any."""
NETWORKS_OF_ONE: Final = 16
"""A lease counts once more for so many networks to allow or deny, which take as much memory as the rest of it."""


def weight_of(terms: TunnelOptions) -> int:
    """Return the number of leases that one on these terms counts as."""
    return 1 + (len(terms.allow) + len(terms.deny)) // NETWORKS_OF_ONE


def random_name() -> str:
    """Return a random label, which nobody can guess or ask for."""
    while True:
        name = base64.b32encode(secrets.token_bytes(NAME_BYTES)).decode().lower()
        if RANDOM_LABEL.fullmatch(name):
            return name


class Registry:
    """Finds the lease of a name, and counts leases by owner.

    A name is a label below the edge's domain, or a whole domain, which has dots. A load-balanced name has several
    leases.
    """

    def __init__(self, name: Callable[[], str] = random_name) -> None:
        self._leases: dict[str, Lease] = {}
        self._held: Counter[str] = Counter()
        self._domains: dict[str, Counter[str]] = {}
        """Number of leases of each whole domain, by owner."""
        self.shares = Shares(MAX_LEASES, minimum=ALWAYS)
        """Leases by owner, each as often as it counts."""
        self.alive: weakref.WeakSet[Lease] = weakref.WeakSet()
        """All leases that ever were here, as long as they have visitors."""
        self.changes = 0
        """Number of additions and removals, by which a reader knows whether anything has changed."""
        self._name = name

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        """Iterate over one lease of each name."""
        return iter(tuple(self._leases.values()))

    def find(self, name: str) -> Lease | None:
        """Return the lease of a name, or None."""
        return self._leases.get(name)

    def held_by(self, owner: str) -> int:
        """Return the number of an owner's leases."""
        return self._held[owner]

    def domains_of(self, owner: str, besides: str) -> int:
        """Return the number of an owner's whole domains, not counting one of them."""
        domains = self._domains.get(owner, ())
        return len(domains) - (besides in domains)

    def may_hold(self, owner: str, terms: TunnelOptions, instead_of: Lease | None) -> bool:
        """Return True if an owner's share allows a lease on these terms, perhaps instead of another one."""
        freed = 0 if instead_of is None else weight_of(instead_of.terms)
        return self.shares.may_take(owner, weight_of(terms) - freed)

    def fresh_name(self) -> str:
        """Return a new random name that nobody holds."""
        while (name := self._name()) in self._leases:
            pass
        return name

    def add(self, lease: Lease) -> None:
        """Add a lease, alone or to the load balancer of its name."""
        holder = self._leases.get(lease.name)
        assert holder is None or (lease.pool is not None and holder.pool is lease.pool)
        if lease.pool is not None:
            lease.pool.add(lease)
        self._leases.setdefault(lease.name, lease)
        self.alive.add(lease)
        self._held[lease.owner] += 1
        self.shares.take(lease.owner, weight_of(lease.terms))
        if "." in lease.name:
            self._domains.setdefault(lease.owner, Counter())[lease.name] += 1
        self.changes += 1

    def remove(self, lease: Lease) -> None:
        """Remove a lease, if it is still there."""
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
        self.shares.give_back(lease.owner, weight_of(lease.terms))
        if "." in lease.name:
            domains = self._domains[lease.owner]
            domains[lease.name] -= 1
            if not domains[lease.name]:
                del domains[lease.name]
            if not domains:
                del self._domains[lease.owner]

    def _holds(self, lease: Lease) -> bool:
        if lease.pool is not None:
            return lease in lease.pool.members
        return self._leases.get(lease.name) is lease
