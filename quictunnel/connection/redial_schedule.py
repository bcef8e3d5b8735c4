"""Schedule of a client's reconnects to its edge."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from quictunnel.shared.backoff import Backoff

MIN_STEADY_TIME: Final = 10.0
"""Seconds that a connection has to last to reset the backoff. Without it, a client whose edge accepts
connections and ends them at once would dial five times a second for ever."""
URGENT_PAUSE: Final = 1.0
"""Most seconds between two attempts while visitors wait. With ``manager.URGENT_DIAL_TIMEOUT`` the client
reconnects within five seconds after the network works again."""


class RedialSchedule:
    """Exponential backoff, reset by a connection that lasted and by a change of the network."""

    def __init__(self) -> None:
        self.random = random.Random()  # noqa: S311 - jitter, not a secret
        self._backoff = Backoff()
        self._since = 0.0
        """Time at which the current connection began; 0 without one."""
        self._changed = asyncio.Event()
        """Set when the network has changed: a dial that failed before may succeed."""

    def connection_began(self) -> None:
        """Note the start of the current connection."""
        self._since = asyncio.get_running_loop().time()

    def connection_ended(self) -> bool:
        """Note the end of the current connection. Return True if it lasted, so that the next dial comes soon."""
        has_lasted = self._since > 0 and asyncio.get_running_loop().time() - self._since >= MIN_STEADY_TIME
        if has_lasted:
            self._backoff.reset()
        self._since = 0.0
        return has_lasted

    def reset(self) -> None:
        """Reset the backoff, so that the next dial comes soon."""
        self._backoff.reset()

    def next_wait(self, *, is_urgent: bool = False) -> float:
        """Return the seconds until the next dial; at most :data:`URGENT_PAUSE` while visitors wait."""
        return self._backoff.next(self.random, URGENT_PAUSE if is_urgent else None)

    def network_changed(self) -> None:
        """End the pause: a dial that failed before may succeed."""
        self._changed.set()

    async def pause(self, seconds: float, over: asyncio.Event | None = None) -> None:
        """Wait until time is up, the network changes, or ``over`` is set."""
        self._changed.clear()
        waits = [asyncio.create_task(event.wait()) for event in (self._changed, over) if event is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._changed.is_set():
            self._backoff.reset()
