"""A bounded number of places, with eviction: when all are taken, the largest holder loses one to the new one.

"Largest" is determined twice. First by address network: while one network (a /24, a /48) holds more than its
share, it loses a place, and within it the address (an IPv4 address, a /64) that holds the most. That is a flood
from one source, whatever its target. Otherwise by token: the token whose tunnels hold the most loses a place, and
within it the tunnel, the network and the address that hold the most. That is a distributed flood against one
target. In both cases the oldest place is evicted, because an honest visitor needs its place for a round trip or
two and a flood keeps as many as it can. If that place is the only one of its network, was taken a moment ago, and
is for the same token as the new one, then the new one is evicted instead.

Holders are found, counted and removed in constant time: each group keeps its members by the number of places they
hold, and that number changes by one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from edge_server.resources.peer_network import network_prefix, peer_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETWORK_DIVISOR: Final = 8
"""Divisor of the places that one network may hold before it is evicted first: nine networks have to cooperate
before tokens are compared."""
MIN_PER_NETWORK: Final = 8
"""Places that a group may hold in any case: a browser that opens a page has six connections."""

Holder = TypeVar("Holder")


class _Group(Generic[Holder]):
    """Places with a common property: divided into groups by the next property, or, at the end of a path, in the
    order in which they were taken."""

    __slots__ = ("_by_size", "_largest", "_members", "_places", "size")

    def __init__(self) -> None:
        self.size = 0
        self._members: dict[str, _Group[Holder]] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        """Members by the number of their places; members of equal size in the order in which they reached it."""
        self._largest = 0
        """Size of the largest member."""
        self._places: OrderedDict[Holder, None] = OrderedDict()

    def add(self, holder: Holder, path: tuple[str, ...]) -> None:
        self.size += 1
        if not path:
            self._places[holder] = None
            return
        key = path[0]
        member = self._members.get(key)
        if member is None:
            member = self._members[key] = _Group()
        member.add(holder, path[1:])
        self._on_resize(key, member.size - 1, member.size)

    def remove(self, holder: Holder, path: tuple[str, ...]) -> None:
        self.size -= 1
        if not path:
            del self._places[holder]
            return
        key = path[0]
        member = self._members[key]
        member.remove(holder, path[1:])
        self._on_resize(key, member.size + 1, member.size)
        if not member.size:
            del self._members[key]

    def member(self, *path: str) -> _Group[Holder]:
        """Return the group at the end of ``path``. Raises KeyError if it holds nothing."""
        group = self
        for key in path:
            group = group._members[key]
        return group

    @property
    def largest(self) -> str:
        """Member with the most places; among equals the one that has held them for longest."""
        return next(iter(self._by_size[self._largest]))

    def next_to_evict(self) -> Holder:
        """Return the oldest place of the largest member, recursively."""
        group = self
        while group._members:
            group = group.member(group.largest)
        return next(iter(group._places))  # noqa: SLF001 - the same class

    def _on_resize(self, key: str, before: int, after: int) -> None:
        """Update the order after a member gained or lost one place."""
        if before:
            same = self._by_size[before]
            del same[key]
            if not same:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, OrderedDict())[key] = None
        if after > self._largest or (before == self._largest and before not in self._by_size):
            self._largest = after


class _Place(NamedTuple):
    """The groups of a place, and when it was taken."""

    source: tuple[str, str]
    """Network and address."""
    target: tuple[str, str]
    """Token and tunnel; empty while the target of a visitor is unknown."""
    since: float


class FairPlaces(Generic[Holder]):
    """At most ``limit`` places, shared fairly. A place costs at most 4 KiB, if it shares no group with others."""

    def __init__(
        self, limit: int, *, protected_for: float, clock: Callable[[], float], limit_per_tunnel: int | None = None
    ) -> None:
        """Start empty.

        Args:
            limit: places in all.
            protected_for: seconds for which the only place of a network is protected against others for the
                same token.
            clock: monotonic seconds.
            limit_per_tunnel: places of one tunnel.
        """
        self.limit = limit
        self.limit_per_tunnel = limit_per_tunnel
        self.protected_for = protected_for
        self.evictions = 0
        """Places that were evicted, and new ones that were refused."""
        self._clock = clock
        self._places: dict[Holder, _Place] = {}
        self._by_source: _Group[Holder] = _Group()
        self._by_target: _Group[Holder] = _Group()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Holder]:
        return iter(tuple(self._places))

    def __contains__(self, holder: object) -> bool:
        return holder in self._places

    def acquire(self, holder: Holder, host: str, *, owner: str = "", tunnel_name: str = "") -> Holder | None:
        """Take a place for an address and for a tunnel of a token.

        Returns:
            The holder that was evicted, which may be the new one; None if a place was free.
        """
        self._add(holder, _Place((network_prefix(host), peer_prefix(host)), (owner, tunnel_name), self._clock()))
        if (
            self.limit_per_tunnel is not None
            and self._by_target.member(owner, tunnel_name).size > self.limit_per_tunnel
        ):
            evicted = self._by_target.member(owner, tunnel_name).next_to_evict()
        elif len(self) > self.limit:
            evicted = self._next_to_evict()
        else:
            return None
        if self._is_protected(evicted, holder):
            evicted = holder
        self.release(evicted)
        self.evictions += 1
        return evicted

    def assign(self, holder: Holder, *, owner: str, tunnel_name: str) -> None:
        """Set the token and the tunnel of a holder, once they are known."""
        place = self._places[holder]
        self._by_target.remove(holder, place.target + place.source)
        place = self._places[holder] = place._replace(target=(owner, tunnel_name))
        self._by_target.add(holder, place.target + place.source)

    def release(self, holder: Holder) -> None:
        """Give a place back. Calling it again has no effect."""
        place = self._places.pop(holder, None)
        if place is not None:
            self._by_source.remove(holder, place.source)
            self._by_target.remove(holder, place.target + place.source)

    def largest_network(self) -> tuple[str, int]:
        """Return the network that holds the most places, and their number. There has to be at least one place."""
        network = self._by_source.largest
        return network, self._by_source.member(network).size

    def _add(self, holder: Holder, place: _Place) -> None:
        self._places[holder] = place
        self._by_source.add(holder, place.source)
        self._by_target.add(holder, place.target + place.source)

    def _next_to_evict(self) -> Holder:
        _, count = self.largest_network()
        share = max(MIN_PER_NETWORK, self.limit // NETWORK_DIVISOR)
        return (self._by_source if count > share else self._by_target).next_to_evict()

    def _is_protected(self, holder: Holder, new_holder: Holder) -> bool:
        place, network = self._places[holder], self._places[holder].source[0]
        return (
            place.since > self._clock() - self.protected_for
            and place.target[0] == self._places[new_holder].target[0]
            and self._by_source.member(network).size == 1
        )
