"""Passive parser of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMENT: Final = "comment"
DEFAULT_EVENT: Final = "message"
MEDIA_TYPE: Final = b"text/event-stream"
MAX_NAME: Final = 80
"""Bytes of the name and of the ID of an event that are stored."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """Event, or comment line, which servers send to keep a connection open."""

    kind: str
    data: bytes
    """The first ``limits.MAX_FRAME`` bytes of the data."""
    size: int
    note: str


class EventParser:
    """Parser of the body of one response. It stores at most one event and one line, each up to
    ``limits.MAX_FRAME`` bytes."""

    def __init__(self) -> None:
        self._is_first_line = True
        self._is_after_cr = False
        self._is_lost = False
        """True after missing bytes, until the next event begins."""
        self._line = bytearray()
        self._line_size = 0
        self._start_event()

    def feed(self, piece: bytes | memoryview) -> Iterator[ServerEvent]:
        """Parse bytes of the body and yield the completed events."""
        data = bytes(piece)
        if not data:
            return
        if self._is_after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._is_after_cr = data.endswith(b"\r")
        *complete, rest = _LINE_END.split(data)
        for part in complete:
            self._add_to_line(part)
            event = self._on_line()
            if event is not None:
                yield event
        self._add_to_line(rest)

    def lost(self) -> None:
        """Note that bytes are missing: the current event is dropped."""
        self._is_lost = True
        self._is_after_cr = False
        self._line.clear()
        self._line_size = 0
        self._start_event()

    def _start_event(self) -> None:
        self._name = ""
        self._id = ""
        self._data = bytearray()
        self._size = 0
        self._has_data = False

    def _add_to_line(self, part: bytes) -> None:
        self._line += part[: limits.MAX_FRAME - len(self._line)]
        self._line_size += len(part)

    def _on_line(self) -> ServerEvent | None:
        line, size = bytes(self._line), self._line_size
        self._line.clear()
        self._line_size = 0
        if self._is_first_line:
            self._is_first_line = False
            if line.startswith(_BOM):
                line, size = line[len(_BOM) :], size - len(_BOM)
        if not size:
            return self._end_event()
        if self._is_lost:
            return None
        if line.startswith(b":"):
            return ServerEvent(COMMENT, line[1:].strip(), size - 1, "")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._add_data(value, value_size=size - (len(line) - len(value)))
            case b"event":
                self._name = value[:MAX_NAME].decode("utf-8", "replace")
            case b"id":
                self._id = value[:MAX_NAME].decode("utf-8", "replace")
            case _:
                pass  # ``retry``, or unknown: no part of the event
        return None

    def _add_data(self, value: bytes, value_size: int) -> None:
        separator = b"\n" if self._has_data else b""
        self._has_data = True
        self._data += (separator + value)[: limits.MAX_FRAME - len(self._data)]
        self._size += len(separator) + value_size

    def _end_event(self) -> ServerEvent | None:
        event = None
        if self._has_data and not self._is_lost:
            note = f"id {self._id}" if self._id else ""
            event = ServerEvent(self._name or DEFAULT_EVENT, bytes(self._data), self._size, note)
        self._is_lost = False
        self._start_event()
        return event
