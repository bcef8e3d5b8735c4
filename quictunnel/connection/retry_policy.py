"""Judging what went wrong with a dial or a session: whether to dial again, and what is said of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from quictunnel.connection.edge_connection import EdgeIdentityError
from quictunnel.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.shared.supervision import Supervisor

logger = logging.getLogger(__name__)

MAX_FAULTS: Final = 3
"""Faults of this client in a row, without a session that lasted, after which it gives up and says so: one that
comes back with every dial is there to be mended."""


class RetryPolicy:
    """Decides after each failure of one client."""

    def __init__(self, observe: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self._observe = observe
        self._supervisor = supervisor
        self._faults = 0
        self.last: Error | None = None
        """The last error after which another dial was worth it; for callers who wait meanwhile."""

    def judge(self, error: Exception, *, was_connected: bool) -> Error | None:
        """Return the error to give up with, or None to dial again. ``was_connected``: this edge has greeted the
        client before, so that what is wrong now may pass."""
        if not isinstance(error, Error):
            self._supervisor.report("keeping the connection to the edge", error)
            self._faults += 1
            if self._faults < MAX_FAULTS:
                return None
            return Error(f"This client failed {MAX_FAULTS} times in a row ({error!r}); its log says where.")
        logger.info("%s", error)
        if not error.temporary:
            # Another certificate than before: a proxy or a portal is in between for a while, or a renewal is late.
            if not (was_connected and isinstance(error, EdgeIdentityError)):
                return error
            if str(error) != str(self.last):
                self._observe("warning", f"{error} It was accepted before, so this client dials again by itself.")
        self.last = error
        return None

    def lasted(self) -> None:
        """Forget the faults: a session was long enough."""
        self._faults = 0
