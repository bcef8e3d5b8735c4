"""Streams of one connection: flow control, scheduling, and events for the application.

The table knows the fields of frames, but no packets. No operation iterates over all streams while packets arrive,
so an idle stream costs memory and no time. Windows open on delivery to the application (RFC 9000 section 4.1), not
on arrival.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from quictunnel.transport.engine import Data, Event, Limits, Reset, Stopped, StreamsAvailable, Writable
from quictunnel.transport.engines.aioquic.control_frames import ControlFrames
from quictunnel.transport.engines.aioquic.streams import (
    AioquicStream,
    FinalSizeError,
    ReceiveHalf,
    SendHalf,
    TooManyHolesError,
)
from quictunnel.transport.engines.aioquic.varint import encode

if TYPE_CHECKING:
    from aioquic.quic.packet_builder import QuicDeliveryState

    from quictunnel.transport.engines.aioquic.control_frames import Handler

# Out-of-order pieces of all streams together. The connection's window of 4 MiB is 3,500 packets; a peer that sends
# single bytes would make each of them cost a hundred bytes.
MAX_PIECES = 16_384
# Streams that this side has aborted and the peer has not ended. A thousand aborted visitors at a time can happen.
# If they still exist after so many seconds, the peer leaks streams or attacks. The time is longer than any pause
# that a connection survives (30 s), after which an honest peer has much to catch up on.
MAX_ZOMBIES = 1024
ZOMBIE_TIMEOUT = 45.0
# Divisor: windows move in quarters, so one frame serves many packets, and at least three quarters remain.
WINDOW_STEP = 4
# The window of a peer, which limits the memory behind one missing byte, is this many times the bytes it has
# delivered since its authentication. A congestion window at most doubles in a round trip, so no active peer is
# slowed down.
WINDOW_FACTOR = 4
# Bytes of the smallest useful STREAM frame: its header and some data.
MIN_FRAME = 32
# Maximum of a frame's two-byte length.
MAX_FRAME = 0x3FFF
# Bytes in flight of an interactive stream at most (keystrokes, requests). Such streams are served before bulk
# streams, as sparse flows in a fair queue (RFC 8290 section 4.1).
SPARSE_BYTES = 1000


class StreamTable:
    """Streams of one connection."""

    def __init__(self, *, is_client: bool, limits: Limits, own_window: int, send_buffer: int) -> None:
        self.limits = limits
        self._window = limits.connection_window
        self._handed_over = 0
        """Bytes delivered to the application. Discarded bytes of aborted streams do not enlarge the window."""
        self.is_client = is_client
        self.now = 0.0
        self.streams: dict[int, AioquicStream] = {}
        self.events: list[Event | AioquicStream] = []
        self._send_buffer = send_buffer
        self._own_window = own_window
        self._peer_window = limits.stream_window
        # limits of the peer
        self._opened = 0
        self._skipped: set[int] = set()
        self.received = 0
        self.delivered = 0
        self._pieces = 0
        self._zombies: dict[AioquicStream, float] = {}
        # limits of this side
        self.peer_max_data = 0
        self.peer_max_streams = 0
        self.peer_window_own = 0
        self.peer_window_theirs = 0
        self._data_sent = 0
        self._next_number = 0 if is_client else 1
        self._open_refused = False
        # pending data
        self._ready: deque[AioquicStream] = deque()
        self._ready_first: deque[AioquicStream] = deque()
        self._ready_sparse: deque[AioquicStream] = deque()
        self._starved: list[AioquicStream] = []
        self.control = ControlFrames(limits)

    # Calls of the application

    def open(self) -> int | None:
        """Open a stream and return its number, or None if the peer allows no more now."""
        number = self._next_number
        if number // 4 >= self.peer_max_streams:
            self._open_refused = True
            return None
        self._next_number = number + 4
        self._add(number, self.peer_window_theirs, self._own_window, self._own_window)
        return number

    def refuse_open(self) -> None:
        """Record an attempt to open a stream before the handshake is complete, to report later when it is
        possible."""
        self._open_refused = True

    def write(self, number: int, data: bytes | memoryview) -> int:
        """Queue data on a stream and return how many bytes were taken."""
        stream = self.streams.get(number)
        if stream is None:
            return 0
        send = stream.send
        if send.finished or send.code is not None or send.done:
            return 0
        taken = send.write(data, self._send_buffer - send.queued)
        if taken < len(data):
            send.short = True
        if taken:
            self._schedule(stream)
        return taken

    def finish(self, number: int) -> None:
        """End a stream's sending direction after the queued data."""
        stream = self.streams.get(number)
        if stream is not None:
            stream.send.finish()
            self._schedule(stream)

    def reset(self, number: int, code: int) -> None:
        """Abort a stream's sending direction with an error code."""
        stream = self.streams.get(number)
        if stream is not None and stream.send.reset(code):
            self.control.reset(stream)
            self._note_zombie(stream)

    def stop(self, number: int, code: int) -> None:
        """Ask the peer to stop sending on a stream, with an error code."""
        stream = self.streams.get(number)
        if stream is None:
            return
        receive = stream.receive
        if receive.stop_code is not None:
            return
        receive.stop_code = code
        if receive.done:
            return
        self._drop_received(receive)
        if receive.final is not None:
            self._end_receive(stream)
            return
        self.control.stop(stream)
        self._note_zombie(stream)

    def prioritise(self, number: int) -> None:
        """Schedule a stream before ordinary ones."""
        stream = self.streams.get(number)
        if stream is not None and not stream.first:
            stream.first = True
            if stream.scheduled:
                for queue in (self._ready, self._ready_sparse):
                    if stream in queue:
                        queue.remove(stream)
                self._ready_first.append(stream)

    def raise_limits(self, limits: Limits, first_window: int) -> None:
        """Raise the limits of an authenticated peer; its connection window begins at ``first_window`` bytes."""
        self._window = min(first_window, limits.connection_window)
        self._handed_over = 0
        self.control.grant_streams(limits.streams - self.limits.streams, limits.streams)
        self.limits = limits
        self._own_window = limits.stream_window
        self._grow_max_data()
        for stream in self.streams.values():
            self._grow_stream_window(stream)

    # Frames from the peer

    def on_stream(self, number: int, offset: int, chunk: bytes, fin: bool) -> None:
        """Process a STREAM frame."""
        stream = self.streams.get(number)
        if stream is None:
            stream = self._accept(number, QuicFrameType.STREAM_BASE)
            if stream is None:
                return
        receive = stream.receive
        end = offset + len(chunk)
        self._account(receive, end, fin, QuicFrameType.STREAM_BASE)
        if receive.stop_code is not None:
            self._drop_received(receive)
            if receive.final is not None:
                self._end_receive(stream)
            return
        if receive.done:
            return
        if offset <= receive.offset and not receive.runs:
            fresh = chunk if offset == receive.offset else chunk[receive.offset - offset :]
            if fresh:
                receive.offset += len(fresh)
                self._deliver(stream, fresh)
        elif end > receive.offset:
            self._deliver_out_of_order(stream, offset, chunk)
        if receive.offset == receive.final:
            if receive.inbox is None:
                receive.inbox = []
                self.events.append(stream)
            receive.inbox_end = True
            self._end_receive(stream)

    def on_reset(self, number: int, code: int, final: int) -> None:
        """Process a RESET_STREAM frame."""
        stream = self.streams.get(number) or self._accept(number, QuicFrameType.RESET_STREAM)
        if stream is None:
            return
        receive = stream.receive
        self._account(receive, final, True, QuicFrameType.RESET_STREAM)
        if receive.done:
            return
        stopped = receive.stop_code is not None
        self._drop_received(receive)
        if not stopped:
            self.events.append(Reset(number, code))
        self._end_receive(stream)

    def on_stop(self, number: int, code: int) -> None:
        """Process a STOP_SENDING frame."""
        stream = self.streams.get(number) or self._accept(number, QuicFrameType.STOP_SENDING)
        if stream is not None and stream.send.reset(code):
            self.control.reset(stream)
            self.events.append(Stopped(number, code))
            self._note_zombie(stream)

    def on_max_data(self, value: int) -> None:
        """Process a MAX_DATA frame."""
        if value > self.peer_max_data:
            self.peer_max_data = value
            starved, self._starved = self._starved, []
            for stream in starved:
                stream.starved = False
                self._schedule(stream)

    def on_max_stream_data(self, number: int, value: int) -> None:
        """Process a MAX_STREAM_DATA frame."""
        stream = self.streams.get(number) or self._accept(number, QuicFrameType.MAX_STREAM_DATA)
        if stream is not None and value > stream.send.window:
            stream.send.window = value
            self._schedule(stream)

    def on_max_streams(self, value: int) -> None:
        """Process a MAX_STREAMS frame."""
        self.peer_max_streams = max(self.peer_max_streams, value)
        if self._open_refused and self._next_number // 4 < self.peer_max_streams:
            self._open_refused = False
            self.events.append(StreamsAvailable())

    # Events for the application

    def drain(self) -> list[Event]:
        """Return the events since the last call. Data counts as delivered, which opens the windows."""
        queued, self.events = self.events, []
        events: list[Event] = []
        for item in queued:
            if not isinstance(item, AioquicStream):
                events.append(item)
                continue
            receive = item.receive
            chunks = receive.inbox
            if chunks is None:
                continue
            receive.inbox = None
            size = sum(map(len, chunks))
            receive.delivered += size
            self.delivered += size
            self._handed_over += size
            if receive.stop_code is None:
                events.append(Data(item.number, chunks, receive.inbox_end))
            self._grow_stream_window(item)
        self._grow_max_data()
        return events

    def is_leaking(self) -> bool:
        """Return True if the peer keeps too many streams open that this side aborted long ago."""
        zombies = self._zombies
        return len(zombies) > MAX_ZOMBIES and self.now - next(iter(zombies.values())) > ZOMBIE_TIMEOUT

    # Sending

    def has_data(self) -> bool:
        """Return True if a stream has data to send."""
        return bool(self._ready or self._ready_first or self._ready_sparse)

    def has_urgent(self) -> bool:
        """Return True if prioritised or sparse streams or control frames are waiting."""
        return bool(self._ready_first or self._ready_sparse or self.control)

    def fill(self, parts: list[bytes | memoryview], handlers: list[Handler], space: int) -> int:
        """Append STREAM frames of up to ``space`` bytes and return the remaining space."""
        while space >= MIN_FRAME:
            queue = self._ready_first or self._ready_sparse or self._ready
            if not queue:
                break
            stream = queue.popleft()
            send = stream.send
            before = send.offset
            offset = send.lost[0][0] if send.lost else before
            encoded = encode(offset) if offset else b""
            header = 3 + len(stream.encoded_id) + len(encoded)
            taken = send.take(min(space - header, MAX_FRAME), self.peer_max_data - self._data_sent)
            if taken is None:
                stream.scheduled = False
                if send.queued and send.offset < send.window and not stream.starved:
                    stream.starved = True
                    self._starved.append(stream)
                continue
            _, piece, fin = taken
            self._data_sent += send.offset - before
            size = len(piece)
            kind = b"\x0e" if offset else b"\x0a"
            if fin:
                kind = b"\x0f" if offset else b"\x0b"
            parts.append(b"".join((kind, stream.encoded_id, encoded, (size | 0x4000).to_bytes(2, "big"))))
            if size:
                parts.append(piece)
            handlers.append((self._on_data_delivery, (stream, *taken)))
            space -= header + size
            if send.has_work():
                self._queue_for(stream).append(stream)
            else:
                stream.scheduled = False
            if send.short and send.queued * 2 < self._send_buffer:
                send.short = False
                self.events.append(Writable(stream.number))
        return space

    # Private

    def _add(self, number: int, send_window: int, limit: int, window: int) -> AioquicStream:
        receive = ReceiveHalf(limit)
        send = SendHalf(send_window, partial(self._on_send_done, number))
        stream = self.streams[number] = AioquicStream(number, encode(number), send, receive)
        if window != limit:
            self._grow_stream_window(stream)
        return stream

    def _accept(self, number: int, frame: int) -> AioquicStream | None:
        """Return the stream that a frame names for the first time, or None if it is already over."""
        if number & 2:
            raise QuicConnectionError(
                QuicErrorCode.STREAM_LIMIT_ERROR, frame, "Unidirectional streams are not used"
            )
        if (number & 1 == 0) == self.is_client:
            if number < self._next_number:
                return None
            raise QuicConnectionError(QuicErrorCode.STREAM_STATE_ERROR, frame, "AioquicStream was not opened")
        index = number // 4
        if index >= self.control.max_streams:
            raise QuicConnectionError(QuicErrorCode.STREAM_LIMIT_ERROR, frame, "Too many streams open")
        if index < self._opened:
            if number not in self._skipped:
                return None
            self._skipped.discard(number)
        else:
            # Streams with lower numbers are open too (RFC 9000 section 2.1); each costs one number until it is
            # used.
            self._skipped.update(range(self._opened * 4 + (number & 3), number, 4))
            self._opened = index + 1
        return self._add(number, self.peer_window_own, self._peer_window, self.limits.stream_window)

    def _account(self, receive: ReceiveHalf, end: int, fin: bool, frame: int) -> None:
        before = receive.highest
        grown = end - before
        if grown > 0 and (end > receive.limit or self.received + grown > self.control.max_data):
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, frame, "Over data limit")
        if fin or receive.final is not None:
            try:
                receive.check_final(end, fin=fin)
            except FinalSizeError:
                raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, frame, "Final size changed") from None
        elif grown > 0:
            receive.highest = end
        if grown > 0:
            self.received += grown

    def _deliver(self, stream: AioquicStream, chunk: bytes) -> None:
        inbox = stream.receive.inbox
        if inbox is None:
            stream.receive.inbox = [chunk]
            self.events.append(stream)
        else:
            inbox.append(chunk)

    def _deliver_out_of_order(self, stream: AioquicStream, offset: int, chunk: bytes) -> None:
        receive = stream.receive
        if offset < receive.offset:
            chunk = chunk[receive.offset - offset :]
            offset = receive.offset
        try:
            self._pieces += receive.insert(offset, chunk)
        except TooManyHolesError:
            self._pieces = MAX_PIECES + 1
        if self._pieces > MAX_PIECES:
            raise QuicConnectionError(
                QuicErrorCode.INTERNAL_ERROR, QuicFrameType.STREAM_BASE, "Too much out of order"
            )
        if offset == receive.offset:
            pulled = receive.pull()
            self._pieces -= len(pulled)
            for piece in pulled:
                if piece:
                    self._deliver(stream, piece)

    def _drop_received(self, receive: ReceiveHalf) -> None:
        """Credit the connection with all bytes of a stream that will not be delivered."""
        self._pieces -= sum(len(run.chunks) for run in receive.runs)
        receive.runs = []
        gone = receive.highest - receive.offset
        receive.offset = receive.highest
        receive.delivered += gone
        self.delivered += gone
        self._grow_max_data()

    def _end_receive(self, stream: AioquicStream) -> None:
        if not stream.receive.done:
            stream.receive.done = True
            self._discard_if_done(stream)

    def _on_send_done(self, number: int) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            self._discard_if_done(stream)

    def _discard_if_done(self, stream: AioquicStream) -> None:
        if not (stream.send.done and stream.receive.done):
            return
        del self.streams[stream.number]
        if stream.zombie:
            self._zombies.pop(stream, None)
        if (stream.number & 1 == 0) != self.is_client:
            self.control.grant_streams(1, self.limits.streams)

    def _note_zombie(self, stream: AioquicStream) -> None:
        receive = stream.receive
        if stream.zombie or stream.send.code is None or receive.stop_code is None or receive.done:
            return
        stream.zombie = True
        self._zombies[stream] = self.now

    def _schedule(self, stream: AioquicStream) -> None:
        if not stream.scheduled and stream.send.has_work():
            stream.scheduled = True
            self._queue_for(stream).append(stream)

    def _queue_for(self, stream: AioquicStream) -> deque[AioquicStream]:
        if stream.first:
            return self._ready_first
        send = stream.send
        return self._ready_sparse if send.unacked + send.queued <= SPARSE_BYTES else self._ready

    def _on_data_delivery(
        self, state: QuicDeliveryState, stream: AioquicStream, start: int, piece: bytes | memoryview, fin: bool
    ) -> None:
        if stream.send.on_delivery(state, start, piece, fin):
            self._schedule(stream)

    def _grow_stream_window(self, stream: AioquicStream) -> None:
        receive = stream.receive
        if receive.final is not None or receive.stop_code is not None:
            return
        window = self.limits.stream_window
        target = receive.delivered + window
        if target - receive.limit >= window // WINDOW_STEP:
            receive.limit = target
            self.control.stream_limit(stream)

    def _earned_window(self) -> int:
        """Return the number of bytes that the peer may send ahead of delivery on all streams."""
        most = self.limits.connection_window
        while self._window < most and WINDOW_FACTOR * self._handed_over >= 2 * self._window:
            self._window = min(2 * self._window, most)
        return self._window

    def _grow_max_data(self) -> None:
        window = self._earned_window()
        target = self.delivered + window
        if target - self.control.max_data >= window // WINDOW_STEP:
            self.control.raise_max_data(target)
