"""Window arithmetic: how far a sender may go, and how far a receiver lets it.

Offsets count bytes from the start of one direction of one stream. The end of the direction (FIN) counts as
one more byte, so that a single number also says whether the end has arrived: a direction of ``n`` bytes is
fully acknowledged by ``consumed == n + 1``.

Credit is the acknowledgement. A receiver grants it when bytes have left for its TCP connection, so one number
bounds the memory of both sides, brakes a fast sender for a slow reader end to end, and says which bytes
need never be sent again.
"""

from __future__ import annotations

from typing import Protocol

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import MAX_WINDOW

INITIAL_WINDOW = 64 * 1024
"""Granted to every new stream unasked: what one round trip can use on a fresh connection, and little enough
that ten thousand stalled visitors cannot hurt."""
POOL = 32 * 1024 * 1024
"""What all streams of a session together may hold beyond their initial windows."""
RESERVE = 16 * 1024 * 1024
"""The part of the pool that only proven streams may take from. Stalled ones never give back, and when each takes
half of what the one before it left, a hundred leave nothing; whoever is really read must still find as much as the
fastest paths use (6 MiB from this reserve; with 3 MiB, half a gigabyte a second fell by a quarter)."""
PROVEN = 8 * 1024 * 1024
"""Bytes consumed by which a stream has shown that somebody reads it: more than the socket buffers on both sides
of a TCP connection take in for one who does not (by Linux's defaults 6 MiB to read and 4 MiB to write, about
half of which is the kernel's own; 4 MiB were measured)."""
POOL_SHARE = 2
"""A stream may hold at most a half of what is left in the pool. So a hundred stalled streams divide the
pool among themselves and still leave the same share to one that is not stalled (dynamic thresholds,
Choudhury and Hahne 1998)."""
GROWTH_ROUND_TRIPS = 4.0
"""A window that is used up in less than this many round trips is too small for the path."""
GROWTH_SECONDS = 0.025
"""And so is one that is used up in less than this, however short the path: each part of it costs a message, a read
and a write, and these should be few."""
ANNOUNCE_FRACTION = 4
"""Credit is worth a message when it moves the limit by a quarter of the window."""
IDLE_CREDITS_PER_STREAM = 4
"""Entries of a stream that may change nothing: the quarters of a window that was full when it was given up."""
MAX_IDLE_CREDITS = 1000
"""And so many more in a session."""
IDLE_CREDITS_PER_SECOND = 2000
"""Entries a second that are forgiven: over a path whose queue takes seconds, each stream that is given up is
credited a few times more, and there may be hundreds a second. Taking them in costs under a hundredth of a core."""


class IdleCreditBudget:
    """How much credit a peer may say that changes nothing, because the stream was given up meanwhile.

    A peer that goes on saying it keeps this side busy on purpose. How much an honest one says for a stream depends
    on how long it takes to hear that the stream is over, so the budget comes back with time.
    """

    __slots__ = ("_said", "_since")

    def __init__(self) -> None:
        self._said = 0.0
        self._since = 0.0

    def spend(self, now: float, streams: int) -> None:
        """Take note of one entry. ``streams``: how many there were so far. Raises ProtocolError."""
        self._said = max(0.0, self._said - (now - self._since) * IDLE_CREDITS_PER_SECOND) + 1
        self._since = now
        if self._said > MAX_IDLE_CREDITS + IDLE_CREDITS_PER_STREAM * streams:
            raise ProtocolError("too much credit that changes nothing")


class SendWindow:
    """The sender's half: what was written, what was acknowledged, what is allowed."""

    __slots__ = ("consumed", "limit", "written")

    def __init__(self, initial: int) -> None:
        self.limit = initial
        self.written = 0
        self.consumed = 0

    @property
    def room(self) -> int:
        """Bytes that may be written now; never negative."""
        return max(0, self.limit - self.written)

    def grant(self, consumed: int, limit: int, sent: int) -> None:
        """Take a credit in. ``sent``: what this side has handed to the engine, the end counted as one byte.
        Raises ProtocolError for credit that no honest receiver can give."""
        if consumed > sent:
            raise ProtocolError("credit for bytes that were never sent")
        if consumed < self.consumed or limit < self.limit:
            raise ProtocolError("credit taken back")
        if limit > consumed + MAX_WINDOW:
            raise ProtocolError("credit beyond the largest window")
        self.consumed = consumed
        self.limit = limit


