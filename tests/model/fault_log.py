"""Faults that the product itself reports."""

from __future__ import annotations

import logging

from tests.model.tcp import BrokenError


class FaultLog(logging.Handler):
    """Notices what the product itself says is wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "broke the protocol" in text:
            reason = text.rpartition(": ")[2]
            self.found.append((f"an honest peer is called hostile: {reason}", text))
        elif record.levelno >= logging.ERROR:
            if record.exc_info:
                error = record.exc_info[1]
                if isinstance(error, BrokenError):
                    self.found.append((error.kind, str(error)))
                    return
                text += f": {logging.Formatter().formatException(record.exc_info)}"
            self.found.append(("a fault inside", text))
