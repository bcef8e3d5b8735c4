"""Flow control windows of the session protocol, for the sender and for the receiver.

Offsets count bytes from the start of one direction of one stream. The end of the direction (FIN) counts as one
more byte, so one offset also shows whether the end has arrived: a direction of ``n`` bytes is fully
acknowledged by ``consumed == n + 1``.

Three words: a *window* is a size in bytes, *room* is the part of it that is left, and a *credit* is a
message ``(consumed, limit)`` of the receiver. A receiver sends credit when it has written the bytes to its
TCP connection. So credit is also the acknowledgement: it bounds the memory of both sides, slows a fast sender
down to the speed of its reader, and shows which bytes never have to be sent again.
"""

from __future__ import annotations

from typing import Protocol

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import MAX_WINDOW

INITIAL_WINDOW = 64 * 1024
"""Bytes of window of each new stream: as much as one round trip can use on a fresh connection, and little enough
to bear ten thousand stalled visitors."""
POOL_SIZE = 32 * 1024 * 1024
"""Bytes that all streams of a session together may use beyond their initial windows."""
POOL_RESERVE = 16 * 1024 * 1024
"""Bytes of the pool that only proven streams may use. Stalled streams never give memory back, and a hundred of
them that each take half of the rest leave nothing. A stream with an active reader must still get as much as the
fastest paths use: 6 MiB from this reserve (with 3 MiB, 500 MB/s fell by a quarter)."""
PROVEN_BYTES = 8 * 1024 * 1024
"""Consumed bytes after which a stream is proven to have a reader. The socket buffers on both sides of a TCP
connection take in less than this without one (Linux: 6 MiB to read and 4 MiB to write, about half of it kernel
overhead; measured: 4 MiB)."""
POOL_DIVISOR = 2
"""Divisor: a stream may use at most half of the free pool. So a hundred stalled streams share the pool and still
leave the same part to a stream that is not stalled (dynamic thresholds, Choudhury and Hahne 1998)."""
GROWTH_ROUND_TRIPS = 4.0
"""Round trips: a window used up in less than this is too small for the path."""
GROWTH_SECONDS = 0.025
"""Seconds: a window used up in less than this is too small on any path, because each part of a window costs a
message, a read and a write."""
CREDIT_DIVISOR = 4
"""Divisor: credit is sent when it moves the limit by a quarter of the window."""
USELESS_ENTRIES_PER_STREAM = 4
"""Entries without effect that one aborted stream may cause: the receiver sends a credit for each quarter of a
window, and all four may be on their way when the stream is aborted."""
MAX_USELESS_ENTRIES = 1000
"""Further entries without effect that one session may send."""
USELESS_ENTRIES_PER_SECOND = 2000
"""Entries a second by which the count of entries without effect decays. Over a path with seconds of queue, each
aborted stream is credited a few times more, and hundreds may be aborted a second. Reading this many costs under 1
% of a core."""


class UselessEntryLimit:
    """Limit on entries of control messages without effect, such as credit for streams that were aborted meanwhile.

    A peer that sends them without end wastes this side's time on purpose. An honest peer sends them until it
    learns that the stream is over, so the count decays with time.
    """

    __slots__ = ("_count", "_updated_at")

    def __init__(self) -> None:
        self._count = 0.0
        self._updated_at = 0.0

    def count(self, now: float, streams: int) -> None:
        """Count one entry.

        Args:
            now: time in seconds.
            streams: number of streams of the session so far.

        Raises:
            ProtocolError: there are too many.
        """
        self._count = max(0.0, self._count - (now - self._updated_at) * USELESS_ENTRIES_PER_SECOND) + 1
        self._updated_at = now
        if self._count > MAX_USELESS_ENTRIES + USELESS_ENTRIES_PER_STREAM * streams:
            raise ProtocolError("too much credit that changes nothing")


class SendWindow:
    """Window of a sender: bytes written, bytes acknowledged, and the limit."""

    __slots__ = ("consumed", "limit", "written")

    def __init__(self, initial: int) -> None:
        self.limit = initial
        self.written = 0
        self.consumed = 0

    @property
    def room(self) -> int:
        """Bytes that may be written now; never negative."""
        return max(0, self.limit - self.written)

    def apply_credit(self, consumed: int, limit: int, sent: int) -> None:
        """Apply a credit from the receiver.

        Args:
            consumed: offset before which the receiver has consumed everything.
            limit: offset that the sender may not pass.
            sent: bytes that this side has given to the engine; the end counts as one byte.

        Raises:
            ProtocolError: the credit goes down, names unsent bytes, or exceeds MAX_WINDOW.
        """
        if consumed > sent:
            raise ProtocolError("credit for bytes that were never sent")
        if consumed < self.consumed or limit < self.limit:
            raise ProtocolError("credit taken back")
        if limit > consumed + MAX_WINDOW:
            raise ProtocolError("credit beyond the largest window")
        self.consumed = consumed
        self.limit = limit


