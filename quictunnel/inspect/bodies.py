"""Body framing of HTTP/1 messages (RFC 9112 section 6.3), without storing the bytes.

h11 parses the heads only, because it would copy every byte of a large body. Each reader here takes bytes and
returns pieces of the body. Bytes that are content in any case can also be skipped unread (:meth:`skip`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    Sink = Callable[[memoryview], object]

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")


class BodyError(ValueError):
    """Error of a body whose framing is malformed."""


class Body(Protocol):
    """Reader of one message body."""

    @property
    def is_done(self) -> bool:
        """True at the end of the body."""

    @property
    def skippable(self) -> int:
        """Number of the next bytes that are content in any case."""

    def feed(self, data: memoryview, sink: Sink) -> int:
        """Read bytes, pass content to ``sink``, and return how many bytes belong to the body.

        Raises:
            BodyError: the framing is malformed.
        """

    def skip(self, size: int) -> bool:
        """Skip ``size`` bytes unread if all are skippable. Return False otherwise."""


class Length:
    """Body with a Content-Length."""

    def __init__(self, size: int) -> None:
        self._remaining = size

    @property
    def is_done(self) -> bool:
        """True at the end of the body."""
        return self._remaining == 0

    def feed(self, data: memoryview, sink: Sink) -> int:
        """Read bytes of the body."""
        used = min(self._remaining, len(data))
        self._remaining -= used
        sink(data[:used])
        return used

    @property
    def skippable(self) -> int:
        """Number of the next bytes that are content in any case."""
        return self._remaining

    def skip(self, size: int) -> bool:
        """Skip content unread."""
        if size > self._remaining:
            return False
        self._remaining -= size
        return True


class UntilClose:
    """Body that ends with the connection."""

    is_done = False
    skippable = limits.UNLIMITED

    def feed(self, data: memoryview, sink: Sink) -> int:
        """Read bytes of the body."""
        sink(data)
        return len(data)

    def skip(self, size: int) -> bool:  # noqa: ARG002 - any
        """Skip content unread."""
        return True


class Chunked:
    """Body in chunked transfer coding with an optional trailer (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self.is_done = False
        self._remaining = 0
        """Remaining bytes of the chunk."""
        self._is_behind_chunk = False
        """True if the next line is the empty one after a chunk."""
        self._is_trailer = False
        self._line = bytearray()

    def feed(self, data: memoryview, sink: Sink) -> int:
        """Read bytes of the body."""
        used = 0
        while used < len(data) and not self.is_done:
            if self._remaining:
                piece = data[used : used + self._remaining]
                self._remaining -= len(piece)
                used += len(piece)
                self._is_behind_chunk = not self._remaining
                sink(piece)
            else:
                used += self._read_line(data[used:])
        return used

    @property
    def skippable(self) -> int:
        """Number of the next bytes that are content in any case."""
        return max(0, self._remaining - 1)  # without the last byte: the line after the chunk must be read

    def skip(self, size: int) -> bool:
        """Skip content unread."""
        if size > self.skippable:
            return False
        self._remaining -= size
        return True

    def _read_line(self, data: memoryview) -> int:
        piece = bytes(data[: limits.MAX_CHUNK_LINE + 2])
        end = piece.find(b"\n")
        used = len(piece) if end < 0 else end + 1
        self._line += piece[:used]
        if len(self._line) > limits.MAX_CHUNK_LINE:
            raise BodyError("a line between chunks is too long")
        if end >= 0:
            line = bytes(self._line).rstrip(b"\r\n")
            self._line.clear()
            self._on_line(line)
        return used

    def _on_line(self, line: bytes) -> None:
        if self._is_behind_chunk:
            if line:
                raise BodyError("a chunk is longer than its size")
            self._is_behind_chunk = False
        elif self._is_trailer:
            self.is_done = not line
        else:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BodyError("a chunk does not begin with its size")
            self._remaining = int(match[1], 16)
            self._is_trailer = self._remaining == 0
