"""The edge's clock: seconds since the epoch, which go on evenly when the system's clock jumps.

A battery that is empty, a virtual machine that was suspended or a mistyped date make the system's clock wrong by
weeks for a moment or an hour. Names, tokens and certificates have an end in time, and none of them may end for
that. So the edge counts on from where it was, by a clock that nobody sets, and believes the system's again when
it has gone on evenly for some minutes. What is deleted for its age alone waits for a day without a jump
(:attr:`Clock.is_settled`).
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

TOLERANCE: Final = 10.0
"""Seconds by which the system's clock may be put right at once without being called a jump."""
CONFIRM: Final = 600.0
"""Seconds for which the system's clock has to go on evenly after a jump before it is believed: time servers and
people put a wrong one right sooner. A clock that was believed for a shorter time is given up after as much."""
SETTLED: Final = 86_400.0
"""Seconds without a jump after which something may be deleted for its age. The edge's start is one."""
TELL_AGAIN: Final = 60.0
"""Seconds between two lines of the log about a clock that goes on jumping."""

steady: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since some moment, which nobody sets. Where the system has such a clock it goes on while it sleeps."""


@dataclass(frozen=True, slots=True)
class _Jump:
    """A clock that is not believed yet."""

    offset: float
    since: float


class Clock:
    """Ask :meth:`now`; call :meth:`look` once in a while, on the loop's thread."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._since = steady()
        """Start (steady) of the time for which the believed clock has gone on evenly in this process."""
        self._jump: _Jump | None = None
        self._told = float("-inf")
        self._followers: list[Callable[[float], None]] = []

    def now(self) -> float:
        """Seconds since the epoch. May be called in any thread."""
        return self._steady() + self._offset

    @property
    def is_settled(self) -> bool:
        """Return True if something may be deleted because it is old."""
        return self._jump is None and self._steady() - self._since >= SETTLED

    def follow(self, follower: Callable[[float], None]) -> None:
        """Be told when a jump is believed: by how many seconds :meth:`now` then goes forward, or back below
        zero."""
        self._followers.append(follower)

    def look(self) -> None:
        """Compare with the system's clock."""
        now = self._steady()
        offset = self._wall() - now
        if abs(offset - self._offset) <= TOLERANCE:
            self._offset = offset
            if self._jump is not None:
                self._jump = None
                self._tell("the system's clock is right again")
        elif self._jump is None or abs(offset - self._jump.offset) > TOLERANCE:
            self._jump = _Jump(offset, now)
            self._tell(
                "the system's clock has jumped by %.0f s; the edge goes on with its own until the system's has "
                "been steady for %.0f s",
                offset - self._offset,
                self._patience,
            )
        elif now - self._jump.since >= self._patience:
            self._believe(self._jump)

    @property
    def _patience(self) -> float:
        assert self._jump is not None
        return min(CONFIRM, max(0.0, self._jump.since - self._since))

    def _believe(self, jump: _Jump) -> None:
        forward = jump.offset - self._offset
        self._offset, self._since, self._jump = jump.offset, jump.since, None
        logger.warning("the edge's clock is set by %.0f s, as the system's was", forward)
        for follower in self._followers:
            follower(forward)

    def _tell(self, line: str, *values: float) -> None:
        """Not too often: a clock that jumps to and fro at each look fills no log."""
        if self._steady() >= self._told + TELL_AGAIN:
            self._told = self._steady()
            logger.warning(line, *values)
