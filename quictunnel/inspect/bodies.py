"""Where a message's body ends (RFC 9112 section 6.3), found in a copy of the bytes and without keeping them.

h11 reads the heads; a body is counted here, because h11 would copy every byte of a gigabyte. Each reader takes
bytes and gives pieces of the body; what it can be sure of it also passes over unseen (:meth:`pass_over`).
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
    """The body is not framed as its head says."""


class Body(Protocol):
    @property
    def is_done(self) -> bool: ...

    @property
    def certain(self) -> int:
        """How many of the bytes that come next are content of this body, whatever they are."""

    def feed(self, data: memoryview, sink: Sink) -> int:
        """Take bytes; how many of them were the body's. Raises BodyError."""

    def pass_over(self, size: int) -> bool:
        """Whether so many bytes are certain; if so they count as read."""


class Length:
    """So many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def is_done(self) -> bool:
        return self._left == 0

    def feed(self, data: memoryview, sink: Sink) -> int:
        used = min(self._left, len(data))
        self._left -= used
        sink(data[:used])
        return used

    @property
    def certain(self) -> int:
        return self._left

    def pass_over(self, size: int) -> bool:
        if size > self._left:
            return False
        self._left -= size
        return True


class UntilClose:
    """Everything that comes."""

    is_done = False
    certain = limits.ENDLESS

    def feed(self, data: memoryview, sink: Sink) -> int:
        sink(data)
        return len(data)

    def pass_over(self, size: int) -> bool:  # noqa: ARG002 - any
        return True


class Chunked:
    """Chunks, each behind its size, and a trailer (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self.is_done = False
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._is_behind_chunk = False
        """The next line is the empty one behind a chunk."""
        self._is_trailer = False
        self._line = bytearray()

    def feed(self, data: memoryview, sink: Sink) -> int:
        used = 0
        while used < len(data) and not self.is_done:
            if self._left:
                piece = data[used : used + self._left]
                self._left -= len(piece)
                used += len(piece)
                self._is_behind_chunk = not self._left
                sink(piece)
            else:
                used += self._read_line(data[used:])
        return used

    @property
    def certain(self) -> int:
        return max(0, self._left - 1)  # not to its end: what follows it has to be read

    def pass_over(self, size: int) -> bool:
        if size > self.certain:
            return False
        self._left -= size
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
            self._has_line(line)
        return used

    def _has_line(self, line: bytes) -> None:
        if self._is_behind_chunk:
            if line:
                raise BodyError("a chunk is longer than it said")
            self._is_behind_chunk = False
        elif self._is_trailer:
            self.is_done = not line
        else:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise BodyError("a chunk does not begin with its size")
            self._left = int(match[1], 16)
            self._is_trailer = self._left == 0
