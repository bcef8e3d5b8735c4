"""Sessions of edges that are draining: their visitors finish there, while new ones come through another edge."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quictunnel.connection.edge_connection import EdgeConnection
    from quictunnel.shared.supervision import Supervisor

MAX_DRAINING: Final = 4
"""Old sessions kept in addition to the current one; one more closes the oldest. Only an edge that is restarted
more often than this within its own grace period reaches the limit."""
GRACE_MARGIN: Final = 5.0
"""Seconds added to the grace that an edge announced. The edge itself should end the session within the grace."""


class DrainingSessions:
    """Draining sessions of one client, in addition to its current session."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._draining: dict[EdgeConnection, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[EdgeConnection]:
        return iter(tuple(self._draining))

    def __contains__(self, connection: EdgeConnection) -> bool:
        return connection in self._draining

    def add(self, connection: EdgeConnection, grace: float) -> None:
        """Keep a connection until the edge ends its session, at most a little longer than ``grace`` seconds.

        The edge ends the session when its last visitor has finished."""
        if len(self._draining) >= MAX_DRAINING:
            next(iter(self._draining.values())).cancel()
        self._draining[connection] = self._supervisor.start(
            self._drain(connection, grace + GRACE_MARGIN), "closing a connection to a draining edge"
        )

    async def close(self) -> None:
        """Close all of them now."""
        draining = tuple(self._draining.values())
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)

    async def _drain(self, connection: EdgeConnection, seconds: float) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await connection.link_lost.wait()
        finally:
            try:
                await connection.close()
            finally:  # last: what the session says while it closes does not concern a later one either
                del self._draining[connection]
