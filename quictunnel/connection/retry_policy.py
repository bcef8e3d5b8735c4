"""Decision after a failed dial or session: dial again or give up, and what to report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from quictunnel.connection.connection_errors import EdgePortClosedError
from quictunnel.connection.edge_identity import EdgeIdentityError
from quictunnel.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.shared.supervision import Supervisor

logger = logging.getLogger(__name__)

MAX_UNEXPECTED_ERRORS: Final = 3
"""Unexpected exceptions in a row, without a connection that lasted, after which the client fails: a bug that every
dial triggers has to become visible."""


class RetryPolicy:
    """Decides after each failure of one client whether it dials again."""

    def __init__(self, publish: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self._publish = publish
        self._supervisor = supervisor
        self._unexpected_errors = 0
        self.last: Error | None = None
        """The last error after which the client dials again; for callers that wait for a connection."""

    def final_error(self, error: Exception, *, was_connected: bool) -> Error | None:
        """Return the error to give up with, or None to dial again.

        Args:
            error: the failure.
            was_connected: True if this edge has accepted the client before, so that some errors may be temporary.
        """
        if not isinstance(error, Error):
            self._supervisor.report("keeping the connection to the edge", error)
            self._unexpected_errors += 1
            if self._unexpected_errors < MAX_UNEXPECTED_ERRORS:
                return None
            return Error(
                f"This client failed {MAX_UNEXPECTED_ERRORS} times in a row by a bug ({error!r}); see its log."
            )
        logger.info("%s", error)
        if isinstance(error, EdgePortClosedError) and not was_connected:
            return error
        if not error.temporary:
            # Another certificate than before: a proxy or portal may be in the path for a while, or a renewal be
            # late.
            if not (was_connected and isinstance(error, EdgeIdentityError)):
                return error
            if str(error) != str(self.last):
                self._publish(
                    "warning", f"{error.message} It was accepted before, so this client dials again by itself."
                )
        self.last = error
        return None

    def reset(self) -> None:
        """Reset the count of unexpected exceptions: a connection has lasted."""
        self._unexpected_errors = 0
