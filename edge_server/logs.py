"""Logs: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from edge_server.config import EdgeConfig

MAX_LINE: Final = 4096
"""Characters of one record, a traceback included: nothing that is logged can fill a disk line by line."""


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO  message``; control characters of whatever a peer sent are shown, never obeyed."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # A line break too: only a traceback, which is ours, may go over several lines.
        return _printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(_printable(line) for line in super().format(record)[:MAX_LINE].split("\n"))


class JsonFormatter(logging.Formatter):
    """``{"time": "...Z", "level": "info", "logger": "...", "message": "..."}``, and the record's ``fields``."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_LINE],
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[:MAX_LINE]
        return json.dumps(entry)


def set_up(config: EdgeConfig, stream: TextIO | None = None) -> None:
    """Send the program's logs to standard error (or ``stream``)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
