"""Sessions of edges that are leaving: their visitors finish there, while new ones come through another edge."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quictunnel.connection.edge_session import EdgeSession
    from quictunnel.shared.supervision import Supervisor

MAX_LEAVING: Final = 4
"""Old sessions beside the new one; the oldest is cut off for one more. An edge that is restarted so often within
its own grace has something else to worry about."""
LATENESS: Final = 5.0
"""Seconds beyond the grace that an edge announced, in which it should have ended the session itself."""


class DrainingSessions:
    """The sessions that drain beside the session of now."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._leaving: dict[EdgeSession, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[EdgeSession]:
        return iter(tuple(self._leaving))

    def add(self, call: EdgeSession, grace: float) -> None:
        """The edge behind this call leaves within ``grace`` seconds; it ends the session when the last visitor has
        finished."""
        if len(self._leaving) >= MAX_LEAVING:
            next(iter(self._leaving.values())).cancel()
        self._leaving[call] = self._supervisor.start(
            self._see_off(call, grace + LATENESS), "closing a connection to an edge that leaves"
        )

    async def close(self) -> None:
        """Cut all of them off."""
        leaving = tuple(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _see_off(self, call: EdgeSession, seconds: float) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await call.over.wait()
        finally:
            del self._leaving[call]
            await call.hang_up()
