"""One bidirectional stream: its sending and its receiving half, without frames and without a connection.

The sender keeps references, never copies: what is not yet sent waits as the chunks that were written, what is
in flight is owned by its packet and comes back when that packet is lost. The receiver keeps what arrived out of
order as a bounded sorted list of runs, so a sparse offset costs a run and not the gap before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

from aioquic.quic.packet_builder import QuicDeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable

# Gaps one stream may have. Past it a network is not reordering any more, somebody is making holes
# (quic-go draws the line at the same order of magnitude).
MAX_RUNS = 1000

ACKED = QuicDeliveryState.ACKED

Chunk = bytes | memoryview


class TooManyHolesError(Exception):
    """The stream has more gaps than MAX_RUNS."""


class FinalSizeError(Exception):
    """The peer contradicts itself about where the stream ends (RFC 9000 section 4.5)."""


class Run:
    """Consecutive bytes beyond a gap."""

    __slots__ = ("chunks", "start", "stop")

    def __init__(self, start: int, chunk: bytes) -> None:
        self.start = start
        self.stop = start + len(chunk)
        self.chunks = [chunk]


class SendHalf:
    """What this side sends on a stream (RFC 9000 section 3.1)."""

    __slots__ = (
        "code", "done", "fin_acked", "fin_due", "finished", "lost", "offset", "on_done",
        "queue", "queued", "reset_due", "short", "unacked", "window",
    )  # fmt: skip

    def __init__(self, window: int, on_done: Callable[[], None]) -> None:
        self.window = window
        """The peer's MAX_STREAM_DATA."""
        self.offset = 0
        """The next byte never sent before."""
        self.queue: deque[Chunk] | None = None
        self.queued = 0
        """Bytes in ``queue``."""
        self.lost: deque[tuple[int, Chunk, bool]] | None = None
        self.unacked = 0
        """Bytes sent, lost ones included, and not acknowledged."""
        self.finished = False
        self.fin_due = False
        self.fin_acked = False
        self.code: int | None = None
        self.reset_due = False
        self.short = False
        """Whether the last write took less than it was given."""
        self.done = False
        self.on_done = on_done

    def write(self, data: Chunk, room: int) -> int:
        """Queue at most ``room`` bytes of ``data`` and say how many."""
        size = len(data)
        if size > room:
            size = max(room, 0)
            data = memoryview(data)[:size]
        if size:
            if self.queue is None:
                self.queue = deque()
            self.queue.append(data)
            self.queued += size
        return size

    def finish(self) -> None:
        if not self.finished and self.code is None and not self.done:
            self.finished = self.fin_due = True

    def reset(self, code: int) -> bool:
        """Give up; False when there is nothing left to give up."""
        if self.done or self.code is not None:
            return False
        self.code = code
        self.reset_due = True
        self.queue = self.lost = None
        self.queued = 0
        self.fin_due = self.short = False
        return True

    def has_work(self) -> bool:
        """Whether :meth:`take` would give something, the connection's credit allowing."""
        if self.lost:
            return True
        if self.queued:
            return self.offset < self.window
        return self.fin_due

    def take(self, space: int, credit: int) -> tuple[int, Chunk, bool] | None:
        """The next ``(offset, bytes, fin)`` of at most ``space`` bytes; new bytes also within ``credit``."""
        if self.lost:
            return self._take_lost(space)
        if not self.queued:
            if not self.fin_due:
                return None
            self.fin_due = False
            return self.offset, b"", True
        start = self.offset
        size = min(space, self.window - start, credit, self.queued)
        if size <= 0 or self.queue is None:
            return None
        chunk = self.queue[0]
        if len(chunk) > size:
            view = memoryview(chunk)
            self.queue[0] = view[size:]
            piece: Chunk = view[:size]
        elif len(chunk) == size:
            piece = self.queue.popleft()
        else:
            piece = self._join(size)
        self.offset = start + size
        self.queued -= size
        self.unacked += size
        fin = False
        if not self.queued:
            self.queue = None
            fin = self.fin_due
            self.fin_due = False
        return start, piece, fin

    def _join(self, size: int) -> bytes:
        parts: list[Chunk] = []
        queue = self.queue
        while size and queue:
            chunk = queue.popleft()
            if len(chunk) > size:
                view = memoryview(chunk)
                queue.appendleft(view[size:])
                chunk = view[:size]
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)

    def _take_lost(self, space: int) -> tuple[int, Chunk, bool] | None:
        assert self.lost is not None
        start, piece, fin = self.lost[0]
        if len(piece) <= space:
            self.lost.popleft()
            if not self.lost:
                self.lost = None
            return start, piece, fin
        if space <= 0:
            return None
        view = memoryview(piece)
        self.lost[0] = (start + space, view[space:], fin)
        return start, view[:space], False

    def on_delivery(self, state: QuicDeliveryState, start: int, piece: Chunk, fin: bool) -> bool:
        """A frame was acknowledged or lost; True when it has to be sent again.

        Each byte is in flight, lost or acknowledged, and in one of these only, so a count is enough.
        """
        if self.code is not None:
            return False
        if state is not ACKED:
            if self.lost is None:
                self.lost = deque()
            self.lost.append((start, piece, fin))
            return True
        self.unacked -= len(piece)
        if fin:
            self.fin_acked = True
        if self.fin_acked and not self.unacked:
            self.done = True
            self.on_done()
        return False

    def on_reset_delivery(self, state: QuicDeliveryState) -> bool:
        """RESET_STREAM was acknowledged or lost; True when it has to be sent again."""
        if state is not ACKED:
            self.reset_due = True
            return True
        if not self.done:
            self.done = True
            self.on_done()
        return False


