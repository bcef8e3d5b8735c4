"""Waiting for the local service: until somebody takes connections on its port."""

from __future__ import annotations

import asyncio
from typing import Final

from quictunnel.errors import OriginUnavailableError
from quictunnel.origin.dial import is_listening

FIRST_PAUSE: Final = 0.02
"""Seconds between the first two looks: a server that starts at once is not kept waiting."""
LONGEST_PAUSE: Final = 0.5
"""Seconds between two looks at most: what a connection a look costs nobody, and nobody notices having waited."""


async def until_it_listens(port: int, seconds: float) -> None:
    """Return when somebody takes connections on ``port`` of this machine. Raises OriginUnavailableError after
    ``seconds``. When cancelled, nothing stays open."""
    pause = FIRST_PAUSE
    try:
        async with asyncio.timeout(seconds):
            while not await is_listening(port):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
    except TimeoutError:
        raise OriginUnavailableError(
            f"Nobody listens on port {port} of this machine (127.0.0.1 or ::1), and {seconds:g} s were given for "
            "it. Start the local service, or give it more time with wait= (--wait)."
        ) from None
