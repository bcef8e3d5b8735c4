"""Sending and receiving half of a bidirectional stream, independent of frames and connections.

The sender stores references and never copies: unsent data waits in the written chunks, and data in flight belongs
to its packet and returns if that is lost. The receiver stores out-of-order data as a bounded, sorted list of runs,
so a large gap costs no memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

from aioquic.quic.packet_builder import QuicDeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable

# Gaps of one stream. More are not reordering but an attack (quic-go has a limit of the same order of magnitude).
MAX_RUNS = 1000

ACKED = QuicDeliveryState.ACKED

Chunk = bytes | memoryview


class TooManyHolesError(Exception):
    """Error of a stream with more gaps than MAX_RUNS."""


class FinalSizeError(Exception):
    """Error of a peer that changes the final size of a stream (RFC 9000 section 4.5)."""


class Run:
    """Consecutive bytes after a gap."""

    __slots__ = ("chunks", "start", "stop")

    def __init__(self, start: int, chunk: bytes) -> None:
        self.start = start
        self.stop = start + len(chunk)
        self.chunks = [chunk]


class SendHalf:
    """Sending half of a stream (RFC 9000 section 3.1)."""

    __slots__ = (
        "code", "done", "fin_acked", "fin_due", "finished", "lost", "offset", "on_done",
        "queue", "queued", "reset_due", "short", "unacked", "window",
    )  # fmt: skip

    def __init__(self, window: int, on_done: Callable[[], None]) -> None:
        self.window = window
        """The peer's MAX_STREAM_DATA."""
        self.offset = 0
        """Offset of the next byte that was never sent."""
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
        """True if the last write did not take all data."""
        self.done = False
        self.on_done = on_done

    def write(self, data: Chunk, room: int) -> int:
        """Queue at most ``room`` bytes of ``data`` and return how many."""
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
        """End the direction after the queued data."""
        if not self.finished and self.code is None and not self.done:
            self.finished = self.fin_due = True

    def reset(self, code: int) -> bool:
        """Abort the direction. Return False if it is already over."""
        if self.done or self.code is not None:
            return False
        self.code = code
        self.reset_due = True
        self.queue = self.lost = None
        self.queued = 0
        self.fin_due = self.short = False
        return True

    def has_work(self) -> bool:
        """Return True if :meth:`take` would return data within the stream's window."""
        if self.lost:
            return True
        if self.queued:
            return self.offset < self.window
        return self.fin_due

    def take(self, space: int, credit: int) -> tuple[int, Chunk, bool] | None:
        """Return the next ``(offset, bytes, fin)`` of at most ``space`` bytes, new bytes within ``credit``, or
        None."""
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
        """Record that a frame was acknowledged or lost. Return True if it must be sent again.

        Each byte is in flight, lost or acknowledged, and in only one of these states, so a counter is enough.
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
        """Record that RESET_STREAM was acknowledged or lost. Return True if it must be sent again."""
        if state is not ACKED:
            self.reset_due = True
            return True
        if not self.done:
            self.done = True
            self.on_done()
        return False


class ReceiveHalf:
    """Receiving half of a stream (RFC 9000 section 3.2)."""

    __slots__ = (
        "advertised", "delivered", "done", "final", "highest", "inbox",
        "inbox_end", "limit", "offset", "runs", "stop_code", "stop_due",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Offset that the peer may send up to."""
        self.advertised = limit
        """Limit last sent to the peer; 0 if that frame was lost."""
        self.highest = 0
        self.offset = 0
        """Offset before which all bytes have arrived in order."""
        self.delivered = 0
        """Offset before which all bytes were delivered or discarded."""
        self.final: int | None = None
        self.runs: list[Run] = []
        self.inbox: list[bytes] | None = None
        """In-order bytes for the next poll; None if no event is pending."""
        self.inbox_end = False
        self.stop_code: int | None = None
        self.stop_due = False
        self.done = False

    def check_final(self, end: int, *, fin: bool) -> None:
        """Record the end offset of a frame, with ``fin`` as the final size. Raises FinalSizeError."""
        if self.final is not None and (end > self.final or (fin and end != self.final)):
            raise FinalSizeError
        if fin:
            if end < self.highest:
                raise FinalSizeError
            self.final = end
        self.highest = max(self.highest, end)

    def insert(self, offset: int, chunk: bytes) -> int:
        """Store bytes after a gap and return by how many pieces the store grew."""
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
        # The rest of the chunk fills gaps between runs; parts that are already stored are discarded.
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
        """Remove and return the chunks that are contiguous with ``offset``, and advance it."""
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
    """Both halves of a stream, with its scheduling state."""

    __slots__ = ("encoded_id", "first", "limit_due", "number", "receive", "scheduled", "send", "starved", "zombie")

    def __init__(self, number: int, encoded_id: bytes, send: SendHalf, receive: ReceiveHalf) -> None:
        self.number = number
        self.encoded_id = encoded_id
        self.send = send
        self.receive = receive
        self.first = False
        """True if the stream is prioritised."""
        self.scheduled = False
        """True while the stream is in a queue of streams with data."""
        self.starved = False
        """True while the stream waits for the connection's flow control."""
        self.limit_due = False
        """True while MAX_STREAM_DATA is queued."""
        self.zombie = False
        """True if this side has aborted both halves and the peer has not ended its half."""