class ReceiveHalf:
    """What the peer sends on a stream (RFC 9000 section 3.2)."""

    __slots__ = (
        "advertised", "delivered", "done", "final", "highest", "inbox",
        "inbox_end", "limit", "offset", "runs", "stop_code", "stop_due",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """The offset the peer may reach."""
        self.advertised = limit
        """The limit that the peer was last told, or zero when that was lost."""
        self.highest = 0
        self.offset = 0
        """All bytes before it are in the inbox or beyond."""
        self.delivered = 0
        """All bytes before it were handed over or dropped."""
        self.final: int | None = None
        self.runs: list[Run] = []
        self.inbox: list[bytes] | None = None
        """Bytes in order that wait for the next poll; None when nothing is announced."""
        self.inbox_end = False
        self.stop_code: int | None = None
        self.stop_due = False
        self.done = False

    def check_final(self, end: int, *, fin: bool) -> None:
        """Note ``end`` (and that it is the last byte's); raises FinalSizeError."""
        if self.final is not None and (end > self.final or (fin and end != self.final)):
            raise FinalSizeError
        if fin:
            if end < self.highest:
                raise FinalSizeError
            self.final = end
        self.highest = max(self.highest, end)

    def insert(self, offset: int, chunk: bytes) -> int:
        """Keep bytes beyond a gap. Returns by how many pieces the store grew (or shrank)."""
        runs = self.runs
        if not runs or offset > runs[-1].stop:
            if len(runs) >= MAX_RUNS:
                raise TooManyHolesError
            runs.append(Run(offset, chunk))
            return 1
        if offset == runs[-1].stop:
            runs[-1].chunks.append(chunk)
            runs[-1].stop += len(chunk)
            return 1
        return self._insert_between(offset, chunk)

    def _insert_between(self, offset: int, chunk: bytes) -> int:
        runs = self.runs
        grown = 0
        at = bisect_right(runs, offset, key=_start_of)
        if at and runs[at - 1].stop > offset:
            skip = runs[at - 1].stop - offset
            offset += skip
            chunk = chunk[skip:]
        # What is left of the chunk fills gaps between runs; the parts that runs hold already are dropped.
        while chunk:
            gap = (runs[at].start if at < len(runs) else offset + len(chunk)) - offset
            piece = chunk[:gap]
            if piece:
                if at and runs[at - 1].stop == offset:
                    runs[at - 1].chunks.append(piece)
                    runs[at - 1].stop += len(piece)
                else:
                    if len(runs) >= MAX_RUNS:
                        raise TooManyHolesError
                    runs.insert(at, Run(offset, piece))
                    at += 1
                grown += 1
                offset += len(piece)
            if at < len(runs) and runs[at].start == offset:
                following = runs.pop(at)
                before = runs[at - 1] if at else None
                if before is not None and before.stop == following.start:
                    before.chunks += following.chunks
                    before.stop = following.stop
                else:
                    runs.insert(at, following)
                    at += 1
                chunk = chunk[gap + following.stop - following.start :]
                offset = following.stop
            else:
                chunk = b""
        return grown

    def pull(self) -> list[bytes]:
        """Take the chunks that have become contiguous with ``offset``, which moves past them."""
        pulled: list[bytes] = []
        runs = self.runs
        while runs and runs[0].start <= self.offset:
            run = runs.pop(0)
            skip = self.offset - run.start
            for chunk in run.chunks:
                if skip >= len(chunk):
                    skip -= len(chunk)
                    pulled.append(b"")
                    continue
                pulled.append(chunk[skip:] if skip else chunk)
                skip = 0
            self.offset = max(self.offset, run.stop)
        return pulled


def _start_of(run: Run) -> int:
    return run.start


class AioquicStream:
    """Both halves of a stream and its place in the schedule."""

    __slots__ = ("encoded_id", "first", "limit_due", "number", "receive", "scheduled", "send", "starved", "zombie")

    def __init__(self, number: int, encoded_id: bytes, send: SendHalf, receive: ReceiveHalf) -> None:
        self.number = number
        self.encoded_id = encoded_id
        self.send = send
        self.receive = receive
        self.first = False
        """Whether it is served before those that are not."""
        self.scheduled = False
        """Whether it stands in a queue of streams with work."""
        self.starved = False
        """Whether it waits for the connection's credit."""
        self.limit_due = False
        """Whether MAX_STREAM_DATA waits to be sent."""
        self.zombie = False
        """Whether this side gave up both halves and the peer has not ended its own yet."""
