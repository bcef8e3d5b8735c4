"""The registry of tunnels by name."""

from __future__ import annotations

import base64
import secrets
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.resources.shares import Shares
from edge_server.tunnels.bind_policy import MAX_TAKEOVERS, GrantKind
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.bind_policy import Grant
    from edge_server.tunnels.options import TunnelOptions
    from edge_server.tunnels.tunnel import Tunnel

NAME_BYTES: Final = 10
"""80 random bits, 16 characters of base32: names are secrets to those who were not told them."""
MAX_LEASES: Final = 10_000
"""Leases of one edge: twice as many as it has room for (OPERATIONS.md), and as many as are noted for a restart
(``handoff/snapshot_store``)."""
ALWAYS: Final = 16
"""Leases that each owner may have as long as there are any."""
NETWORKS_OF_ONE: Final = 16
"""A lease counts once more for so many networks to allow or deny, which take as much memory as the rest of it."""


def weight_of(options: TunnelOptions) -> int:
    """Return the number of leases that one with these options counts as."""
    return 1 + (len(options.allow) + len(options.deny)) // NETWORKS_OF_ONE


def random_name() -> str:
    """Return a random label, which nobody can guess or ask for."""
    while True:
        name = base64.b32encode(secrets.token_bytes(NAME_BYTES)).decode().lower()
        if RANDOM_LABEL.fullmatch(name):
            return name


class Registry:
    """Finds the tunnel of a name, and counts leases by owner.

    A name is a label below the edge's domain, or a whole domain, which has dots. Each backend of a tunnel is a
    lease, and a tunnel that is kept for a client counts as one.
    """

    def __init__(self, name: Callable[[], str] = random_name) -> None:
        self._tunnels: dict[str, Tunnel] = {}
        self._counted: dict[Tunnel, _Count] = {}
        """Each tunnel as it is counted."""
        self._held: Counter[str] = Counter()
        self._domains: dict[str, set[str]] = {}
        """Whole domains by owner."""
        self.shares = Shares(MAX_LEASES, minimum=ALWAYS)
        """Leases by owner, each as often as it counts."""
        self.alive: weakref.WeakSet[Tunnel] = weakref.WeakSet()
        """All tunnels that ever were here, as long as they have visitors."""
        self.changes = 0
        """Number of changes, by which a reader knows whether anything has changed."""
        self._name = name

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[Tunnel]:
        return iter(tuple(self._tunnels.values()))

    def find(self, name: str) -> Tunnel | None:
        """Return the tunnel of a name, or None."""
        return self._tunnels.get(name)

    def held_by(self, owner: str) -> int:
        """Return the number of an owner's leases."""
        return self._held[owner]

    def domains_of(self, owner: str, besides: str) -> int:
        """Return the number of an owner's whole domains, not counting one of them."""
        domains = self._domains.get(owner, ())
        return len(domains) - (besides in domains)

    def may_hold(self, owner: str, options: TunnelOptions, instead_of: Tunnel | None) -> bool:
        """Return True if an owner's share allows a lease with these options, perhaps instead of another one."""
        freed = 0 if instead_of is None else weight_of(instead_of.options)
        return self.shares.may_take(owner, weight_of(options) - freed)

    def fresh_name(self) -> str:
        """Return a new random name that nobody holds."""
        while (name := self._name()) in self._tunnels:
            pass
        return name

    def add(self, tunnel: Tunnel) -> None:
        """Enter a tunnel under its name, which nobody holds."""
        assert tunnel.name not in self._tunnels
        self._tunnels[tunnel.name] = tunnel
        self.alive.add(tunnel)
        self._recount(tunnel)

    def remove(self, tunnel: Tunnel) -> None:
        """Remove a tunnel, if it is still there."""
        if self._tunnels.get(tunnel.name) is tunnel:
            del self._tunnels[tunnel.name]
            self._recount(tunnel)

    def give(self, tunnel: Tunnel, backend: Backend, grant: Grant) -> Backend | None:
        """Give a tunnel to a backend, as it was granted.

        Returns the backend that served it before and does so no more, or None.
        """
        displaced = None
        if grant.kind is GrantKind.TAKE_OVER:
            times = (*tunnel.takeovers, time.monotonic())[-MAX_TAKEOVERS:]
            tunnel.takeovers = times if tunnel.backends and not grant.by_ticket else ()
            if tunnel.backends:
                (displaced,) = tunnel.backends
                tunnel.balancer.remove(displaced)
        tunnel.balancer.add(backend)
        if grant.kind is not GrantKind.JOIN:
            tunnel.change_to(grant.options, grant.visitor_filter, is_pool=grant.is_pool)
        if grant.kind is GrantKind.NEW:
            self.add(tunnel)
        else:
            self._recount(tunnel)
        return displaced

    def take_back(self, tunnel: Tunnel, backend: Backend) -> bool:
        """Remove a backend from a tunnel, if it still serves it. Returns True if the tunnel ends with it."""
        if backend not in tunnel.backends:
            return False
        tunnel.balancer.remove(backend)
        if tunnel.backends:
            self._recount(tunnel)
            return False
        self.remove(tunnel)
        return True

    def _recount(self, tunnel: Tunnel) -> None:
        """Count a tunnel as it is now."""
        self.changes += 1
        owner, is_here = tunnel.owner, self._tunnels.get(tunnel.name) is tunnel
        before = self._counted.pop(tunnel, _NOTHING)
        leases = max(1, len(tunnel.backends)) if is_here else 0
        now = _Count(leases, leases * weight_of(tunnel.options))
        if is_here:
            self._counted[tunnel] = now
        self._held[owner] += now.leases - before.leases
        if not self._held[owner]:
            del self._held[owner]
        self.shares.give_back(owner, before.weight)
        self.shares.take(owner, now.weight)
        if "." not in tunnel.name:
            return
        domains = self._domains.setdefault(owner, set())
        if is_here:
            domains.add(tunnel.name)
        else:
            domains.discard(tunnel.name)
        if not domains:
            del self._domains[owner]


class _Count(NamedTuple):
    leases: int
    weight: int


_NOTHING: Final = _Count(0, 0)
