"""Log lines about a drain: its beginning, its progress, and the visitors that are cut at its end."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL: Final = 5.0
"""Seconds between two lines about the progress."""


class DrainLog:
    """Reports one drain to the log."""

    def __init__(self, now: float, grace: float, visitors: int, *, successor: int = 0) -> None:
        """Report the beginning.

        Args:
            now: the loop's time.
            grace: seconds that the drain may take.
            visitors: active visitors.
            successor: process ID of the edge that has taken over; 0 if none has.
        """
        self._began = self._reported = now
        self._deadline = now + grace
        taken_over = f"taken over by pid {successor}; " if successor else ""
        logger.info("%sdraining: %s, at most %g s", taken_over, _count(visitors), grace)

    def report(self, now: float, visitors: int) -> None:
        """Report the progress, if the last line is old enough."""
        if now >= self._reported + PROGRESS_INTERVAL:
            self._reported = now
            logger.info(
                "draining: %s left after %.0f s, at most %.0f s more",
                _count(visitors),
                now - self._began,
                self._deadline - now,
            )

    def end(self, now: float, visitors: int, *, why: str = "") -> None:
        """Report the end. ``why``: the reason if the drain was ended before its visitors had finished."""
        seconds = now - self._began
        if why:
            level = logging.WARNING if visitors else logging.INFO
            logger.log(level, "drain ended after %.1f s (%s): %s cut off", seconds, why, _count(visitors))
        elif visitors:
            logger.info("drained after %.1f s; %s without traffic closed", seconds, _count(visitors))
        else:
            logger.info("drained after %.1f s; all visitors have finished", seconds)


def _count(visitors: int) -> str:
    return "1 visitor" if visitors == 1 else f"{visitors} visitors"
