"""WebSocket messages, read from a copy of the bytes (RFC 6455), inflated where they are compressed (RFC 7692)."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONTINUATION: Final = 0
KINDS: Final = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
MAX_CONTROL: Final = 125
"""Bytes of a control frame (RFC 6455 section 5.5)."""
TAIL: Final = b"\x00\x00\xff\xff"
"""What a compressed message is without (RFC 7692 section 7.2.1)."""
TOO_LARGE: Final = "this direction is compressed and a message became too large; what follows is shown as sizes"


class FrameError(ValueError):
    """These are no WebSocket frames."""


class WebSocketMessage(NamedTuple):
    """A whole message or control frame."""

    kind: str
    data: bytes
    size: int
    note: str


class Deflate(NamedTuple):
    """What permessage-deflate was agreed to mean, for one direction."""

    wbits: int
    keeps_context: bool


def agreed(extensions: Iterable[bytes], *, from_server: bool) -> Deflate | None:
    """The compression of one direction, from ``Sec-WebSocket-Extensions`` of the response."""
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
    """Undoes compression as it comes. Bounded: see ``limits.MAX_INFLATED``."""

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate
        self._stream = zlib.decompressobj(-deflate.wbits)
        self.is_broken = False
        self._made = 0

    def feed(self, data: bytes, room: int) -> bytes:
        """What it says, the first ``room`` bytes of it. Raises FrameError."""
        out = bytearray()
        while data and not self.is_broken:
            try:
                piece = self._stream.decompress(data, limits.MAX_FRAME)
            except zlib.error as error:
                raise FrameError(f"compressed wrongly ({error})") from None
            data = self._stream.unconsumed_tail
            self._made += len(piece)
            out += piece[: max(0, room - len(out))]
            if self._made > limits.MAX_INFLATED:
                self.is_broken = True
                self._stream = zlib.decompressobj(-15)
        return bytes(out)

    @property
    def made(self) -> int:
        """Bytes that the message has become so far."""
        return self._made

    def end(self) -> None:
        """The message is over."""
        self._made = 0
        if not self._deflate.keeps_context and not self.is_broken:
            self._stream = zlib.decompressobj(-self._deflate.wbits)


class Frames:
    """One direction."""

    def __init__(self, deflate: Deflate | None) -> None:
        self._inflater = None if deflate is None else Inflater(deflate)
        self._head = bytearray()
        self._left = 0
        """Bytes of the frame's payload that are still to come."""
        self._at = 0
        """How many of it have come, which the mask turns by."""
        self._mask = b""
        self._opcode = 0
        self._is_last = False
        self._control = bytearray()
        # The message that is under way, in one frame or several.
        self._kind = ""
        self._kept = bytearray()
        self._size = 0
        self._is_compressed = False

    def feed(self, data: memoryview) -> Iterator[WebSocketMessage]:
        """Take bytes; give what became whole by them. Raises FrameError."""
        while data:
            if not self._left:
                data = self._read_head(data)
                if not self._mask_is_known:
                    return
            piece, data = data[: self._left], data[self._left :]
            if piece:
                self._payload(piece)
                self._left -= len(piece)
            if not self._left:
                self._head.clear()
                if (said := self._frame_ended()) is not None:
                    yield said

    @property
    def is_full(self) -> bool:
        """Nothing more of the message under way is kept."""
        return len(self._kept) >= limits.MAX_FRAME or self._size > len(self._kept)

    @property
    def certain(self) -> int:
        """How many of the bytes that come next are payload of this frame, not its last, and need not be read."""
        return 0 if self._opcode >= 8 or self._is_compressed else max(0, self._left - 1)

    def pass_over(self, size: int) -> bool:
        """Whether so many bytes are certain; if so they count as read."""
        if size > self.certain:
            return False
        self._left -= size
        self._at += size
        self._size += size
        return True

    @property
    def _mask_is_known(self) -> bool:
        """Whether the head of the frame is complete."""
        return self._head_size() == len(self._head)

    def _head_size(self) -> int:
        head = self._head
        if len(head) < 2:
            return 2
        length = head[1] & 0x7F
        return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & 0x80 else 0)

    def _read_head(self, data: memoryview) -> memoryview:
        """Take what is missing of a frame's head; give what is left."""
        while data and (missing := self._head_size() - len(self._head)):
            self._head += data[:missing]
            data = data[missing:]
        if self._mask_is_known:
            self._has_head()
        return data

    def _has_head(self) -> None:
        head = self._head
        length = head[1] & 0x7F
        wide = 2 if length == 126 else 8 if length == 127 else 0
        self._left = int.from_bytes(head[2 : 2 + wide], "big") if wide else length
        self._mask = bytes(head[2 + wide :])
        self._at = 0
        self._opcode = head[0] & 0x0F
        self._is_last = bool(head[0] & 0x80)
        if head[0] & 0x30 or self._left >> 63:
            raise FrameError("a frame with bits that mean nothing here")
        compressed = bool(head[0] & 0x40)
        if self._opcode >= 8:
            if self._opcode not in KINDS or not self._is_last or self._left > MAX_CONTROL or compressed:
                raise FrameError("no control frame can be like this")
            self._control.clear()
        elif self._opcode == CONTINUATION:
            if not self._kind or compressed:
                raise FrameError("a continuation of nothing")
        else:
            if self._opcode not in KINDS or self._kind:
                raise FrameError("a message inside another")
            if compressed and self._inflater is None:
                raise FrameError("compressed, and that was not agreed")
            self._kind = KINDS[self._opcode]
            self._kept, self._size, self._is_compressed = bytearray(), 0, compressed

    def _payload(self, piece: memoryview) -> None:
        is_control = self._opcode >= 8
        inflater = self._inflater if self._is_compressed and not is_control else None
        room = limits.MAX_FRAME - len(self._kept)
        if is_control:
            room = MAX_CONTROL
        elif inflater is None and self._size > len(self._kept):
            room = 0  # behind a gap
        wanted = piece if inflater is not None and not inflater.is_broken else piece[: max(0, room)]
        data = _unmask(bytes(wanted), self._mask, self._at)
        self._at += len(piece)
        if is_control:
            self._control += data
        elif inflater is None:
            self._size += len(piece)
            self._kept += data
        elif inflater.is_broken:
            self._size += len(piece)
        else:
            self._kept += inflater.feed(data, room)

    def _frame_ended(self) -> WebSocketMessage | None:
        if self._opcode >= 8:
            return WebSocketMessage(KINDS[self._opcode], bytes(self._control), len(self._control), "")
        if not self._is_last:
            return None
        note = ""
        if self._is_compressed and self._inflater is not None:
            inflater = self._inflater
            self._kept += inflater.feed(TAIL, limits.MAX_FRAME - len(self._kept))
            self._size = max(self._size, inflater.made)
            note = TOO_LARGE if inflater.is_broken else "compressed"
            inflater.end()
        said = WebSocketMessage(self._kind, bytes(self._kept), self._size, note)
        self._kind, self._kept = "", bytearray()
        return said


def _unmask(data: bytes, mask: bytes, at: int) -> bytes:
    """XOR with the mask, turned to where the data lies in the frame."""
    if not mask or not data:
        return data
    turned = mask[at % 4 :] + mask[: at % 4]
    keys = (turned * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(len(data), "little")
