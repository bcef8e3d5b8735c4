"""Admission of visitors.

Counts the active visitors of each owner, tunnel, address and network and in all, and refuses at the cap. A flood
of visitors is then refused one by one while the tunnels' own sockets and files keep working. Nobody can take all
places: an owner, a tunnel, an address and a network may each have a fixed multiple of what is left. While there
are plenty that limits nobody, so users behind a shared address are not punished for it. When they get scarce, the
largest holder is the first to get no more. The rate of arrival is limited by
:mod:`edge_server.ingress.rate_limit`.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.ingress.ip_filter import IpFilter
from edge_server.ingress.rate_limit import ConnectionRateLimiter
from edge_server.resources.descriptor_budget import REMEDY, DescriptorBudget, ShortageLog, descriptor_limit
from edge_server.resources.fair_places import FairPlaces
from edge_server.resources.peer_network import network_prefix, peer_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PER_FREE_PLACE: Final = 8
"""Places that one owner, tunnel, address or network may have for each place that is free (dynamic thresholds,
Choudhury and Hahne 1998). A holder that takes all it can gets 8/9 of the places, a second one 8/9 of the rest,
and the next still gets some."""
MIN_PLACES: Final = 16
"""Places that each holder may have while there are any."""
MIN_PLACES_DIVISOR: Final = 16
"""Divisor of the cap that bounds :data:`MIN_PLACES` where the cap is small."""
WAITING_DIVISOR: Final = 4
"""Divisor of the cap for visitors whose client is disconnected; each holds a descriptor and about 30 KiB of TLS
state."""
MAX_WAITING: Final = 4096
"""Visitors that wait for a client, where the cap is large: a flood is cut at about 120 MiB."""
MAX_WAITING_PER_TUNNEL: Final = 256
"""Visitors that wait for the client of one tunnel."""
MAX_WAIT: Final = 10.0
"""Seconds that a visitor waits for a client that lost its link. Longer than most reconnects take, shorter than the
timeouts of browsers and the patience of people."""


class QueuedVisitor(Protocol):
    """An admitted visitor whose client has no link at the moment."""

    def reject(self) -> None:
        """Refuse the visitor: another one has taken its place."""


class Admission:
    """Counts the visitors and enforces the caps."""

    def __init__(self, cap: int | None = None, rate_limiter: ConnectionRateLimiter | None = None) -> None:
        """Start without visitors.

        Args:
            cap: visitors at once; by default as many as the descriptor limit allows.
            rate_limiter: limits the rate of new visitors; by default unlimited.
        """
        self.rate_limiter = rate_limiter or ConnectionRateLimiter(lambda: 0, time.monotonic)
        self.budget = DescriptorBudget.of(descriptor_limit())
        self.max_handshakes = self.budget.handshakes
        """Visitors that may be between accept and the end of their TLS handshake."""
        self.cap = self.budget.visitors if cap is None else cap
        self.waiting: FairPlaces[QueuedVisitor] = FairPlaces(
            max(1, min(MAX_WAITING, self.cap // WAITING_DIVISOR)),
            limit_per_tunnel=MAX_WAITING_PER_TUNNEL,
            protected_for=MAX_WAIT,  # a visitor that waits may use the whole time
            clock=time.monotonic,
        )
        """Admitted visitors whose client is disconnected."""
        self.shortage = ShortageLog()
        self.active = 0
        self.refused = 0
        self._min_places = min(MIN_PLACES, max(1, self.cap // MIN_PLACES_DIVISOR))
        self._by_owner: Counter[str] = Counter()
        self._by_tunnel: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._by_network: Counter[str] = Counter()
        self._ban_filter = IpFilter((), ())

    def ban(self, networks: Iterable[str]) -> None:
        """Replace the banned networks. Raises ValueError for an invalid one."""
        self._ban_filter = IpFilter((), networks)

    def is_banned(self, address: str) -> bool:
        """Return True if the operator has banned the address."""
        return not self._ban_filter.admits(address)

    def acquire(self, owner: str, tunnel_name: str, address: str, limit: int | None = None) -> bool:
        """Take a place for a visitor; return False, and count it as refused, if there is none.

        Args:
            owner: token whose tunnel it visits.
            tunnel_name: name of the tunnel.
            address: address of the visitor.
            limit: visitors that the owner may have at once; None: no limit.
        """
        peer, network = peer_prefix(address), network_prefix(address)
        fair = max(self._min_places, MAX_PER_FREE_PLACE * (self.cap - self.active))
        most = max(
            self._by_owner[owner],
            self._by_tunnel[tunnel_name],
            self._by_address[peer],
            self._by_network[network],
        )
        is_short = self.active >= self.cap or most >= fair
        if is_short or self.is_banned(address) or (limit is not None and self._by_owner[owner] >= limit):
            self.refused += 1
            if is_short:
                self.shortage.report(
                    "visitor capacity is nearly exhausted, one visitor was refused", self._describe_places
                )
            return False
        self.active += 1
        self._by_owner[owner] += 1
        self._by_tunnel[tunnel_name] += 1
        self._by_address[peer] += 1
        self._by_network[network] += 1
        return True

    def release(self, owner: str, tunnel_name: str, address: str) -> None:
        """Give back a place; the arguments are those of :meth:`acquire`."""
        self.active -= 1
        for count, key in (
            (self._by_owner, owner),
            (self._by_tunnel, tunnel_name),
            (self._by_address, peer_prefix(address)),
            (self._by_network, network_prefix(address)),
        ):
            count[key] -= 1
            if not count[key]:
                del count[key]

    def enqueue(self, waiting: QueuedVisitor, address: str, owner: str, tunnel_name: str) -> QueuedVisitor | None:
        """Take a place for an admitted visitor that waits for the client of its tunnel. Return the visitor that
        loses its place then, which may be this one, or None."""
        evicted = self.waiting.acquire(waiting, address, owner=owner, tunnel_name=tunnel_name)
        if evicted is not None:
            what = "too many visitors wait for a disconnected client, one was refused"
            self.shortage.report(what, self._describe_waiting)
        return evicted

    def _describe_waiting(self) -> str:
        network, count = self.waiting.largest_network()
        return f"{len(self.waiting)} of {self.waiting.limit} places are taken, {count} by {network}"

    def _describe_places(self) -> str:
        (network, count), (owner, owned) = self._by_network.most_common(1)[0], self._by_owner.most_common(1)[0]
        return (
            f"{self.active} of {self.cap} places are taken, {count} by {network}, {owned} by tunnels of {owner}; "
            f"the limit of {self.budget.limit} file descriptors allows no more, raise it ({REMEDY})"
        )
