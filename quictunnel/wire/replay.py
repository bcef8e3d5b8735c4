"""What a sender keeps: bytes not yet given to the engine, and bytes given to it but not yet credited.

The second kind is why a stream can outlive its connection: after a lost link the sender goes back to the
offset that the receiver names and sends from there. Chunks are kept as references, never copied; their sum
is bounded by the stream's window, because nothing is written beyond the credit.
"""

from __future__ import annotations

from collections import deque


class Replay:
    """The unacknowledged tail of one direction of one stream.

    ``base`` (credited) <= ``sent`` (given to the engine) <= ``end`` (written), offsets in bytes.
    """

    __slots__ = ("_kept", "_unsent", "base", "end", "sent")

    def __init__(self) -> None:
        self._kept: deque[bytes | memoryview] = deque()
        self._unsent: deque[bytes | memoryview] = deque()
        self.base = 0
        self.sent = 0
        self.end = 0

    def append(self, chunk: bytes | memoryview) -> None:
        """Keep what was written; it is unsent. The chunk must not change any more."""
        self._unsent.append(chunk)
        self.end += len(chunk)

    @property
    def next_chunk(self) -> bytes | memoryview | None:
        """The first unsent bytes, as far as they lie in one piece."""
        return self._unsent[0] if self._unsent else None

    def mark_sent(self, size: int) -> None:
        """The engine took ``size`` bytes of :attr:`next_chunk`."""
        chunk = self._unsent.popleft()
        if size < len(chunk):
            view = memoryview(chunk)
            self._unsent.appendleft(view[size:])
            chunk = view[:size]
        if size:
            self._kept.append(chunk)
            self.sent += size

    def credit(self, offset: int) -> None:
        """The receiver has everything before ``offset``, which lies between base and sent: forget it."""
        assert self.base <= offset <= self.sent
        while self.base < offset:
            chunk = self._kept.popleft()
            size = len(chunk)
            if self.base + size > offset:
                self._kept.appendleft(memoryview(chunk)[offset - self.base :])
                size = offset - self.base
            self.base += size

    def rewind(self) -> None:
        """A new link: everything not credited is unsent again."""
        self._unsent.extendleft(reversed(self._kept))
        self._kept.clear()
        self.sent = self.base

    def clear(self) -> None:
        """Forget everything; the stream is over."""
        self._kept.clear()
        self._unsent.clear()

    @property
    def held(self) -> int:
        """Bytes kept."""
        return self.end - self.base
