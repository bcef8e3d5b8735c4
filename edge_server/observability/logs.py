"""Log formats: lines for people, or one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from quictunnel.shared.output import SteadyOutput, escape_unprintable, lost_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.config.edge_config import EdgeConfig

MAX_LINE: Final = 4096
"""Characters of one record, a traceback included: no single record can fill a disk."""

written: Final[Counter[str]] = Counter()
"""Lines of this process by level."""


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO  message``; control characters from peers are escaped."""

    def __init__(self) -> None:
        """Use local time."""
        super().__init__()
        self._time = _Stamp("%H:%M:%S", time.localtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        # Line breaks are escaped as well: only a traceback, which is ours, may span several lines.
        message = escape_unprintable(record.getMessage())
        lines = f"{self._time.of(record.created)} {record.levelname:<7} {message}"[:MAX_LINE]
        if record.exc_info:
            lines = f"{lines}\n{self.formatException(record.exc_info)}"[:MAX_LINE]
            lines = "\n".join(map(escape_unprintable, lines.split("\n")))
        return lines


class JsonFormatter(logging.Formatter):
    """``{"time": "...Z", "level": "info", "logger": "...", "message": "..."}``, and the record's ``fields``."""

    def __init__(self) -> None:
        """Use UTC."""
        super().__init__()
        self._time = _Stamp("%Y-%m-%dT%H:%M:%S", time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": f"{self._time.of(record.created)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_LINE],
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[:MAX_LINE]
        line = msgspec.json.encode(entry)
        # msgspec does not escape characters beyond ASCII, such as Unicode line breaks and bidi controls.
        text = line.decode() if line.isascii() else json.dumps(entry)
        return text.replace("\x7f", "\\u007f")


class _Stamp:
    """Formats times to the second, and caches the last one."""

    def __init__(self, form: str, clock: Callable[[float], time.struct_time]) -> None:
        self._form = form
        self._clock = clock
        self._second = -1
        self._text = ""

    def of(self, moment: float) -> str:
        """Return the text for seconds since the epoch."""
        second = int(moment)
        if second != self._second:
            self._second, self._text = second, time.strftime(self._form, self._clock(second))
        return self._text


class CountingHandler(logging.StreamHandler[TextIO]):
    """Writes each record as a line, and counts it by level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write and count a record."""
        written[record.levelname.lower()] += 1
        super().emit(record)


def lost_json_line(count: int, why: str) -> str:
    """Return the line that replaces lines which could not be written."""
    return json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "level": "error",
            "logger": __name__,
            "message": f"{count} lines before this one could not be written: {why}",
        }
    )


def configure_logging(config: EdgeConfig, stream: TextIO | None = None) -> None:
    """Send the program's logs to standard error (or ``stream``)."""
    # The formats contain none of these; collecting them takes a third of the time of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    stream = stream or sys.stderr
    if isinstance(stream, SteadyOutput):
        stream.lost = lost_json_line if config.log_format == "json" else lost_line
    handler = CountingHandler(stream)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
