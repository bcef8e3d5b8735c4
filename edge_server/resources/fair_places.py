"""A bounded number of places. When all are taken, whoever holds the most gives one up for the newcomer.

"Most" is asked twice. First of address networks: while one network (a /24, a /48) holds more than its share, it
makes room, and within it the address (an IPv4 address, a /64) that holds the most. That is a flood from somewhere,
whatever it asks for. Otherwise of tokens: the one whose tunnels hold the most makes room, and within it the lease,
the network and the address that hold the most. That is a flood from everywhere for something. In both cases the
place that has been held for longest is given up, because an honest visitor needs its place for a round trip or two
and a flood keeps as many as it can. Only where that is the single place of its network, and was taken a moment ago
for the same token as the newcomer's, the newcomer has to go.

A holder is found, counted and removed in constant time: each group of holders keeps its members by how many
places they hold, and that number changes by one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from edge_server.resources.peer_network import neighbourhood, network_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETWORK_SHARE: Final = 8
"""One in so many of the places is what a network may hold without being the first to make room: nine networks have
to work together before tokens are what counts."""
NETWORK_ALWAYS: Final = 8
"""Places that a group may hold in any case: a browser that opens a page has six connections."""

Holder = TypeVar("Holder")


class _Group(Generic[Holder]):
    """Places that have something in common: in groups by what sets them apart, or, at the end of a path, in the
    order in which they were taken."""

    __slots__ = ("_by_size", "_largest", "_members", "_places", "size")

    def __init__(self) -> None:
        self.size = 0
        self._members: dict[str, _Group[Holder]] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        """Members by how many places they have; those of one size in the order in which they came to it."""
        self._largest = 0
        """The size of the largest."""
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
        self._resized(key, member.size - 1, member.size)

    def remove(self, holder: Holder, path: tuple[str, ...]) -> None:
        self.size -= 1
        if not path:
            del self._places[holder]
            return
        key = path[0]
        member = self._members[key]
        member.remove(holder, path[1:])
        self._resized(key, member.size + 1, member.size)
        if not member.size:
            del self._members[key]

    def member(self, *path: str) -> _Group[Holder]:
        """Raises KeyError for one that holds nothing."""
        group = self
        for key in path:
            group = group._members[key]
        return group

    @property
    def largest(self) -> str:
        """The member that holds the most; of several the one that has done so for longest."""
        return next(iter(self._by_size[self._largest]))

    def first_to_go(self) -> Holder:
        """The oldest place of the largest member of the largest member, and so on."""
        group = self
        while group._members:
            group = group.member(group.largest)
        return next(iter(group._places))  # noqa: SLF001 - likewise

    def _resized(self, key: str, before: int, after: int) -> None:
        """A member holds one more place, or one less."""
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
    """How a place is found again."""

    source: tuple[str, str]
    """Network and address."""
    target: tuple[str, str]
    """Token and lease; empty where it is not known for whom a visitor comes, or for nobody."""
    since: float


class FairPlaces(Generic[Holder]):
    """Places that are shared by group, at most ``limit``. Each costs 4 KiB at the most, if it shares no group with
    any other."""

    def __init__(
        self, limit: int, *, patience: float, clock: Callable[[], float], limit_per_lease: int | None = None
    ) -> None:
        """``patience``: seconds for which a single place is kept, however many others come for the same."""
        self.limit = limit
        self.limit_per_lease = limit_per_lease
        self.patience = patience
        self.given_up = 0
        """Places that were taken from those who had them, or not given to newcomers."""
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

    def enter(self, holder: Holder, host: str, *, owner: str = "", lease: str = "") -> Holder | None:
        """Take a place for somebody from an address, for a lease of a token.

        Returns:
            Who has no place any more because of it, perhaps the newcomer; None where there was room.
        """
        self._add(holder, _Place((network_of(host), neighbourhood(host)), (owner, lease), self._clock()))
        if self.limit_per_lease is not None and self._by_target.member(owner, lease).size > self.limit_per_lease:
            loser = self._by_target.member(owner, lease).first_to_go()
        elif len(self) > self.limit:
            loser = self._first_to_go()
        else:
            return None
        if self._is_spared(loser, holder):
            loser = holder
        self.leave(loser)
        self.given_up += 1
        return loser

    def assign(self, holder: Holder, *, owner: str, lease: str) -> None:
        """Note for whom the holder of a place comes."""
        place = self._places[holder]
        self._by_target.remove(holder, place.target + place.source)
        place = self._places[holder] = place._replace(target=(owner, lease))
        self._by_target.add(holder, place.target + place.source)

    def leave(self, holder: Holder) -> None:
        """Give a place back; may be said again."""
        place = self._places.pop(holder, None)
        if place is not None:
            self._by_source.remove(holder, place.source)
            self._by_target.remove(holder, place.target + place.source)

    def largest_network(self) -> tuple[str, int]:
        """The network that holds the most places, and how many; there has to be one."""
        network = self._by_source.largest
        return network, self._by_source.member(network).size

    def _add(self, holder: Holder, place: _Place) -> None:
        self._places[holder] = place
        self._by_source.add(holder, place.source)
        self._by_target.add(holder, place.target + place.source)

    def _first_to_go(self) -> Holder:
        _, held = self.largest_network()
        share = max(NETWORK_ALWAYS, self.limit // NETWORK_SHARE)
        return (self._by_source if held > share else self._by_target).first_to_go()

    def _is_spared(self, holder: Holder, newcomer: Holder) -> bool:
        place, network = self._places[holder], self._places[holder].source[0]
        return (
            place.since > self._clock() - self.patience
            and place.target[0] == self._places[newcomer].target[0]
            and self._by_source.member(network).size == 1
        )
