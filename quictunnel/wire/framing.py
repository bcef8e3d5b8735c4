"""Frames of the control stream: four bytes of length, big-endian, then that many bytes of one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import MAX_MESSAGE, AnyMessage, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = 4


def frame(message: AnyMessage) -> bytes:
    """A message as it travels."""
    payload = encode(message)
    assert len(payload) <= MAX_MESSAGE
    return len(payload).to_bytes(HEADER, "big") + payload


class FrameReader:
    """Cuts a byte stream into messages. Holds at most one incomplete frame (``HEADER + MAX_MESSAGE``) beyond
    the bytes of the last feed, because a length above the bound is refused as soon as it is read."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyMessage]:
        """Messages completed by ``data``. Raises ProtocolError at the first bad one; the reader is then of no
        further use. The iterator must be exhausted before the next feed."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER:
                size = int.from_bytes(self._buffer[start : start + HEADER], "big")
                if not 0 < size <= MAX_MESSAGE:
                    raise ProtocolError(f"control frame of {size} bytes; at most {MAX_MESSAGE} are allowed")
                end = start + HEADER + size
                if len(self._buffer) < end:
                    return
                payload = bytes(self._buffer[start + HEADER : end])
                start = end
                yield decode(payload)
        finally:
            del self._buffer[:start]

    @property
    def pending(self) -> int:
        """Bytes of the incomplete frame held."""
        return len(self._buffer)
