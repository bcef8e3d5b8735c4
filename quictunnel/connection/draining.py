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
"""Old sessions beside the new one; the oldest is cut off for one more. An edge that is restarted so often within
its own grace has something else to worry about."""
LATENESS: Final = 5.0
"""Seconds beyond the grace that an edge announced, in which it should have ended the session itself."""


class DrainingSessions:
    """The sessions that drain beside the session of now."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._draining: dict[EdgeConnection, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[EdgeConnection]:
        return iter(tuple(self._draining))

    def add(self, connection: EdgeConnection, grace: float) -> None:
        """The edge at the other end leaves within ``grace`` seconds; it ends the session when the last visitor has
        finished."""
        if len(self._draining) >= MAX_DRAINING:
            next(iter(self._draining.values())).cancel()
        self._draining[connection] = self._supervisor.start(
            self._drain(connection, grace + LATENESS), "closing a connection to an edge that leaves"
        )

    async def close(self) -> None:
        """Cut all of them off."""
        draining = tuple(self._draining.values())
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)

    async def _drain(self, connection: EdgeConnection, seconds: float) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await connection.over.wait()
        finally:
            del self._draining[connection]
            await connection.close()
