"""Sending direction of a stream: unacknowledged bytes, credit, and the end.

Nothing is sent beyond the credit. Bytes are retained until the peer has credited them, so that they can be sent
again on a new link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.wire.credit import INITIAL_WINDOW, SendWindow
from quictunnel.wire.send_buffer import SendBuffer

if TYPE_CHECKING:
    from quictunnel.transport.engine import Connection

MAX_DISCARDED: Final = 16 * 1024 * 1024
"""Bytes taken from a TCP connection and dropped after the peer has stopped reading them, so that a sender is not
blocked before it reads its answer. More than the socket buffers of a connection hold; a sender that has sent that
much and has not read what waits for it is reset, as it would be without a tunnel."""


class RetainedBytes(Protocol):
    """Count of the retained bytes of all streams of a session: written, and not credited by the peer yet."""

    def add_retained(self, more: int) -> None:
        """Add bytes to the count; a negative number subtracts."""


class StreamSender(SendWindow):
    """Bytes of one stream that are sent to the peer."""

    __slots__ = ("_excess", "buffer", "is_done", "is_end_given", "is_finishing", "is_writing_paused")

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.buffer = SendBuffer()
        self.is_writing_paused = False
        """True after the engine accepted less than it was given, until it is writable again."""
        self.is_finishing = False
        """True once the last byte was written."""
        self.is_end_given = False
        """True once the end was given to the engine."""
        self.is_done = False
        """True once the peer has consumed the end."""
        self._excess = 0
        """Bytes retained beyond an initial window, as the session counts them."""

    @property
    def is_delivered(self) -> bool:
        """Return True if the peer has consumed everything that was written."""
        return self.is_done if self.is_finishing else not self.buffer.size

    def push(self, connection: Connection, quic_stream: int) -> None:
        """Pass bytes to the engine, as far as credit and engine allow, and the end after the last byte."""
        buffer = self.buffer
        while (chunk := buffer.next_chunk) is not None:
            allowed = self.limit - buffer.sent
            if allowed <= 0:
                break
            if len(chunk) > allowed:
                chunk = memoryview(chunk)[:allowed]
            taken = connection.write(quic_stream, chunk)
            buffer.mark_sent(taken)
            if taken < len(chunk):
                self.is_writing_paused = True
                break
        else:
            if self.is_finishing and not self.is_end_given:
                connection.finish(quic_stream)
                self.is_end_given = True

    def credit(self, consumed: int, limit: int) -> None:
        """Drop the bytes that the peer has consumed, and send up to ``limit`` from now on. Raises
        ProtocolError."""
        buffer = self.buffer
        self.apply_credit(consumed, limit, buffer.sent + self.is_end_given)
        buffer.credit(min(consumed, buffer.end))
        if self.is_end_given and consumed > buffer.end:
            self.is_done = True

    def resume(self, received: int, consumed: int, limit: int) -> None:
        """Rewind to the first byte that the peer has not received on the lost link. Raises ProtocolError."""
        buffer = self.buffer
        if not buffer.base <= received <= buffer.sent + self.is_end_given or consumed > received:
            raise ProtocolError("invalid offsets of a stream in a ResumeState")
        self.apply_credit(consumed, limit, received)
        buffer.credit(min(consumed, buffer.end))
        buffer.rewind(min(received, buffer.end))
        self.is_end_given = received > buffer.end
        if self.is_end_given and consumed > buffer.end:
            self.is_done = True

    def send_all_again(self) -> None:
        """Send everything again: the peer does not know the stream."""
        self.buffer.rewind(0)
        self.is_end_given = False

    def discard(self) -> None:
        """Drop all bytes, because the peer refuses them. Bytes written from now on are counted and dropped."""
        self.buffer.drop()
        self.limit = self.written + MAX_DISCARDED
        self.is_writing_paused = False

    def count_retained(self, total: RetainedBytes) -> None:
        """Add the change since the last call to the session's count of retained bytes."""
        excess = max(0, self.buffer.size - INITIAL_WINDOW)
        if excess != self._excess:
            total.add_retained(excess - self._excess)
            self._excess = excess

    def clear(self, total: RetainedBytes) -> None:
        """Drop all bytes; the stream is over."""
        total.add_retained(-self._excess)
        self.buffer.clear()
