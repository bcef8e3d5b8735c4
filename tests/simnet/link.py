"""Direction of a network path: what goes in comes out later, or never, or twice.

A link is a queue of bounded length, a line of a certain rate behind it, and a distance; loss, duplication and
corruption strike between the line and the far end. All chance comes from the generator it is given.
"""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

# IPv4 and UDP headers, which take their time on the line as well.
HEADER_BYTES = 28


@dataclass(slots=True)
class Conditions:
    """The state of a link; every field may be changed while it carries traffic."""

    delay: float = 0.0
    """Seconds to the far end."""
    jitter: float = 0.0
    """Up to this many seconds more, drawn for each datagram: they overtake each other."""
    loss: float = 0.0
    """The share of datagrams that never arrive."""
    duplicate: float = 0.0
    """The share that arrives twice (each copy with a jitter of its own)."""
    corrupt: float = 0.0
    """The share that arrives with one bit flipped."""
    rate: float | None = None
    """Bytes a second, headers included; None: a line without end."""
    queue: int = 256 * 1024
    """Bytes that may wait for the line; what comes on top is dropped (drop-tail)."""
    mtu: int | None = None
    """The largest UDP payload that passes; larger ones vanish."""
    coalesce: float = 0.0
    """Arrivals are put off to the next multiple of this, as network cards do with interrupts; what arrives
    together can then be joined by the receiving socket."""
    black_hole: bool = False
    """Everything that goes in now is lost."""

    @classmethod
    def wan(cls, *, mbit: float, rtt: float, loss: float = 0.0, jitter: float = 0.0) -> Self:
        """Half of a round trip over a line of so many Mbit/s, with a queue of one round trip, at least 64 KiB."""
        rate = mbit * 1e6 / 8
        return cls(delay=rtt / 2, rate=rate, queue=max(64 * 1024, int(rate * rtt)), loss=loss, jitter=jitter)

    def copy(self) -> Conditions:
        return replace(self)


@dataclass(slots=True)
class LinkCounters:
    """Datagrams since the start, and the bytes of those that arrived."""

    entered: int = 0
    arrived: int = 0
    arrived_bytes: int = 0
    lost: int = 0
    overflowed: int = 0
    swallowed: int = 0
    oversize: int = 0
    duplicated: int = 0
    corrupted: int = 0


class Packet(NamedTuple):
    payload: bytes
    source: tuple
    destination: tuple


class Link:
    """Carries packets to ``deliver``. ``tap``, when set, sees each one first and may change it or, with None,
    take it out: for tests that aim at one packet instead of leaving it to chance."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        chance: random.Random,
        deliver: Callable[[Packet], None],
        conditions: Conditions,
    ) -> None:
        self.name = name
        self.conditions = conditions
        self.counters = LinkCounters()
        self.tap: Callable[[Packet], Packet | None] | None = None
        self.trace: list[tuple[float, str, int, int]] | None = None
        """Set to a list to record when, what, size and checksum of everything that arrives or is dropped."""
        self._loop = loop
        self._chance = chance
        self._deliver = deliver
        self._line_free_at = 0.0
        self._under_way: list[tuple[float, int, Packet]] = []
        self._sequence = 0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def under_way(self) -> int:
        """Return the number of packets that have entered and not arrived."""
        return len(self._under_way)

    def send(self, packet: Packet) -> None:
        counters = self.counters
        counters.entered += 1
        tapped = packet if self.tap is None else self.tap(packet)
        end = "lost" if tapped is None else self._early_end(tapped)
        if tapped is None or end is not None:
            setattr(counters, end, getattr(counters, end) + 1)
            self._record(end, packet)
            return
        conditions = self.conditions
        sent_at = self._loop.time() if conditions.rate is None else self._line_free_at
        if conditions.corrupt and self._chance.random() < conditions.corrupt:
            counters.corrupted += 1
            tapped = tapped._replace(payload=self._flip(tapped.payload))
        self._dispatch(tapped, sent_at)
        if conditions.duplicate and self._chance.random() < conditions.duplicate:
            counters.duplicated += 1
            self._dispatch(tapped, sent_at)

    def _early_end(self, packet: Packet) -> str | None:
        """The counter of what keeps a packet from arriving."""
        conditions = self.conditions
        if conditions.black_hole:
            return "swallowed"
        if conditions.mtu is not None and len(packet.payload) > conditions.mtu:
            return "oversize"
        if conditions.rate is not None and not self._pass_line(
            len(packet.payload) + HEADER_BYTES, conditions.rate
        ):
            return "overflowed"
        # Only now: what is lost further on has used the line like everything else.
        if conditions.loss and self._chance.random() < conditions.loss:
            return "lost"
        return None

    def close(self) -> None:
        """Lose what is under way."""
        self._under_way.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _pass_line(self, size: int, rate: float) -> bool:
        """Queue for the line; False: no room. A change of rate holds for packets that come after it; those in
        the queue leave as they would have."""
        now = self._loop.time()
        starts_at = max(now, self._line_free_at)
        if round((starts_at - now) * rate) + size > self.conditions.queue:
            return False
        self._line_free_at = starts_at + size / rate
        return True

    def _flip(self, payload: bytes) -> bytes:
        if not payload:
            return payload
        flipped = bytearray(payload)
        flipped[self._chance.randrange(len(payload))] ^= 1 << self._chance.randrange(8)
        return bytes(flipped)

    def _dispatch(self, packet: Packet, sent_at: float) -> None:
        conditions = self.conditions
        arrives_at = sent_at + conditions.delay
        if conditions.jitter:
            arrives_at += self._chance.random() * conditions.jitter
        if conditions.coalesce:
            arrives_at = -(-arrives_at // conditions.coalesce) * conditions.coalesce
        if arrives_at <= self._loop.time() and not self._under_way:
            self._arrive(packet)
            return
        self._sequence += 1  # keeps the order of packets that arrive at one instant
        heapq.heappush(self._under_way, (arrives_at, self._sequence, packet))
        if self._alarm is None or arrives_at < self._alarm.when():
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._under_way[0][0], self._due)

    def _due(self) -> None:
        self._alarm = None
        now = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now:
            self._arrive(heapq.heappop(self._under_way)[2])
        if self._under_way and self._alarm is None:
            self._set_alarm()

    def _arrive(self, packet: Packet) -> None:
        self.counters.arrived += 1
        self.counters.arrived_bytes += len(packet.payload)
        self._record("arrived", packet)
        self._deliver(packet)

    def _record(self, what: str, packet: Packet) -> None:
        if self.trace is not None:
            self.trace.append((self._loop.time(), what, len(packet.payload), zlib.crc32(packet.payload)))
