"""Control frames of one connection for streams and flow control.

A frame is built when a packet has space for it, from the current values, so an old value never overtakes a newer
one. A lost frame is queued again in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from quictunnel.transport.engines.aioquic.streams import ACKED
from quictunnel.transport.engines.aioquic.varint import encode

if TYPE_CHECKING:
    from aioquic.quic.packet_builder import QuicDeliveryState

    from quictunnel.transport.engine import Limits
    from quictunnel.transport.engines.aioquic.streams import AioquicStream

# MAX_STREAMS is sent for each eighth of the limit, not for each stream that ends.
STREAMS_STEP = 8

Handler = tuple[Callable[..., Any], tuple[Any, ...]]
"""Callback for the delivery of a frame, with the arguments after the delivery state."""
Frame = tuple[bytes, Handler | None]


class ControlFrames:
    """Queue of control frames, in order, with the limits granted to the peer."""

    def __init__(self, limits: Limits) -> None:
        self.max_data = limits.connection_window
        self.max_streams = limits.streams
        self._max_streams_sent = limits.streams
        self._max_data_due = self._max_streams_due = False
        self._queue: deque[Callable[[], Frame | None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, frame: Callable[[], Frame | None], *, first: bool = False) -> None:
        """Queue a function that builds a frame. It returns None if the frame is not needed any more."""
        if first:
            self._queue.appendleft(frame)
        else:
            self._queue.append(frame)

    def next(self) -> Frame | None:
        """Build the next frame."""
        return self._queue.popleft()()

    # RFC 9000 section 19.9

    def raise_max_data(self, value: int) -> None:
        """Grant the peer a larger connection window (MAX_DATA)."""
        self.max_data = value
        self._announce_max_data()

    def _announce_max_data(self) -> None:
        if not self._max_data_due:
            self._max_data_due = True
            self._queue.append(self._frame_max_data)

    def _frame_max_data(self) -> Frame:
        self._max_data_due = False
        return b"\x10" + encode(self.max_data), (self._on_max_data_delivery, ())

    def _on_max_data_delivery(self, state: QuicDeliveryState) -> None:
        if state is not ACKED:
            self._announce_max_data()

    # RFC 9000 section 19.11

    def grant_streams(self, more: int, limit: int) -> None:
        """Grant the peer ``more`` streams; ``limit`` is the number that it may have open."""
        self.max_streams += more
        if self.max_streams - self._max_streams_sent >= max(limit // STREAMS_STEP, 1):
            self._announce_max_streams()

    def _announce_max_streams(self) -> None:
        if not self._max_streams_due:
            self._max_streams_due = True
            self._queue.append(self._frame_max_streams)

    def _frame_max_streams(self) -> Frame:
        self._max_streams_due = False
        self._max_streams_sent = self.max_streams
        return b"\x12" + encode(self.max_streams), (self._on_max_streams_delivery, ())

    def _on_max_streams_delivery(self, state: QuicDeliveryState) -> None:
        if state is not ACKED:
            self._announce_max_streams()

    # RFC 9000 section 19.10

    def stream_limit(self, stream: AioquicStream) -> None:
        """Queue MAX_STREAM_DATA for a stream."""
        if not stream.limit_due:
            stream.limit_due = True
            self._queue.append(partial(self._frame_stream_limit, stream))

    def _frame_stream_limit(self, stream: AioquicStream) -> Frame | None:
        stream.limit_due = False
        if stream.receive.final is not None or stream.receive.stop_code is not None:
            return None
        frame = b"\x11" + stream.encoded_id + encode(stream.receive.limit)
        return frame, (self._on_stream_limit_delivery, (stream,))

    def _on_stream_limit_delivery(self, state: QuicDeliveryState, stream: AioquicStream) -> None:
        if state is not ACKED:
            self.stream_limit(stream)

    # RFC 9000 section 19.4

    def reset(self, stream: AioquicStream) -> None:
        """Queue RESET_STREAM for a stream."""
        self._queue.append(partial(self._frame_reset, stream))

    def _frame_reset(self, stream: AioquicStream) -> Frame | None:
        send = stream.send
        if not send.reset_due or send.code is None:
            return None
        send.reset_due = False
        frame = b"\x04" + stream.encoded_id + encode(send.code) + encode(send.offset)
        return frame, (self._on_reset_delivery, (stream,))

    def _on_reset_delivery(self, state: QuicDeliveryState, stream: AioquicStream) -> None:
        if stream.send.on_reset_delivery(state):
            self.reset(stream)

    # RFC 9000 section 19.5

    def stop(self, stream: AioquicStream) -> None:
        """Queue STOP_SENDING for a stream."""
        stream.receive.stop_due = True
        self._queue.append(partial(self._frame_stop, stream))

    def _frame_stop(self, stream: AioquicStream) -> Frame | None:
        receive = stream.receive
        if not receive.stop_due or receive.stop_code is None or receive.done:
            return None
        receive.stop_due = False
        frame = b"\x05" + stream.encoded_id + encode(receive.stop_code)
        return frame, (self._on_stop_delivery, (stream,))

    def _on_stop_delivery(self, state: QuicDeliveryState, stream: AioquicStream) -> None:
        if state is not ACKED and not stream.receive.done:
            self.stop(stream)
