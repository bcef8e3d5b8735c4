"""The times at which a client dials its edge again."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from quictunnel.shared.backoff import Backoff

STEADY: Final = 10.0
"""Seconds that a session has to last for the next dial to come soon again: two ends that cannot get on with each
other would else dial and break five times a second for ever."""
URGENT_PAUSE: Final = 1.0
"""Seconds between two attempts, at most, while visitors wait. With ``manager.URGENT`` a network that is well again
is found within five."""


class RedialSchedule:
    """Exponential back-off that a session which lasted, or a change of the network, begins anew."""

    def __init__(self) -> None:
        self.random = random.Random()  # noqa: S311 - jitter, not a secret
        self._backoff = Backoff()
        self._since = 0.0
        """Time at which the session of now began; 0 if there is none or it was settled."""
        self._changed = asyncio.Event()
        """The network has changed: what failed before may work."""

    def session_began(self) -> None:
        """Note that a connection carries the session from now on."""
        self._since = asyncio.get_running_loop().time()

    def settle(self) -> bool:
        """End the session of now. Return True if it lasted, so that the next dial comes soon."""
        has_lasted = self._since > 0 and asyncio.get_running_loop().time() - self._since >= STEADY
        if has_lasted:
            self._backoff.reset()
        self._since = 0.0
        return has_lasted

    def reset(self) -> None:
        """Have the next dial come soon."""
        self._backoff.reset()

    def next_wait(self, *, is_urgent: bool = False) -> float:
        """Return the seconds until the next dial; at most :data:`URGENT_PAUSE` while visitors wait."""
        return self._backoff.next(self.random, URGENT_PAUSE if is_urgent else None)

    def network_changed(self) -> None:
        """End the pause: what failed before may work."""
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
