"""Finished requests, and a bounded queue of them between the tunnel's thread and another one."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, NamedTuple

MAX_PATH: Final = 200
"""Characters of a path."""
MAX_WAITING: Final = 1000
"""Summaries in a :class:`RequestQueue`: several times what a terminal shows."""


class RequestSummary(NamedTuple):
    """Finished request, or a connection whose requests cannot be read."""

    kind: Literal["http", "http2", "raw", "refused"]
    """``http``: one request. ``http2`` and ``raw``: a connection, reported at its beginning and at its end.
    ``refused``: a connection that the local service did not accept."""
    visitor: str
    """Address of the visitor, without the port."""
    method: str = ""
    """Method of the request; empty for a connection."""
    path: str = ""
    """Path without its query, which may contain secrets; at most MAX_PATH printable characters."""
    status: int = 0
    """Status of the response; 0 without one."""
    seconds: float = 0.0
    """Seconds from the first byte of the request to the last of the response, or of the connection."""
    note: str = ""
    """Reason why the request failed or the connection is not read as HTTP/1; empty for a complete request."""
    requests: int = 0
    """Requests on a connection with HTTP/2, when it has ended."""
    is_open: bool = False
    """True for the report at the beginning of a connection."""
    bytes_in: int = 0
    """Bytes from the visitor on a connection that has ended and whose requests cannot be read."""
    bytes_out: int = 0
    """Bytes to the visitor, likewise."""


class RequestQueue:
    """Bounded queue of summaries, to be given as ``on_request``. Any thread may take from it."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._summaries: deque[RequestSummary] = deque()
        self.dropped = 0
        """Number of summaries that found the queue full."""

    @property
    def is_full(self) -> bool:
        """True if a summary would be dropped."""
        return len(self._summaries) >= self._limit

    def __call__(self, summary: RequestSummary) -> None:
        """Add a summary; drop it if the queue is full."""
        if len(self._summaries) < self._limit:
            self._summaries.append(summary)
        else:
            self.dropped += 1

    def take(self) -> list[RequestSummary]:
        """Return the waiting summaries, the oldest first, and remove them."""
        return [self._summaries.popleft() for _ in range(len(self._summaries))]
