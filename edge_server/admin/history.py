"""The last hour for the operator's page: numbers of visitors, traffic, and the largest talkers.

The memory is bounded: one sample each ten seconds, and the addresses with the most traffic in each ten minutes.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.state_types import Bytes, Count, Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.visitor_log import VisitorConnection, VisitorLog

SAMPLE_INTERVAL: Final = 10.0
"""Seconds between samples."""
MAX_SAMPLES: Final = 360
"""Samples: one hour."""
TABLE_SECONDS: Final = 600.0
"""Seconds covered by one table of talkers."""
MAX_TABLES: Final = 6
"""Tables: one hour."""
MAX_TALKERS: Final = 1024
"""Addresses in one table. At twice as many, those with the least traffic are dropped, so that an address with a
large share of all traffic is never among them."""
MAX_TOP: Final = 50
"""Talkers in one response."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Ten seconds."""

    at: Timestamp
    visitors: Annotated[int, Meta(description="Active at its end.", ge=0)]
    came: Annotated[int, Meta(description="New visitors.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes to visitors.", ge=0)]


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The last hour."""

    every: Annotated[float, Meta(description="Seconds between samples.")]
    samples: Annotated[list[Sample], Meta(description="Samples, the oldest first.")]


class Talker(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic of one address or tunnel."""

    who: str
    bytes: Bytes
    visitors: Annotated[int, Meta(description="Its active visitors.", ge=0)]


class Talkers(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and tunnels with the most traffic, of active visitors and of those that ended within the last
    hour."""

    addresses: Annotated[list[Talker], Meta(description="IPv4 addresses, and /64 networks of IPv6.")]
    tunnels: list[Talker]
    remembered: Annotated[Count, Meta(description="Addresses of ended connections in memory.")]


class History:
    """Samples of the last hour. :meth:`sample` has to be called each :data:`SAMPLE_INTERVAL` seconds."""

    def __init__(self, visitor_log: VisitorLog, wall: Callable[[], float] = time.time) -> None:
        """``wall``: seconds since the epoch."""
        self._visitor_log = visitor_log
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._before = self._totals()

    def sample(self) -> None:
        """Add a sample for the last ten seconds."""
        came, bytes_in, bytes_out = totals = self._totals()
        before, self._before = self._before, totals
        self._samples.append(
            Sample(
                at=self._wall(),
                visitors=len(self._visitor_log.active),
                came=came - before[0],
                # A stream that resumes on another link counts again from its last acknowledged byte.
                bytes_in=max(0, bytes_in - before[1]),
                bytes_out=max(0, bytes_out - before[2]),
            )
        )

    def past(self) -> Past:
        """Return all samples."""
        return Past(every=SAMPLE_INTERVAL, samples=list(self._samples))

    @property
    def last(self) -> Sample | None:
        """Latest sample, or None."""
        return self._samples[-1] if self._samples else None

    def _totals(self) -> tuple[int, int, int]:
        visitor_log = self._visitor_log
        return visitor_log.admitted_total.total(), visitor_log.bytes_in, visitor_log.bytes_out


class TopTalkers:
    """Traffic of ended visitor connections, by address and by tunnel."""

    def __init__(self, visitor_log: VisitorLog, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: monotonic seconds."""
        self._visitor_log = visitor_log
        self._clock = clock
        self._tables: deque[tuple[int, Counter[str], Counter[str]]] = deque(maxlen=MAX_TABLES)

    def on_visitor_end(self, visit: VisitorConnection) -> None:
        """Count a visitor whose connection ended (``VisitorLog.on_end``)."""
        span = math.floor(self._clock() / TABLE_SECONDS)
        if not self._tables or self._tables[-1][0] != span:
            self._tables.append((span, Counter(), Counter()))
        _, addresses, tunnels = self._tables[-1]
        moved = visit.bytes_in + visit.bytes_out
        for table, key in ((addresses, visit.peer or "unknown"), (tunnels, visit.tunnel_name)):
            table[key] += moved
            if len(table) >= 2 * MAX_TALKERS:
                most = heapq.nlargest(MAX_TALKERS, table.items(), key=lambda item: item[1])
                table.clear()
                table.update(dict(most))

    def top(self, count: int) -> Talkers:
        """Return the addresses and tunnels with the most traffic, at most ``count`` of each."""
        oldest = math.floor(self._clock() / TABLE_SECONDS) - MAX_TABLES
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
        for visit in self._visitor_log.active:
            moved = visit.bytes_in + visit.bytes_out
            host, name = visit.peer or "unknown", visit.tunnel_name
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
