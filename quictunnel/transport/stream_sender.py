"""The sending direction of a stream: what is kept for the peer, what credit allows, and the end behind it.

Nothing is written beyond the credit. What was not credited is kept, so that it can be sent again on a new link.
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
blocked before it looks for its answer. More than the socket buffers of a connection hold; a sender that has sent
so much and not read what is waiting for it is reset, as it would be without a tunnel."""


class KeptBytes(Protocol):
    """The account of what all streams of a session keep."""

    def keep(self, more: int) -> None:
        """Count so many bytes more, or less when it is negative."""


class StreamSender(SendWindow):
    """The bytes of one stream on their way to the peer."""

    __slots__ = ("_excess", "buffer", "is_blocked", "is_done", "is_end_given", "is_finishing")

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.buffer = SendBuffer()
        self.is_blocked = False
        """The engine took less than it was given; it says when it takes more."""
        self.is_finishing = False
        """No more bytes will be written."""
        self.is_end_given = False
        """The engine has the end."""
        self.is_done = False
        """The peer has consumed the end."""
        self._excess = 0
        """Bytes kept beyond an initial window, as the session counts them."""

    @property
    def is_delivered(self) -> bool:
        """Return True if the peer has consumed everything that was written."""
        return self.is_done if self.is_finishing else not self.buffer.held

    def push(self, connection: Connection, quic_stream: int) -> None:
        """Hand to the engine what the credit allows and the engine takes, and the end when it is due."""
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
                self.is_blocked = True
                break
        else:
            if self.is_finishing and not self.is_end_given:
                connection.finish(quic_stream)
                self.is_end_given = True

    def credit(self, consumed: int, limit: int) -> None:
        """Forget what the peer has consumed, and send up to ``limit`` from now on. Raises ProtocolError."""
        buffer = self.buffer
        self.grant(consumed, limit, buffer.sent + self.is_end_given)
        buffer.credit(min(consumed, buffer.end))
        if self.is_end_given and consumed > buffer.end:
            self.is_done = True

    def resume(self, received: int, consumed: int, limit: int) -> None:
        """Go back to what the peer has not received on the link that was lost. Raises ProtocolError."""
        buffer = self.buffer
        if not buffer.base <= received <= buffer.sent + self.is_end_given or consumed > received:
            raise ProtocolError("a standing that cannot be")
        self.grant(consumed, limit, received)
        buffer.credit(min(consumed, buffer.end))
        buffer.rewind(min(received, buffer.end))
        self.is_end_given = received > buffer.end
        if self.is_end_given and consumed > buffer.end:
            self.is_done = True

    def restart(self) -> None:
        """Send everything again: the peer has never heard of the stream."""
        self.buffer.rewind(0)
        self.is_end_given = False

    def discard(self) -> None:
        """Keep nothing any more, because the peer takes no more. What is still written is counted and dropped."""
        self.buffer.drop()
        self.limit = self.written + MAX_DISCARDED
        self.is_blocked = False

    def count_kept(self, account: KeptBytes) -> None:
        """Tell the session's account how much more or less is kept since the last call."""
        excess = max(0, self.buffer.held - INITIAL_WINDOW)
        if excess != self._excess:
            account.keep(excess - self._excess)
            self._excess = excess

    def clear(self, account: KeptBytes) -> None:
        """Forget everything; the stream is over."""
        account.keep(-self._excess)
        self.buffer.clear()
