"""One tunnel for the operator's page: the last hour, its visitors, its events and what the log says of it."""

from __future__ import annotations

import itertools
import re
import time
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.history import MAX_SAMPLES, SAMPLE_INTERVAL, Sample
from edge_server.admin.lists import Page
from edge_server.admin.name_management import Event
from edge_server.admin.recent_errors import Record
from edge_server.admin.state_types import Tunnel, Visitor
from edge_server.admin.visit_history import Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edge_server.admin.models import Totals
    from edge_server.tunnels.tunnel import Tunnel as RegisteredTunnel

MAX_TUNNELS: Final = 400
"""Tunnels whose last hour is kept, 14 kB each. Beyond that, tokens take turns."""
MAX_ENTRIES: Final = 50
"""Visitors, visits, events and errors of one tunnel in a response; the lists have all."""
_FIELDS: Final = 5
"""Numbers of a sample: milliseconds since the epoch, visitors, arrivals, bytes in and out."""


class TunnelDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A tunnel, or a name that had one."""

    name: str
    tunnel: Annotated[Tunnel | None, Meta(description="null: nobody has the name now.")]
    every: Annotated[float, Meta(description="Seconds between samples.")]
    samples: Annotated[list[Sample], Meta(description="The last hour, the oldest first.")]
    visitors: Annotated[Page[Visitor], Meta(description="The newest active visitors.")]
    visits: Annotated[Page[Visit], Meta(description="The newest of those that left.")]
    events: Annotated[list[Event], Meta(description="Its owners by day, the newest first.")]
    errors: Annotated[list[Record], Meta(description="Warnings and errors of the log with its name.")]


class _Samples:
    """The last hour of one tunnel."""

    __slots__ = ("before", "numbers", "owner")

    def __init__(self, owner: str, before: tuple[int, int, int]) -> None:
        self.owner = owner
        self.before = before
        self.numbers = array("q")

    def add(self, at: float, visitors: int, totals: tuple[int, int, int]) -> None:
        came, bytes_in, bytes_out = (max(0, now - last) for now, last in zip(totals, self.before, strict=True))
        self.before = totals
        self.numbers.extend((int(at * 1000), visitors, came, bytes_in, bytes_out))
        del self.numbers[: -MAX_SAMPLES * _FIELDS]

    def samples(self) -> list[Sample]:
        numbers = iter(self.numbers)
        return [
            Sample(at=at / 1000, visitors=visitors, came=came, bytes_in=bytes_in, bytes_out=bytes_out)
            for at, visitors, came, bytes_in, bytes_out in zip(*[numbers] * _FIELDS, strict=True)
        ]


class TunnelHistory:
    """The last hour of each tunnel. :meth:`sample` has to be called each :attr:`interval` seconds."""

    interval: Final = SAMPLE_INTERVAL

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        """``wall``: seconds since the epoch."""
        self._wall = wall
        self._tunnels: dict[str, _Samples] = {}

    def __len__(self) -> int:
        return len(self._tunnels)

    def sample(self, tunnels: Iterable[RegisteredTunnel], now: Mapping[str, Totals]) -> None:
        """Add a sample of each tunnel, and forget those that ended. ``now``: active visitors by tunnel."""
        chosen = {tunnel.name: tunnel for tunnel in self._chosen(tunnels)}
        at = self._wall()
        for name in self._tunnels.keys() - chosen.keys():
            del self._tunnels[name]
        for name, tunnel in chosen.items():
            sums = now.get(name)
            active = (0, 0, 0) if sums is None else (sums.visitors, sums.bytes_in, sums.bytes_out)
            totals = tunnel.total_visitors, tunnel.past_in + active[1], tunnel.past_out + active[2]
            samples = self._tunnels.get(name)
            if samples is None or samples.owner != tunnel.owner:
                samples = self._tunnels[name] = _Samples(tunnel.owner, totals)
            samples.add(at, active[0], totals)

    def samples(self, name: str) -> list[Sample]:
        """Return the samples of a tunnel, the oldest first."""
        samples = self._tunnels.get(name)
        return [] if samples is None else samples.samples()

    def _chosen(self, tunnels: Iterable[RegisteredTunnel]) -> list[RegisteredTunnel]:
        """Return the tunnels to keep: those that are kept already first, and as many of each token as there is
        room for."""
        every = list(tunnels)
        if len(every) <= MAX_TUNNELS:
            return every
        by_owner: defaultdict[str, list[RegisteredTunnel]] = defaultdict(list)
        for tunnel in sorted(every, key=lambda each: (each.name not in self._tunnels, each.since)):
            by_owner[tunnel.owner].append(tunnel)
        turns = itertools.zip_longest(*by_owner.values())
        taken = (tunnel for turn in turns for tunnel in turn if tunnel is not None)
        return list(itertools.islice(taken, MAX_TUNNELS))


def mentions(record: Record, name: str) -> bool:
    """Return True if a log record has this name as a whole word."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", record.message) is not None
