"""Places for peers that have not been admitted: handshakes under way, and connections without a good token.

When all places are taken, the network that holds the most of them (a /24 of IPv4, a /48 of IPv6) makes room for a
newcomer of another, and within it the host (an IPv4 address, a /64) that holds the most. The place that has been
held for longest is given up, because an honest peer needs its place for a few round trips and a flood keeps all it
can get. Among those who hold equally many, and within one host, a place is held for :data:`PATIENCE` at least: the
newcomer is refused meanwhile.

A handshake costs a thousand times what it costs to refuse one. So the place of a peer that went away without
having been admitted is free :data:`PATIENCE` after it was taken, and not before: strangers have no more handshakes
in that time than there are places, however soon they give them up.

The native engine has the same in ``native/src/engine/strangers.rs``.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address

PATIENCE: Final = 1.0
"""Seconds that a handshake and a greeting take on bad paths, and for which one costs a place at least."""
KEPT: Final = 1024
"""Addresses whose host and network are remembered; busy ones come again."""

Peer = TypeVar("Peer")


class Source(NamedTuple):
    """Where a peer comes from."""

    network: str
    host: str


UNPROVEN: Final = Source("", "")
"""Where a peer comes from that has not shown that it receives there: whoever says to come from somewhere could
else make others hold the most."""


@lru_cache(KEPT)
def source_of(host: str) -> Source:
    """Return the network and the host of an address; of a simulated network each address is its own."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return Source(host, host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, IPv4Address):
        return Source(str(ip_network((address, 24), strict=False)), str(address))
    return Source(str(ip_network((address, 48), strict=False)), str(ip_network((address, 64), strict=False)))


class Entry(NamedTuple, Generic[Peer]):
    """The outcome for a newcomer."""

    has_place: bool
    replaced: Peer | None = None
    """The connection that had the place and is to be closed."""


class Strangers(Generic[Peer]):
    """The places of all strangers. Every operation takes constant time."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._places: dict[Peer, tuple[Source, float]] = {}
        self._by_host: dict[str, OrderedDict[Peer, None]] = {}
        self._networks = _Ranking()
        self._hosts: dict[str, _Ranking] = {}
        self._left: OrderedDict[Peer, None] = OrderedDict()
        """Connections that are over and have a place still."""

    def __len__(self) -> int:
        """How many connections have a place."""
        return len(self._places) - len(self._left)

    def enter(self, peer: Peer, address: Address | None, now: float) -> Entry[Peer]:
        """Take a place. ``address``: None where the peer has not shown that it receives there."""
        self._free_what_was_left(now)
        source = UNPROVEN if address is None else source_of(address[0])
        self._add(peer, source, now)
        if len(self._places) <= self._limit:
            return Entry(has_place=True)
        loser = self._first_to_go()
        if not self._must_go(loser, source, now):
            self._remove(peer)
            return Entry(has_place=False)
        is_over = loser in self._left
        self._remove(loser)
        return Entry(has_place=True, replaced=None if is_over else loser)

    def admit(self, peer: Peer) -> None:
        """Give the place of a connection back: it is no stranger any more."""
        self._remove(peer)

    def leave(self, peer: Peer) -> None:
        """Note that a connection is over. Do nothing if it has no place."""
        if peer in self._places:
            self._left[peer] = None

    def _must_go(self, loser: Peer, newcomer: Source, now: float) -> bool:
        """Return True if the oldest place of those who hold the most is to be given up for a newcomer, which is
        counted already."""
        theirs, since = self._places[loser]
        if now - since >= PATIENCE:
            return True
        if theirs.network != newcomer.network:
            return self._networks.sizes[theirs.network] > self._networks.sizes[newcomer.network]
        hosts = self._hosts[theirs.network]
        return hosts.sizes[theirs.host] > hosts.sizes[newcomer.host]

    def _first_to_go(self) -> Peer:
        """The oldest place of the host that holds the most in the network that holds the most."""
        host = self._hosts[self._networks.largest].largest
        return next(iter(self._by_host[host]))

    def _free_what_was_left(self, now: float) -> None:
        # They left in another order than they came: one waits here for another no longer than that is young.
        while self._left:
            peer = next(iter(self._left))
            if now - self._places[peer][1] < PATIENCE:
                return
            self._remove(peer)

    def _add(self, peer: Peer, source: Source, now: float) -> None:
        self._places[peer] = source, now
        self._by_host.setdefault(source.host, OrderedDict())[peer] = None
        self._networks.change(source.network, 1)
        self._hosts.setdefault(source.network, _Ranking()).change(source.host, 1)

    def _remove(self, peer: Peer) -> None:
        place = self._places.pop(peer, None)
        if place is None:
            return
        self._left.pop(peer, None)
        network, host = place[0]
        peers = self._by_host[host]
        del peers[peer]
        if not peers:
            del self._by_host[host]
        self._networks.change(network, -1)
        hosts = self._hosts[network]
        hosts.change(host, -1)
        if not hosts.sizes:
            del self._hosts[network]


class _Ranking:
    """Members by how many places they hold. That number changes by one, so the largest is found at once."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        """Groups of one size, in the order in which they came to it."""
        self._largest = 0

    @property
    def largest(self) -> str:
        """The member that holds the most; of several the one that has done so for longest."""
        return next(iter(self._by_size[self._largest]))

    def change(self, member: str, by: int) -> None:
        before = self.sizes.get(member, 0)
        after = before + by
        if before:
            same = self._by_size[before]
            del same[member]
            if not same:
                del self._by_size[before]
        if after:
            self.sizes[member] = after
            self._by_size.setdefault(after, OrderedDict())[member] = None
        else:
            del self.sizes[member]
        if after > self._largest or (before == self._largest and before not in self._by_size):
            self._largest = after
