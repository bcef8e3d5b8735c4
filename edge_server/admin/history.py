"""The last hour, for the page: how many visitors were in, how many came, how much they moved, and who moved most.

Bounded whatever comes: a sample each ten seconds, and the addresses that moved most in each ten minutes.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.models import Bytes, Count, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.visitor_log import VisitorConnection, VisitorLog

EVERY: Final = 10.0
"""Seconds between samples."""
KEPT: Final = 360
"""Samples: an hour."""
SPAN: Final = 600.0
"""Seconds of one table of talkers."""
SPANS: Final = 6
"""Such tables: an hour."""
MAX_TALKERS: Final = 1024
"""Addresses in one of them. When there are twice as many, those that moved least are forgotten, so that an address
that moved a large share of all is never among them."""
MAX_TOP: Final = 50
"""Talkers in one answer."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Ten seconds."""

    at: Moment
    visitors: Annotated[int, Meta(description="In at the end of it.", ge=0)]
    came: Annotated[int, Meta(description="Newcomers in it.", ge=0)]
    bytes_in: Annotated[int, Meta(description="From visitors in it.", ge=0)]
    bytes_out: Annotated[int, Meta(description="To visitors in it.", ge=0)]


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The last hour."""

    every: Annotated[float, Meta(description="Seconds between samples.")]
    samples: Annotated[list[Sample], Meta(description="The oldest first.")]


class Talker(msgspec.Struct, frozen=True, kw_only=True):
    """Who moved how much."""

    who: str
    bytes: Bytes
    visitors: Annotated[int, Meta(description="Of it that are in now.", ge=0)]


class Talkers(msgspec.Struct, frozen=True, kw_only=True):
    """Those who moved most: visitors who are in, and who have left within the last hour."""

    addresses: Annotated[list[Talker], Meta(description="IPv4 addresses, and /64 networks of IPv6.")]
    tunnels: list[Talker]
    remembered: Annotated[Count, Meta(description="Addresses that have left and are remembered.")]


class History:
    """Samples. :meth:`sample` is to be called each :data:`EVERY` seconds."""

    def __init__(self, ledger: VisitorLog, wall: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._before = self._totals()

    def sample(self) -> None:
        """Ten seconds have passed."""
        came, bytes_in, bytes_out = totals = self._totals()
        before, self._before = self._before, totals
        self._samples.append(
            Sample(
                at=self._wall(),
                visitors=len(self._ledger.now),
                came=came - before[0],
                # A stream that goes on with another link counts again from where it was credited.
                bytes_in=max(0, bytes_in - before[1]),
                bytes_out=max(0, bytes_out - before[2]),
            )
        )

    def past(self) -> Past:
        return Past(every=EVERY, samples=list(self._samples))

    @property
    def last(self) -> Sample | None:
        """The newest."""
        return self._samples[-1] if self._samples else None

    def _totals(self) -> tuple[int, int, int]:
        ledger = self._ledger
        return ledger.came.total(), ledger.bytes_in, ledger.bytes_out


class TopTalkers:
    """Bytes of visitors who have left, by address and by tunnel."""

    def __init__(self, ledger: VisitorLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._tables: deque[tuple[int, Counter[str], Counter[str]]] = deque(maxlen=SPANS)

    def left(self, visit: VisitorConnection) -> None:
        """A visitor has left (``VisitorLog.on_end``)."""
        span = math.floor(self._clock() / SPAN)
        if not self._tables or self._tables[-1][0] != span:
            self._tables.append((span, Counter(), Counter()))
        _, addresses, tunnels = self._tables[-1]
        moved = visit.bytes_in + visit.bytes_out
        for table, key in ((addresses, visit.network or "unknown"), (tunnels, visit.lease)):
            table[key] += moved
            if len(table) >= 2 * MAX_TALKERS:
                most = heapq.nlargest(MAX_TALKERS, table.items(), key=lambda item: item[1])
                table.clear()
                table.update(dict(most))

    def top(self, count: int) -> Talkers:
        """Those who moved most, at most so many of each kind."""
        oldest = math.floor(self._clock() / SPAN) - SPANS
        # Plain dictionaries: a Counter costs several times as much, and there may be ten thousand.
        addresses: dict[str, int] = {}
        tunnels: dict[str, int] = {}
        for span, of_addresses, of_tunnels in self._tables:
            if span > oldest:
                for sums, more in ((addresses, of_addresses), (tunnels, of_tunnels)):
                    for who, moved in more.items():
                        sums[who] = sums.get(who, 0) + moved
        remembered = len(addresses)
        at: dict[str, int] = {}
        to: dict[str, int] = {}
        for visit in self._ledger.now:
            moved = visit.bytes_in + visit.bytes_out
            host, name = visit.network or "unknown", visit.lease
            addresses[host] = addresses.get(host, 0) + moved
            tunnels[name] = tunnels.get(name, 0) + moved
            at[host] = at.get(host, 0) + 1
            to[name] = to.get(name, 0) + 1
        return Talkers(
            addresses=_top(addresses, at, count), tunnels=_top(tunnels, to, count), remembered=remembered
        )


def _top(moved: dict[str, int], inside: dict[str, int], count: int) -> list[Talker]:
    most = heapq.nlargest(count, moved.items(), key=lambda item: item[1])
    return [Talker(who=who, bytes=size, visitors=inside.get(who, 0)) for who, size in most]
