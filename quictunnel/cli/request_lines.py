"""Finished requests as lines for people: ``GET /hello 200 4 ms 203.0.113.9``.

Paths and addresses come from strangers: unprintable characters are escaped, and a path is cut to the width.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.cli.formatting import count_of, elapsed, size, span
from quictunnel.shared.output import escape_unprintable

if TYPE_CHECKING:
    from quictunnel import RequestQueue, RequestSummary

MAX_BATCH: Final = 20
"""Requests to show between two updates of the output, which come four times a second. The others are counted. A
person reads no more, and a log does not grow by more."""
WIDTH_FOR_TIME: Final = 60
"""Columns of a terminal from which on a request has the time of day before it."""
MIN_PATH: Final = 12
"""Columns for a path; if fewer are left, the visitor's address is not shown."""
MAX_VISITOR: Final = 45
"""Columns of a visitor's address: the longest IPv6 address."""


class RequestBatch(NamedTuple):
    """Requests since the last update."""

    shown: list[RequestSummary]
    skipped: int
    """Number of requests that are not shown."""


class RequestFeed:
    """Bounded source of requests between the tunnel's thread and the output."""

    def __init__(self, queue: RequestQueue) -> None:
        self.queue = queue
        self._dropped = queue.dropped

    def take(self) -> RequestBatch:
        """Return the requests since the last call."""
        dropped = self.queue.dropped
        skipped, self._dropped = dropped - self._dropped, dropped
        return RequestBatch(self.queue.take(), skipped)


class RequestLine(NamedTuple):
    """Parts of a line about one request or connection."""

    method: str
    """Method, or the kind of a connection: ``tcp``, ``h2``; ``visitor`` if it was refused."""
    path: str
    """Path; of a connection, the visitor."""
    result: str
    """Status and duration; ``connected``, or bytes and duration of a connection."""
    visitor: str
    note: str
    """Reason why a request has no complete response."""
    status: int
    """Status of the response, or 0."""

    def fit(self, width: int | None, path_width: int = 0) -> tuple[str, str, str, str]:
        """Return method, path, result and the rest as text that fits a line.

        Args:
            width: columns of the line; None: any.
            path_width: columns to which a shorter path is padded, as far as there is room.
        """
        visitor, note = cut(self.visitor, MAX_VISITOR), self.note
        if width is None:
            rest = f"{visitor}  {note}".strip() if note else visitor
            return self.method, self.path, self.result, rest
        taken = cells(self.method) + cells(self.result) + 3
        if width - taken - cells(visitor) < (MIN_PATH if self.path else 0):
            visitor = ""
        room = max(1, width - taken - cells(visitor))
        path = cut(self.path, room)
        path += " " * (min(path_width, room) - cells(path))
        left = width - taken - cells(path) - cells(visitor) - 2
        rest = f"{visitor}  {cut(note, left)}".strip() if note and left >= MIN_PATH else visitor
        return self.method, path, self.result, rest

    def text(self, width: int | None = None) -> str:
        """Return the line as text of at most ``width`` columns."""
        text = " ".join(part for part in self.fit(width) if part)
        return text if width is None else cut(text, width)


def request_line(summary: RequestSummary) -> RequestLine:
    """Return the line of a request or a connection."""
    visitor, note = escape_unprintable(summary.visitor), escape_unprintable(summary.note)
    if summary.kind == "http":
        result = f"{summary.status or '---'} {elapsed(summary.seconds)}"
        path = escape_unprintable(summary.path)
        return RequestLine(escape_unprintable(summary.method), path, result, visitor, note, summary.status)
    if summary.kind == "refused":
        return RequestLine("visitor", visitor, "refused", "", "", 502)  # an event of the client has the reason
    kind = "h2" if summary.kind == "http2" else "tcp"
    if summary.is_open:
        return RequestLine(kind, visitor, "connected", "", "", 0)
    passed = f"{size(summary.bytes_in)} in, {size(summary.bytes_out)} out, {span(summary.seconds)}"
    if kind == "h2":
        passed = f"{count_of(summary.requests, 'request')}, {passed}"
    return RequestLine(kind, visitor, passed, "", "", 0)


def skipped_line(count: int) -> str:
    """Return the line that replaces requests which are not shown."""
    return f"+ {count_of(count, 'more request')}"


def cells(text: str) -> int:
    """Return the columns that a terminal needs for text."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return text of at most ``width`` columns; an ellipsis stands for what is cut off."""
    if cells(text) <= width:
        return text
    used = 1
    for end, each in enumerate(text):
        used += cells(each)
        if used > width:
            return text[:end] + "…"
    raise AssertionError("the text is longer than its width")
