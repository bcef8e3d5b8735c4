"""How late the event loop is: what everybody on it waits for, whatever the reason.

A timer that is due each tenth of a second and looks at when it was really called. What makes it late is work that
does not end: an attack, too many visitors for the core, or a fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

logger = logging.getLogger(__name__)

TICK: Final = 0.1
"""Seconds between looks."""
KEPT: Final = 600
"""Looks that are remembered: a minute."""
LATE: Final = 0.25
"""Seconds that are worth a line in the log; a person notices them."""
QUIET: Final = 60.0
"""Seconds between two such lines."""


class LoopLagMonitor:
    """See the module."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=KEPT)
        self._warned = float("-inf")

    @property
    def worst(self) -> float:
        """Seconds by which the latest call of the last minute was late."""
        return max(self._late, default=0.0)

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + TICK
        while True:
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            self._late.append(late := max(0.0, now - due))
            if late >= LATE and now >= self._warned + QUIET:
                self._warned = now
                logger.warning("the edge was busy for %.2f s without a break; everybody waited for it", late)
            due = now + TICK