class MemoryShare(Protocol):
    """Memory that the sessions of one token may use together, at an edge that has many tokens."""

    def lend(self, wanted: int) -> int:
        """Take as many of so many bytes as there are; they are then in use."""

    def keep(self, more: int) -> None:
        """Count so many bytes more, or less than before when it is negative, whatever the share."""

    @property
    def is_used_up(self) -> bool:
        """Return True if nothing more is to be kept."""


class WindowPool:
    """What the receiving windows of one session share beyond their initial sizes."""

    __slots__ = ("memory", "reserve", "size", "used")

    def __init__(self, size: int = POOL, reserve: int = RESERVE) -> None:
        self.size = size
        self.reserve = reserve
        self.used = 0
        self.memory: MemoryShare | None = None
        """Memory that several sessions share, from which the pool takes in turn."""

    def take(self, held: int, wanted: int, *, proven: bool = False) -> int:
        """How many of ``wanted`` more bytes a window that holds ``held`` gets. They are then in use."""
        size = self.size if proven else self.size - self.reserve
        allowed = max(0, (size - self.used) // POOL_SHARE - held)
        taken = min(wanted, allowed)
        if self.memory is not None:
            taken = self.memory.lend(taken)
        self.used += taken
        return taken

    def give_back(self, held: int) -> None:
        self.used -= held
        if self.memory is not None:
            self.memory.keep(-held)


class ReceiveWindow:
    """The receiver's half: what arrived, what was consumed, and when to say so.

    The window starts at its initial size and doubles whenever it is used up within
    ``GROWTH_ROUND_TRIPS`` round trips, as far as the pool and MAX_WINDOW allow.
    """

    __slots__ = (
        "_announced",
        "_epoch_offset",
        "_epoch_time",
        "_extra",
        "_initial",
        "_pool",
        "consumed",
        "limit",
        "received",
        "window",
    )

    def __init__(self, initial: int, pool: WindowPool, now: float) -> None:
        self._initial = initial
        self._pool = pool
        self._extra = 0
        self._announced = 0
        self._epoch_offset = 0
        self._epoch_time = now
        self.window = initial
        self.limit = initial
        self.received = 0
        self.consumed = 0

    def arrived(self, size: int) -> None:
        """Bytes came in. Raises ProtocolError when the sender went beyond its credit."""
        self.received += size
        if self.received > self.limit:
            raise ProtocolError("bytes beyond the credit")

    def consume(self, size: int) -> None:
        """Bytes (or the end, as one) have left for the TCP connection."""
        self.consumed += size

    @property
    def room(self) -> int:
        """Bytes that the sender may still send."""
        return self.limit - self.received

    @property
    def owed(self) -> bool:
        """Whether anything was consumed that the sender has not been told."""
        return self.consumed > self._announced

    @property
    def due(self) -> bool:
        """Whether the sender should be told now rather than some time."""
        return self.consumed - self._announced >= self.window // ANNOUNCE_FRACTION

    def announce(self, now: float, rtt: float) -> tuple[int, int]:
        """``(consumed, limit)`` for the sender, growing the window first if the path outruns it."""
        used = self.consumed - self._epoch_offset
        if used >= self.window // 2:
            if now - self._epoch_time < max(GROWTH_ROUND_TRIPS * rtt, GROWTH_SECONDS) * used / self.window:
                self._grow()
            self._epoch_offset = self.consumed
            self._epoch_time = now
        self._announced = self.consumed
        self.limit = max(self.limit, self.consumed + self.window)
        return self.consumed, self.limit

    def _grow(self) -> None:
        wanted = min(self.window, MAX_WINDOW - self.window)
        taken = self._pool.take(self._extra, wanted, proven=self.consumed >= PROVEN)
        self._extra += taken
        self.window += taken

    def close(self) -> None:
        """Give back what the pool lent. The window is then of no further use."""
        self._pool.give_back(self._extra)
        self._extra = 0
