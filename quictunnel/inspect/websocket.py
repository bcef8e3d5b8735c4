"""Passive WebSocket parser (RFC 6455) with decompression (RFC 7692)."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONTINUATION: Final = 0
OPCODE_NAMES: Final = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
MAX_CONTROL: Final = 125
"""Bytes of a control frame (RFC 6455 section 5.5)."""
DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"
"""Bytes that the sender removes from a compressed message (RFC 7692 section 7.2.1)."""
TOO_LARGE: Final = "a compressed message was too large; later messages of this direction are shown only as sizes"


class FrameError(ValueError):
    """Error of malformed WebSocket frames."""


class WebSocketMessage(NamedTuple):
    """Complete message or control frame."""

    kind: str
    data: bytes
    size: int
    note: str


class Deflate(NamedTuple):
    """Negotiated permessage-deflate parameters of one direction."""

    wbits: int
    keeps_context: bool


def negotiated_deflate(extensions: Iterable[bytes], *, from_server: bool) -> Deflate | None:
    """Return the compression of one direction from the response's ``Sec-WebSocket-Extensions``, or None."""
    for offer in b",".join(extensions).lower().split(b","):
        name, *given = [part.strip() for part in offer.split(b";")]
        if name == b"permessage-deflate":
            who = b"server" if from_server else b"client"
            wbits = 15
            for parameter in given:
                if match := re.fullmatch(who + rb'_max_window_bits\s*=\s*"?(\d{1,2})"?', parameter):
                    wbits = min(15, max(8, int(match[1])))
            return Deflate(wbits, who + b"_no_context_takeover" not in given)
    return None


class Inflater:
    """Incremental decompressor with a limit for each message (``limits.MAX_INFLATED``)."""

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate
        self._stream = zlib.decompressobj(-deflate.wbits)
        self.is_broken = False
        self._produced = 0

    def feed(self, data: bytes, room: int) -> bytes:
        """Decompress data and return its first ``room`` bytes.

        Raises:
            FrameError: the data is not valid deflate.
        """
        out = bytearray()
        while data and not self.is_broken:
            try:
                piece = self._stream.decompress(data, limits.MAX_FRAME)
            except zlib.error as error:
                raise FrameError(f"invalid compressed data ({error})") from None
            data = self._stream.unconsumed_tail
            self._produced += len(piece)
            out += piece[: max(0, room - len(out))]
            if self._produced > limits.MAX_INFLATED:
                self.is_broken = True
                self._stream = zlib.decompressobj(-15)
        return bytes(out)

    @property
    def produced(self) -> int:
        """Decompressed bytes of the current message so far."""
        return self._produced

    def end(self) -> None:
        """Finish the current message."""
        self._produced = 0
        if not self._deflate.keeps_context and not self.is_broken:
            self._stream = zlib.decompressobj(-self._deflate.wbits)


