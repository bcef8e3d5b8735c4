"""Log lines on stderr."""

from __future__ import annotations

import logging
import sys

from quictunnel.shared.output import escape_unprintable


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable at run time in 3.11
    """Log handler for the current sys.stderr: a live display replaces it, so that log lines appear above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


class LineFormatter(logging.Formatter):
    """Log formatter: one line for each record and its traceback, with terminal control sequences escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        begin = f"{self.formatTime(record)} {record.levelname} {record.name}"
        lines = [f"{begin}: {escape_unprintable(record.getMessage())}"]
        if record.exc_info:
            lines += map(escape_unprintable, self.formatException(record.exc_info).split("\n"))
        return "\n".join(lines)


def set_up_logging(level: str) -> None:
    """Write log records from a level on to stderr."""
    handler = StderrHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
