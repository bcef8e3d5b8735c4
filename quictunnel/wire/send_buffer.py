"""What a sender keeps: bytes not yet given to the engine, and bytes given to it but not yet credited.

The second kind is why a stream can outlive its connection: after a lost link the sender goes back to the
offset that the receiver names and sends from there. Chunks are kept as references, never copied; their sum
is bounded by the stream's window, because nothing is written beyond the credit.
"""

from __future__ import annotations

from collections import deque


class SendBuffer:
    """The unacknowledged tail of one direction of one stream.

    ``base`` (credited) <= ``sent`` (given to the engine) <= ``end`` (written), offsets in bytes.
    """

    __slots__ = ("_kept", "_unsent", "base", "end", "sent")

    def __init__(self) -> None:
        # None while empty: an empty deque takes 760 bytes, and most streams are idle most of the time.
        self._kept: deque[bytes | memoryview] | None = None
        self._unsent: deque[bytes | memoryview] | None = None
        self.base = 0
        self.sent = 0
        self.end = 0

    def append(self, chunk: bytes | memoryview) -> None:
        """Keep what was written; it is unsent. The chunk must not change any more."""
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(chunk)
        self.end += len(chunk)

    @property
    def next_chunk(self) -> bytes | memoryview | None:
        """The first unsent bytes, as far as they lie in one piece."""
        return self._unsent[0] if self._unsent else None

    def mark_sent(self, size: int) -> None:
        """The engine took ``size`` bytes of :attr:`next_chunk`."""
        assert self._unsent is not None
        chunk = self._unsent.popleft()
        if size < len(chunk):
            view = memoryview(chunk)
            self._unsent.appendleft(view[size:])
            chunk = view[:size]
        elif not self._unsent:
            self._unsent = None
        if size:
            if self._kept is None:
                self._kept = deque()
            self._kept.append(chunk)
            self.sent += size

    def credit(self, offset: int) -> None:
        """The receiver has everything before ``offset``, which lies between base and sent: forget it."""
        assert self.base <= offset <= self.sent
        kept = self._kept
        while kept is not None and self.base < offset:
            chunk = kept.popleft()
            size = len(chunk)
            if self.base + size > offset:
                kept.appendleft(memoryview(chunk)[offset - self.base :])
                size = offset - self.base
            self.base += size
        if not kept:
            self._kept = None

    def rewind(self, offset: int) -> None:
        """A new link, whose other end has everything before ``offset`` (between base and sent): the rest is unsent
        again."""
        assert self.base <= offset <= self.sent
        kept, unsent = self._kept, self._unsent or deque()
        while kept is not None and self.sent > offset:
            chunk = kept.pop()
            start = self.sent - len(chunk)
            if start < offset:
                view = memoryview(chunk)
                kept.append(view[: offset - start])
                chunk, start = view[offset - start :], offset
            unsent.appendleft(chunk)
            self.sent = start
        self._kept, self._unsent = kept or None, unsent or None

    def drop(self) -> None:
        """The receiver takes no more: nothing is kept, and what was not sent never will be."""
        self._kept = self._unsent = None
        self.base = self.end = self.sent

    def pieces(self) -> list[bytes | memoryview]:
        """Everything that is kept, in order."""
        return [*(self._kept or ()), *(self._unsent or ())]

    def clear(self) -> None:
        """Forget everything; the stream is over."""
        self._kept = self._unsent = None

    @property
    def held(self) -> int:
        """Bytes kept."""
        return self.end - self.base