class FrameParser:
    """Parser of one direction."""

    def __init__(self, deflate: Deflate | None) -> None:
        self._inflater = None if deflate is None else Inflater(deflate)
        self._head = bytearray()
        self._remaining = 0
        """Remaining bytes of the frame's payload."""
        self._offset = 0
        """Offset in the frame's payload, which selects the mask's byte."""
        self._mask = b""
        self._opcode = 0
        self._is_last = False
        self._control = bytearray()
        # The current message, which may have several frames.
        self._kind = ""
        self._stored = bytearray()
        self._size = 0
        self._is_compressed = False

    def feed(self, data: memoryview) -> Iterator[WebSocketMessage]:
        """Parse bytes and yield the completed messages.

        Raises:
            FrameError: the frames are malformed.
        """
        while data:
            if not self._remaining:
                data = self._read_head(data)
                if not self._is_header_complete:
                    return
            piece, data = data[: self._remaining], data[self._remaining :]
            if piece:
                self._payload(piece)
                self._remaining -= len(piece)
            if not self._remaining:
                self._head.clear()
                if (message := self._frame_ended()) is not None:
                    yield message

    @property
    def is_full(self) -> bool:
        """True if no more bytes of the current message will be stored."""
        return len(self._stored) >= limits.MAX_FRAME or self._size > len(self._stored)

    @property
    def skippable(self) -> int:
        """Number of the next bytes that are payload and need not be read; the frame's last byte is not one of
        them."""
        return 0 if self._opcode >= 8 or self._is_compressed else max(0, self._remaining - 1)

    def skip(self, size: int) -> bool:
        """Skip ``size`` bytes unread if all are skippable. Return False otherwise."""
        if size > self.skippable:
            return False
        self._remaining -= size
        self._offset += size
        self._size += size
        return True

    @property
    def _is_header_complete(self) -> bool:
        """True if the frame's header is complete."""
        return self._head_size() == len(self._head)

    def _head_size(self) -> int:
        head = self._head
        if len(head) < 2:
            return 2
        length = head[1] & 0x7F
        return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & 0x80 else 0)

    def _read_head(self, data: memoryview) -> memoryview:
        """Read the rest of a frame's header and return the remaining data."""
        while data and (missing := self._head_size() - len(self._head)):
            self._head += data[:missing]
            data = data[missing:]
        if self._is_header_complete:
            self._on_header()
        return data

    def _on_header(self) -> None:
        head = self._head
        length = head[1] & 0x7F
        wide = 2 if length == 126 else 8 if length == 127 else 0
        self._remaining = int.from_bytes(head[2 : 2 + wide], "big") if wide else length
        self._mask = bytes(head[2 + wide :])
        self._offset = 0
        self._opcode = head[0] & 0x0F
        self._is_last = bool(head[0] & 0x80)
        if head[0] & 0x30 or self._remaining >> 63:
            raise FrameError("a frame with reserved bits")
        compressed = bool(head[0] & 0x40)
        if self._opcode >= 8:
            if (
                self._opcode not in OPCODE_NAMES
                or not self._is_last
                or self._remaining > MAX_CONTROL
                or compressed
            ):
                raise FrameError("an invalid control frame")
            self._control.clear()
        elif self._opcode == CONTINUATION:
            if not self._kind or compressed:
                raise FrameError("a continuation without a message")
        else:
            if self._opcode not in OPCODE_NAMES or self._kind:
                raise FrameError("a message inside another")
            if compressed and self._inflater is None:
                raise FrameError("compression that was not negotiated")
            self._kind = OPCODE_NAMES[self._opcode]
            self._stored, self._size, self._is_compressed = bytearray(), 0, compressed

    def _payload(self, piece: memoryview) -> None:
        is_control = self._opcode >= 8
        inflater = self._inflater if self._is_compressed and not is_control else None
        room = limits.MAX_FRAME - len(self._stored)
        if is_control:
            room = MAX_CONTROL
        elif inflater is None and self._size > len(self._stored):
            room = 0  # after a gap
        wanted = piece if inflater is not None and not inflater.is_broken else piece[: max(0, room)]
        data = _unmask(bytes(wanted), self._mask, self._offset)
        self._offset += len(piece)
        if is_control:
            self._control += data
        elif inflater is None:
            self._size += len(piece)
            self._stored += data
        elif inflater.is_broken:
            self._size += len(piece)
        else:
            self._stored += inflater.feed(data, room)

    def _frame_ended(self) -> WebSocketMessage | None:
        if self._opcode >= 8:
            return WebSocketMessage(OPCODE_NAMES[self._opcode], bytes(self._control), len(self._control), "")
        if not self._is_last:
            return None
        note = ""
        if self._is_compressed and self._inflater is not None:
            inflater = self._inflater
            self._stored += inflater.feed(DEFLATE_TAIL, limits.MAX_FRAME - len(self._stored))
            self._size = max(self._size, inflater.produced)
            note = TOO_LARGE if inflater.is_broken else "compressed"
            inflater.end()
        message = WebSocketMessage(self._kind, bytes(self._stored), self._size, note)
        self._kind, self._stored = "", bytearray()
        return message


def _unmask(data: bytes, mask: bytes, at: int) -> bytes:
    """Apply the mask to data at an offset ``at`` of the payload."""
    if not mask or not data:
        return data
    turned = mask[at % 4 :] + mask[: at % 4]
    keys = (turned * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(len(data), "little")
