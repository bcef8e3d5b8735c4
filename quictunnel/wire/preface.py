"""The preface of a data stream: which lease a visitor came for, and who it is.

The edge writes it as the first bytes of each stream it opens: one byte of length, then that many bytes of
a MessagePack array. The visitor's own bytes follow at once, usually in the same datagram. Only the edge
writes one; the stream's other direction carries the origin's bytes alone.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import ADDRESS, LeaseNumber, StreamNumber, TcpPort

MAX_PREFACE = 255
"""What one byte of length can say; a real one has about 40 bytes."""
MAX_ADDRESS = 64
"""An IPv6 address with a zone."""


class Preface(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first words on a data stream."""

    stream: StreamNumber
    """The edge's number for the stream within the session, starting at 0 and rising by one; credits name it."""
    lease: LeaseNumber
    """The client's number of the lease, as in Bind."""
    tls: bool
    """Whether the visitor came over TLS (terminated at the edge) or over plain TCP."""
    host: Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS, pattern=ADDRESS)]
    """The visitor's address."""
    port: TcpPort


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Preface)


def encode_preface(preface: Preface) -> bytes:
    """A preface as it travels."""
    payload = _encoder.encode(preface)
    assert len(payload) <= MAX_PREFACE
    return bytes((len(payload),)) + payload


class PrefaceReader:
    """Takes the preface off the front of a stream. Holds at most ``MAX_PREFACE`` bytes."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[Preface, bytes] | None:
        """The preface and the bytes behind it, or None while it is incomplete. Raises ProtocolError."""
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
