"""The edge's clock: seconds since the epoch that advance evenly when the system's clock jumps.

An empty battery, a suspended virtual machine or a mistyped date can put the system's clock wrong by weeks, for a
moment or an hour. Names, tokens and certificates expire, and none of them may expire because of that. So the edge
counts on from its last time, by a clock that cannot be set, and accepts the system's clock again after that one
has advanced evenly for some minutes. Deletions by age wait for a day without a jump (:attr:`Clock.is_settled`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_CORRECTION: Final = 10.0
"""Seconds by which the system's clock may be corrected at once without counting as a jump."""
CONFIRMATION_TIME: Final = 600.0
"""Seconds for which the system's clock has to advance evenly after a jump before it is accepted: time servers and
people correct a wrong one sooner. A clock that was accepted for a shorter time is replaced after that time."""
SETTLING_TIME: Final = 86_400.0
"""Seconds without a jump after which entries may be deleted for their age. The edge's start counts as a jump."""
LOG_INTERVAL: Final = 60.0
"""Seconds between two log lines about a clock that keeps jumping."""

steady: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since an arbitrary moment, from a clock that cannot be set. Where the system has such a clock, it
includes the time for which the machine is suspended."""


@dataclass(frozen=True, slots=True)
class _Jump:
    """A jump of the system's clock that is not accepted yet."""

    offset: float
    since: float


class Clock:
    """The steady clock. :meth:`check` has to be called from time to time, on the event loop's thread."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        """``wall`` is the system's clock in seconds since the epoch; ``steady`` one that cannot be set."""
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._since = steady()
        """Steady time since which the accepted clock has advanced evenly in this process."""
        self._jump: _Jump | None = None
        self._warned_at = float("-inf")
        self._listeners: list[Callable[[float], None]] = []

    def now(self) -> float:
        """Return the seconds since the epoch. Safe in any thread."""
        return self._steady() + self._offset

    @property
    def is_settled(self) -> bool:
        """Return True if entries may be deleted for their age."""
        return self._jump is None and self._steady() - self._since >= SETTLING_TIME

    def add_listener(self, listener: Callable[[float], None]) -> None:
        """Call ``listener`` when a jump is accepted, with the seconds by which :meth:`now` moves (negative:
        back)."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Compare with the system's clock."""
        now = self._steady()
        offset = self._wall() - now
        if abs(offset - self._offset) <= MAX_CORRECTION:
            self._offset = offset
            if self._jump is not None:
                self._jump = None
                self._warn("the system's clock is correct again")
        elif self._jump is None or abs(offset - self._jump.offset) > MAX_CORRECTION:
            self._jump = _Jump(offset, now)
            self._warn(
                "the system's clock jumped by %.0f s; the edge keeps its own time until the system's has "
                "been steady for %.0f s",
                offset - self._offset,
                self._confirmation_time,
            )
        elif now - self._jump.since >= self._confirmation_time:
            self._accept(self._jump)

    @property
    def _confirmation_time(self) -> float:
        assert self._jump is not None
        return min(CONFIRMATION_TIME, max(0.0, self._jump.since - self._since))

    def _accept(self, jump: _Jump) -> None:
        forward = jump.offset - self._offset
        self._offset, self._since, self._jump = jump.offset, jump.since, None
        logger.warning("the edge's clock was set by %.0f s, following the system's clock", forward)
        for listener in self._listeners:
            listener(forward)

    def _warn(self, line: str, *values: float) -> None:
        """Log at most once in :data:`LOG_INTERVAL`, so that a clock that keeps jumping does not fill the log."""
        if self._steady() >= self._warned_at + LOG_INTERVAL:
            self._warned_at = self._steady()
            logger.warning(line, *values)
