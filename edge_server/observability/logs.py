"""Log formats: lines for people, or one JSON object per line."""

from __future__ import annotations

import json
import logging
import os
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

_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Priorities of the journal (syslog(3)) by level."""

written: Final[Counter[str]] = Counter()
"""Lines of this process by level."""


class TextFormatter(logging.Formatter):
    """``2026-11-30T12:00:00Z INFO    [1234] message``, with the process ID; control characters from peers are
    escaped."""

    def __init__(self) -> None:
        """Use UTC, as the JSON format does."""
        super().__init__()
        self._time = _Stamp("%Y-%m-%dT%H:%M:%SZ", time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback."""
        start = f"{self._time.of(record.created)} {record.levelname:<7} [{os.getpid()}] "
        return "\n".join(self._lines(record, start))

    def _lines(self, record: logging.LogRecord, start: str = "") -> list[str]:
        # Line breaks are escaped as well: only a traceback, which is ours, may span several lines.
        lines = f"{start}{escape_unprintable(record.getMessage())}"[:MAX_LINE]
        if not record.exc_info:
            return [lines]
        lines = f"{lines}\n{self.formatException(record.exc_info)}"[:MAX_LINE]
        return [escape_unprintable(line) for line in lines.split("\n")]


class JournalFormatter(TextFormatter):
    """``<6>message`` for systemd's journal, which adds time and process itself (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback, each with the priority of the record."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in self._lines(record))


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


def configure_logging(config: EdgeConfig, stream: TextIO | None = None, *, to_journal: bool = False) -> None:
    """Send the program's logs to standard error (or ``stream``).

    Args:
        config: format and level.
        stream: where to write.
        to_journal: the stream leads to systemd's journal.
    """
    # The formats contain none of these; collecting them takes a third of the time of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    stream = stream or sys.stderr
    if isinstance(stream, SteadyOutput):
        stream.lost = lost_json_line if config.log_format == "json" else lost_line
    handler = CountingHandler(stream)
    handler.setFormatter(_formatter(config.log_format, to_journal=to_journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _formatter(log_format: str, *, to_journal: bool) -> logging.Formatter:
    if log_format == "json":
        return JsonFormatter()
    return JournalFormatter() if to_journal else TextFormatter()
