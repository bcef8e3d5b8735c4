"""Places for unauthenticated connections: handshakes in progress, and connections without an accepted token.

When all places are taken, a new connection of another network evicts a connection of the network with the most
places (a /24 of IPv4, a /48 of IPv6), and within it of the host (an IPv4 address, a /64) with the most. The oldest
one is evicted, because an honest peer needs its place for a few round trips and a flood keeps all it can get.
Between equal numbers, and within one host, a place is kept for :data:`MIN_PLACE_TIME` at least; the new connection
is refused meanwhile.

A handshake costs a thousand times as much as its refusal. So a place that was left without authentication becomes
free :data:`MIN_PLACE_TIME` after it was taken, and not before: in that time there are no more handshakes than
places, even if peers leave early.

The native engine has the same algorithm in ``native/src/engine/unadmitted.rs``.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address

MIN_PLACE_TIME: Final = 1.0
"""Seconds for which each handshake takes a place at least: the time of a handshake and Hello on a bad path."""
CACHE_SIZE: Final = 1024
"""Addresses whose host and network are cached."""

Peer = TypeVar("Peer")


class Source(NamedTuple):
    """Network and host of a peer's address."""

    network: str
    host: str


UNPROVEN: Final = Source("", "")
"""Source of peers with an unvalidated address: with a forged address, a peer could otherwise fill the places of
another network."""


@lru_cache(CACHE_SIZE)
def source_of(host: str) -> Source:
    """Return the network and the host of an address. Text that is no IP address (simulated networks) is its
    own."""
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
    """Result for a new connection."""

    has_place: bool
    evicted: Peer | None = None
    """The connection to close, whose place the new connection takes."""


class UnadmittedPeers(Generic[Peer]):
    """Places of all unauthenticated connections. Every operation takes constant time."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._places: dict[Peer, tuple[Source, float]] = {}
        self._by_host: dict[str, OrderedDict[Peer, None]] = {}
        self._networks = _Ranking()
        self._hosts: dict[str, _Ranking] = {}
        self._ended: OrderedDict[Peer, None] = OrderedDict()
        """Ended connections that still have a place."""

    def __len__(self) -> int:
        """Return the number of connections with a place."""
        return len(self._places) - len(self._ended)

    def enter(self, peer: Peer, address: Address | None, now: float) -> Entry[Peer]:
        """Take a place for a connection. ``address`` is None for a peer whose address is not validated."""
        self._free_ended(now)
        source = UNPROVEN if address is None else source_of(address[0])
        self._add(peer, source, now)
        if len(self._places) <= self._limit:
            return Entry(has_place=True)
        candidate = self._eviction_candidate()
        if not self._is_evictable(candidate, source, now):
            self._remove(peer)
            return Entry(has_place=False)
        is_over = candidate in self._ended
        self._remove(candidate)
        return Entry(has_place=True, evicted=None if is_over else candidate)

    def admit(self, peer: Peer) -> None:
        """Release the place of a connection that has authenticated."""
        self._remove(peer)

    def connection_ended(self, peer: Peer) -> None:
        """Record that a connection has ended. Does nothing without a place."""
        if peer in self._places:
            self._ended[peer] = None

    def _is_evictable(self, candidate: Peer, new: Source, now: float) -> bool:
        """Return True if ``candidate`` must give its place to the new connection, which is already counted."""
        theirs, since = self._places[candidate]
        if now - since >= MIN_PLACE_TIME:
            return True
        if theirs.network != new.network:
            return self._networks.sizes[theirs.network] > self._networks.sizes[new.network]
        hosts = self._hosts[theirs.network]
        return hosts.sizes[theirs.host] > hosts.sizes[new.host]

    def _eviction_candidate(self) -> Peer:
        """Return the oldest connection of the largest host in the largest network."""
        host = self._hosts[self._networks.largest].largest
        return next(iter(self._by_host[host]))

    def _free_ended(self, now: float) -> None:
        # They ended in another order than they began, so one may wait for another, for less than MIN_PLACE_TIME.
        while self._ended:
            peer = next(iter(self._ended))
            if now - self._places[peer][1] < MIN_PLACE_TIME:
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
        self._ended.pop(peer, None)
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
    """Members ordered by their number of places. It changes by one at a time, so the largest is found at once."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        """Members of each size, in the order in which they reached it."""
        self._largest = 0

    @property
    def largest(self) -> str:
        """The member with the most places; among equals, the first to reach that number."""
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
