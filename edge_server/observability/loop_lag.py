"""Delay of the event loop, which everything on it waits for.

A timer that is due each tenth of a second records how late it is called. Work that does not yield delays it: an
attack, too many visitors for the core, or a fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

logger = logging.getLogger(__name__)

MEASURE_INTERVAL: Final = 0.1
"""Seconds between two measurements."""
MAX_SAMPLES: Final = 600
"""Measurements in memory: one minute."""
WARN_LAG: Final = 0.25
"""Seconds of delay that are logged; people notice them."""
LOG_INTERVAL: Final = 60.0
"""Seconds between two such log lines."""


class LoopLagMonitor:
    """The delays of the last minute."""

    def __init__(self) -> None:
        """Start without measurements."""
        self._delays: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._warned_at = float("-inf")

    @property
    def worst(self) -> float:
        """Largest delay of the last minute in seconds."""
        return max(self._delays, default=0.0)

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + MEASURE_INTERVAL
        while True:
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            self._delays.append(delay := max(0.0, now - due))
            if delay >= WARN_LAG and now >= self._warned_at + LOG_INTERVAL:
                self._warned_at = now
                logger.warning("the event loop was blocked for %.2f s", delay)
            due = now + MEASURE_INTERVAL
