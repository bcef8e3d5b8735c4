"""Frames of the control stream: four bytes of length, big-endian, then that many bytes of one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import MAX_MESSAGE, AnyMessage, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_SIZE = 4
"""Bytes of the length before each message."""


def frame(message: AnyMessage) -> bytes:
    """Return a message with its length header, as it is sent."""
    payload = encode(message)
    assert len(payload) <= MAX_MESSAGE
    return len(payload).to_bytes(HEADER_SIZE, "big") + payload


class FrameReader:
    """Parser that splits the control stream into messages.

    It buffers at most one incomplete frame (``HEADER_SIZE + MAX_MESSAGE`` bytes) beyond the bytes of the last
    feed, because a length above the limit is rejected as soon as it is read.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyMessage]:
        """Yield the messages that ``data`` completes. Exhaust the iterator before the next feed.

        Raises:
            ProtocolError: at the first malformed message. The reader must not be used again.
        """
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER_SIZE:
                size = int.from_bytes(self._buffer[start : start + HEADER_SIZE], "big")
                if not 0 < size <= MAX_MESSAGE:
                    raise ProtocolError(f"control frame of {size} bytes; at most {MAX_MESSAGE} are allowed")
                end = start + HEADER_SIZE + size
                if len(self._buffer) < end:
                    return
                payload = bytes(self._buffer[start + HEADER_SIZE : end])
                start = end
                yield decode(payload)
        finally:
            del self._buffer[:start]

    @property
    def pending(self) -> int:
        """Size of the buffered incomplete frame, in bytes."""
        return len(self._buffer)