class MemoryShare(Protocol):
    """Memory budget shared by the sessions of one token, at an edge with many tokens."""

    def lend(self, requested: int) -> int:
        """Take up to ``requested`` bytes from the budget and return how many were taken."""

    def charge(self, more: int) -> None:
        """Take ``more`` bytes, even beyond the budget; a negative number gives bytes back."""

    @property
    def is_used_up(self) -> bool:
        """True if the budget is exhausted."""


class WindowPool:
    """Memory that the receive windows of one session share beyond their initial sizes."""

    __slots__ = ("memory_share", "reserve", "size", "used")

    def __init__(self, size: int = POOL_SIZE, reserve: int = POOL_RESERVE) -> None:
        self.size = size
        self.reserve = reserve
        self.used = 0
        self.memory_share: MemoryShare | None = None
        """Budget shared by several sessions, from which this pool takes; None without one."""

    def take(self, held: int, requested: int, *, proven: bool = False) -> int:
        """Take bytes for a window and return how many were taken.

        Args:
            held: bytes that the window has from the pool already.
            requested: bytes that it asks for.
            proven: True if the stream has shown that it has a reader; it may then use the reserve.
        """
        size = self.size if proven else self.size - self.reserve
        allowed = max(0, (size - self.used) // POOL_DIVISOR - held)
        taken = min(requested, allowed)
        if self.memory_share is not None:
            taken = self.memory_share.lend(taken)
        self.used += taken
        return taken

    def give_back(self, held: int) -> None:
        """Return ``held`` bytes to the pool."""
        self.used -= held
        if self.memory_share is not None:
            self.memory_share.charge(-held)


class ReceiveWindow:
    """Window of a receiver: bytes received, bytes consumed, and when to credit them.

    The window starts at its initial size. It doubles, as far as the pool and MAX_WINDOW allow, when at least half
    of it is used within ``GROWTH_ROUND_TRIPS`` round trips or ``GROWTH_SECONDS``.
    """

    __slots__ = (
        "_credited",
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
        self._credited = 0
        self._epoch_offset = 0
        self._epoch_time = now
        self.window = initial
        self.limit = initial
        self.received = 0
        self.consumed = 0

    def arrived(self, size: int) -> None:
        """Count received bytes.

        Raises:
            ProtocolError: the sender went beyond its limit.
        """
        self.received += size
        if self.received > self.limit:
            raise ProtocolError("bytes beyond the credit")

    def consume(self, size: int) -> None:
        """Count bytes written to the TCP connection; the end counts as one byte."""
        self.consumed += size

    @property
    def room(self) -> int:
        """Bytes that the sender may still send."""
        return self.limit - self.received

    @property
    def has_uncredited_bytes(self) -> bool:
        """True if bytes were consumed that the sender was not sent credit for."""
        return self.consumed > self._credited

    @property
    def is_credit_due(self) -> bool:
        """True if enough was consumed to send a credit now."""
        return self.consumed - self._credited >= self.window // CREDIT_DIVISOR

    def next_credit(self, now: float, rtt: float) -> tuple[int, int]:
        """Return the credit ``(consumed, limit)`` to send. A window that is too small for the path grows first.

        Args:
            now: time in seconds.
            rtt: round-trip time of the path in seconds.
        """
        used = self.consumed - self._epoch_offset
        if used >= self.window // 2:
            if now - self._epoch_time < max(GROWTH_ROUND_TRIPS * rtt, GROWTH_SECONDS) * used / self.window:
                self._grow()
            self._epoch_offset = self.consumed
            self._epoch_time = now
        self._credited = self.consumed
        self.limit = max(self.limit, self.consumed + self.window)
        return self.consumed, self.limit

    def _grow(self) -> None:
        requested = min(self.window, MAX_WINDOW - self.window)
        taken = self._pool.take(self._extra, requested, proven=self.consumed >= PROVEN_BYTES)
        self._extra += taken
        self.window += taken

    def close(self) -> None:
        """Return the window's bytes to the pool. The window must not be used again."""
        self._pool.give_back(self._extra)
        self._extra = 0
