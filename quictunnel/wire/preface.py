"""Preface of a data stream: the stream's number, the lease that it belongs to, and the visitor's address.

The edge writes it as the first bytes of each stream that it opens: one byte of length, then that many bytes of
a MessagePack array. The visitor's own bytes follow at once, usually in the same datagram. Only the edge writes a
preface; the other direction of the stream has only the origin's bytes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import ADDRESS_PATTERN, LeaseNumber, StreamNumber, TcpPort

MAX_PREFACE = 255
"""Bytes of a preface: the largest value of its length byte. A typical preface has about 40 bytes."""
MAX_ADDRESS = 64
"""Characters of an address: an IPv6 address with a zone fits."""


class Preface(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Header that the edge writes at the beginning of each data stream."""

    stream: StreamNumber
    """The edge's number for the stream within the session, starting at 0 and rising by one; credits name it."""
    lease: LeaseNumber
    """The client's number of the lease, as in Bind."""
    tls: bool
    """True for a visitor over TLS (terminated at the edge), False for plain TCP."""
    host: Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS, pattern=ADDRESS_PATTERN)]
    """The visitor's IP address."""
    port: TcpPort
    """The visitor's TCP port."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Preface)


def encode_preface(preface: Preface) -> bytes:
    """Return a preface with its length byte, as it is sent."""
    payload = _encoder.encode(preface)
    assert len(payload) <= MAX_PREFACE
    return bytes((len(payload),)) + payload


class PrefaceReader:
    """Parser for the preface at the beginning of a stream. Buffers at most ``MAX_PREFACE`` bytes."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[Preface, bytes] | None:
        """Return the preface and the bytes behind it, or None while it is incomplete.

        Raises:
            ProtocolError: the preface is malformed.
        """
        buffer = self._buffer + data
        if not buffer or len(buffer) <= buffer[0]:
            if buffer and buffer[0] == 0:
                raise ProtocolError("malformed stream preface")
            self._buffer = buffer
            return None
        end = 1 + buffer[0]
        try:
            preface = _decoder.decode(buffer[1:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
            raise ProtocolError("malformed stream preface") from None
        return preface, buffer[end:]
