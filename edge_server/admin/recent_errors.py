"""Warnings and errors of the log, the last of them, kept for the page."""

from __future__ import annotations

import logging
from collections import deque
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.models import Moment
from quictunnel.shared.output import visible

KEPT: Final = 100
"""Records: what a person reads through."""
MAX_MESSAGE: Final = 500
"""Characters of one; the log has the rest, and the traceback."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    at: Moment
    level: Annotated[str, Meta(description="warning, error or critical.")]
    logger: str
    message: Annotated[str, Meta(description="One line of printable characters.")]


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Those that are kept."""

    items: Annotated[list[Record], Meta(description="The newest first.")]
    total: Annotated[int, Meta(description="Since the page was opened by the edge.", ge=0)]


class RecentErrors(logging.Handler):
    """See the module. A handler of the root logger between :meth:`open` and :meth:`shut`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._total = 0

    def open(self) -> None:
        """Begin to listen."""
        logging.getLogger().addHandler(self)

    def shut(self) -> None:
        """Listen no more."""
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                message = f"{message}: {record.exc_info[1]!r}"
        except Exception:  # noqa: BLE001 - whoever logs goes on, whatever is logged; the log's own handler says where
            message = f"{record.msg} (which could not be put together)"
        self._total += 1
        self._records.append(
            Record(
                at=record.created,
                level=record.levelname.lower(),
                logger=record.name,
                message=visible(message[:MAX_MESSAGE]),
            )
        )

    def recent(self, count: int) -> Errors:
        """The newest, at most so many."""
        newest = list(self._records)[: -count - 1 : -1]
        return Errors(items=newest, total=self._total)
