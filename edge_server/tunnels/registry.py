"""The registry of tunnels by name."""

from __future__ import annotations

import base64
import secrets
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.resources.shares import Shares
from edge_server.tunnels.bind_policy import MAX_TAKEOVERS
from edge_server.tunnels.grant import GrantKind
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.grant import Grant
    from edge_server.tunnels.options import TunnelOptions
    from edge_server.tunnels.tunnel import Tunnel

NAME_BYTES: Final = 10
"""80 random bits, 16 characters of base32, because nobody should be able to guess the name of another tunnel."""
MAX_LEASES_PER_EDGE: Final = 10_000
"""Sum of the weights (:func:`weight_of`) of an edge's leases: twice its sessions
(``clients.session_table.MAX_SESSIONS``), and as many as the snapshot for a restart takes
(``handoff/snapshot_store``). Each client of a pool has a lease."""
GUARANTEED_MIN: Final = 16
"""Sum of the weights that each owner may have in any case, while the edge has room for any."""
NETWORKS_PER_LEASE: Final = 16
"""Networks to allow or deny that count as one more lease, because they take as much memory."""


def weight_of(options: TunnelOptions) -> int:
    """Return how many leases a lease with these options counts for."""
    return 1 + (len(options.allow) + len(options.deny)) // NETWORKS_PER_LEASE


def random_name() -> str:
    """Return a random label, which cannot be guessed, and which clients cannot choose."""
    while True:
        name = base64.b32encode(secrets.token_bytes(NAME_BYTES)).decode().lower()
        if RANDOM_LABEL.fullmatch(name):
            return name


class Registry:
    """Finds the tunnel of a name, and counts leases by owner.

    A name is a label below the edge's domain, or a custom domain, which has dots. Each backend of a tunnel is a
    lease, and a tunnel that is kept for a client counts as one.
    """

    def __init__(self, make_name: Callable[[], str] = random_name) -> None:
        self._tunnels: dict[str, Tunnel] = {}
        self._counted: dict[Tunnel, _Count] = {}
        """The leases and weight with which each tunnel is counted now."""
        self._held: Counter[str] = Counter()
        self._domains: dict[str, set[str]] = {}
        """Custom domains by owner."""
        self.shares = Shares(MAX_LEASES_PER_EDGE, minimum=GUARANTEED_MIN)
        """Weights of the leases by owner."""
        self.alive: weakref.WeakSet[Tunnel] = weakref.WeakSet()
        """All tunnels, including removed ones that still have visitors."""
        self.changes = 0
        """Number of changes so far, with which a reader detects changes."""
        self._make_name = make_name

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
        """Return the number of an owner's custom domains, not counting one of them."""
        domains = self._domains.get(owner, ())
        return len(domains) - (besides in domains)

    def may_hold(self, owner: str, options: TunnelOptions, instead_of: Tunnel | None) -> bool:
        """Return True if an owner's share allows a lease with these options.

        Args:
            owner: key of the token.
            options: the options of the new lease.
            instead_of: the tunnel that the new lease replaces; None if it is an additional one.
        """
        freed = 0 if instead_of is None else weight_of(instead_of.options)
        return self.shares.may_take(owner, weight_of(options) - freed)

    def generate_name(self) -> str:
        """Return a new random name that nobody holds."""
        while (name := self._make_name()) in self._tunnels:
            pass
        return name

    def add(self, tunnel: Tunnel) -> None:
        """Add a tunnel, whose name must be free."""
        assert tunnel.name not in self._tunnels
        self._tunnels[tunnel.name] = tunnel
        self.alive.add(tunnel)
        self._recount(tunnel)

    def remove(self, tunnel: Tunnel) -> None:
        """Remove a tunnel; do nothing if its name has another tunnel or none."""
        if self._tunnels.get(tunnel.name) is tunnel:
            del self._tunnels[tunnel.name]
            self._recount(tunnel)

    def assign(self, tunnel: Tunnel, backend: Backend, grant: Grant) -> Backend | None:
        """Assign a tunnel to a backend, as granted.

        Returns the backend that was replaced, or None.
        """
        replaced = None
        if grant.kind is GrantKind.TAKE_OVER:
            times = (*tunnel.takeovers, time.monotonic())[-MAX_TAKEOVERS:]
            tunnel.takeovers = times if tunnel.backends and not grant.by_ticket else ()
            if tunnel.backends:
                (replaced,) = tunnel.backends
                tunnel.balancer.remove(replaced)
        tunnel.balancer.add(backend)
        if grant.kind is not GrantKind.JOIN:
            tunnel.change_to(grant.options, grant.visitor_filter, is_pool=grant.is_pool)
        if grant.kind is GrantKind.NEW:
            self.add(tunnel)
        else:
            self._recount(tunnel)
        return replaced

    def remove_backend(self, tunnel: Tunnel, backend: Backend) -> bool:
        """Remove a backend from a tunnel, if it still serves it. Returns True if the tunnel was removed as
        well."""
        if backend not in tunnel.backends:
            return False
        tunnel.balancer.remove(backend)
        if tunnel.backends:
            self._recount(tunnel)
            return False
        self.remove(tunnel)
        return True

    def _recount(self, tunnel: Tunnel) -> None:
        """Update the counts of a tunnel's leases."""
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
        self.shares.release(owner, before.weight)
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
