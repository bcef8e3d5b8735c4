"""The latest warnings and errors of the log, for the operator's page."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.state_types import Timestamp
from quictunnel.shared.output import escape_unprintable

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RECORDS: Final = 100
"""Records in memory: as many as a person reads."""
MAX_MESSAGE: Final = 500
"""Characters of one message; the log has the rest, and the traceback."""

MAX_OWNER_NAME: Final = 60
"""Characters of an owner's name in a message."""
_KEY: Final = re.compile(r"\b(?:[a-z2-7]{16}|[0-9a-f]{12})\b")
"""Key of a token: a registered one, or the edge's own."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A log record."""

    at: Timestamp
    level: Annotated[str, Meta(description="warning, error or critical.")]
    logger: str
    message: Annotated[str, Meta(description="One line of printable characters.")]


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """The latest warnings and errors."""

    items: Annotated[list[Record], Meta(description="The newest first.")]
    total: Annotated[int, Meta(description="Number since the edge started the page.", ge=0)]


class RecentErrors(logging.Handler):
    """A handler of the root logger between :meth:`open` and :meth:`shut`."""

    def __init__(self, owner_name: Callable[[str], str] = lambda _: "") -> None:
        """Start empty. ``owner_name`` returns the name of the owner with a token's key; empty: none."""
        super().__init__(logging.WARNING)
        self._owner_name = owner_name
        self._records: deque[Record] = deque(maxlen=MAX_RECORDS)
        self._total = 0

    def open(self) -> None:
        """Start to collect."""
        logging.getLogger().addHandler(self)

    def shut(self) -> None:
        """Stop collecting."""
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Store a record. Never raises."""
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                message = f"{message}: {record.exc_info[1]!r}"
        except Exception:  # noqa: BLE001 - logging must not raise; the log's own handler reports the fault
            message = f"{record.msg} (formatting failed)"
        self._total += 1
        self._records.append(
            Record(
                at=record.created,
                level=record.levelname.lower(),
                logger=record.name,
                message=escape_unprintable(message[:MAX_MESSAGE]),
            )
        )

    def recent(self, count: int = MAX_RECORDS) -> Errors:
        """Return the newest records, at most ``count``."""
        newest = [self._with_owners(record) for record in list(self._records)[: -count - 1 : -1]]
        return Errors(items=newest, total=self._total)

    def _with_owners(self, record: Record) -> Record:
        """Return the record with the owner's name beside each key of a token."""

        def with_name(found: re.Match[str]) -> str:
            name = self._owner_name(found[0])
            return f"{found[0]} ({name[:MAX_OWNER_NAME]})" if name else found[0]

        message = _KEY.sub(with_name, record.message)
        return record if message == record.message else msgspec.structs.replace(record, message=message)
