"""Waiting until the local service accepts connections on its port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quictunnel.errors import OriginUnavailableError
from quictunnel.origin.dial import is_listening

if TYPE_CHECKING:
    from quictunnel.origin.target import Target

MIN_POLL_INTERVAL: Final = 0.02
"""Seconds between the first two probes: short, for a server that starts at once."""
MAX_POLL_INTERVAL: Final = 0.5
"""Seconds between two probes at most: the cost of a probe is negligible, and so is the delay."""


async def wait_until_listening(target: Target, seconds: float) -> None:
    """Return when a target accepts connections. Cancellation leaves no socket open.

    Raises:
        OriginUnavailableError: nobody listened within ``seconds``.
    """
    where = f"{target.noun} of this machine (127.0.0.1 or ::1)" if target.is_local_port else target.noun
    interval = MIN_POLL_INTERVAL
    try:
        async with asyncio.timeout(seconds):
            while not await is_listening(target):
                await asyncio.sleep(interval)
                interval = min(2 * interval, MAX_POLL_INTERVAL)
    except TimeoutError:
        raise OriginUnavailableError(
            f"Nobody listened on {where} within {seconds:g} s. Start the local service, or give it more time with "
            "--wait (in Python, wait=)."
        ) from None
