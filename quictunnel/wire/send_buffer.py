"""Send buffer of a stream: bytes that the engine has not taken yet, and bytes sent but not yet credited.

The second part lets a stream outlive its connection: after a lost link the sender goes back to the offset that
the receiver names and sends again from there. Chunks are kept as references, never copied. Their total size is
bounded by the stream's window, because nothing is written beyond the credit.
"""

from __future__ import annotations

from collections import deque


class SendBuffer:
    """Unacknowledged bytes of one direction of one stream.

    ``base`` (credited) <= ``sent`` (given to the engine) <= ``end`` (written), offsets in bytes.
    """

    __slots__ = ("_unacked", "_unsent", "base", "end", "sent")

    def __init__(self) -> None:
        # None while empty: an empty deque takes 760 bytes, and most streams are idle most of the time.
        self._unacked: deque[bytes | memoryview] | None = None
        self._unsent: deque[bytes | memoryview] | None = None
        self.base = 0
        self.sent = 0
        self.end = 0

    def append(self, chunk: bytes | memoryview) -> None:
        """Add written bytes as unsent. The caller must not change the chunk afterwards."""
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(chunk)
        self.end += len(chunk)

    @property
    def next_chunk(self) -> bytes | memoryview | None:
        """The first chunk of unsent bytes, or None."""
        return self._unsent[0] if self._unsent else None

    def mark_sent(self, size: int) -> None:
        """Record that the engine took ``size`` bytes of :attr:`next_chunk`."""
        assert self._unsent is not None
        chunk = self._unsent.popleft()
        if size < len(chunk):
            view = memoryview(chunk)
            self._unsent.appendleft(view[size:])
            chunk = view[:size]
        elif not self._unsent:
            self._unsent = None
        if size:
            if self._unacked is None:
                self._unacked = deque()
            self._unacked.append(chunk)
            self.sent += size

    def credit(self, offset: int) -> None:
        """Release all bytes before ``offset`` (between base and sent), which the receiver has."""
        assert self.base <= offset <= self.sent
        unacked = self._unacked
        while unacked is not None and self.base < offset:
            chunk = unacked.popleft()
            size = len(chunk)
            if self.base + size > offset:
                unacked.appendleft(memoryview(chunk)[offset - self.base :])
                size = offset - self.base
            self.base += size
        if not unacked:
            self._unacked = None

    def rewind(self, offset: int) -> None:
        """Mark the bytes from ``offset`` on (between base and sent) as unsent again, after a new link."""
        assert self.base <= offset <= self.sent
        unacked, unsent = self._unacked, self._unsent or deque()
        while unacked is not None and self.sent > offset:
            chunk = unacked.pop()
            start = self.sent - len(chunk)
            if start < offset:
                view = memoryview(chunk)
                unacked.append(view[: offset - start])
                chunk, start = view[offset - start :], offset
            unsent.appendleft(chunk)
            self.sent = start
        self._unacked, self._unsent = unacked or None, unsent or None

    def drop(self) -> None:
        """Release all bytes and never send the rest, because the receiver takes no more."""
        self._unacked = self._unsent = None
        self.base = self.end = self.sent

    def pieces(self) -> list[bytes | memoryview]:
        """Return all buffered chunks in order."""
        return [*(self._unacked or ()), *(self._unsent or ())]

    def clear(self) -> None:
        """Release all bytes at the end of the stream."""
        self._unacked = self._unsent = None

    @property
    def size(self) -> int:
        """Number of buffered bytes."""
        return self.end - self.base
