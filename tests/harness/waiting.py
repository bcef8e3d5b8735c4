"""Waiting for an event of another thread, process or host."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 15.0
"""Seconds for an immediate event on a busy machine."""
LONG_TIMEOUT = 45.0
"""Seconds for several steps of several programs: a reconnect, a certificate."""


def eventually(
    condition: Callable[[], object], what: str = "the condition never became true", timeout: float = TIMEOUT
) -> None:
    """Return when the condition is true.

    Raises:
        AssertionError: it was not within ``timeout`` seconds; the message is ``what``.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


async def soon(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Return when the condition is true; for what the kernel or another program does while this loop runs.

    Raises:
        TimeoutError: it was not within ``timeout`` seconds.
    """
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  nothing tells this loop
            await asyncio.sleep(0.002)
