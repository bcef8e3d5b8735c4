"""Exponential backoff with jitter. The caller sleeps, runs the loop and passes the random number generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """Exponential backoff with full jitter.

    Each wait is uniform between zero and a ceiling that doubles from ``first`` up to ``cap`` (seconds). The range
    begins at zero and not at half of the ceiling, because a thousand clients of a restarted edge must not come
    back in step: an even spread empties the queue soonest.
    """

    __slots__ = ("_ceiling", "cap", "first")

    def __init__(self, first: float = 0.2, cap: float = 15.0) -> None:
        if not 0 < first <= cap:
            raise ValueError(f"need 0 < first <= cap, got first={first!r}, cap={cap!r}")
        self.first = first
        self.cap = cap
        self._ceiling = first

    @property
    def ceiling(self) -> float:
        """Upper bound of the next wait, in seconds."""
        return self._ceiling

    def next(self, random: Random, limit: float | None = None) -> float:
        """Return the seconds to wait before the next attempt, at most ``limit``, and double the ceiling."""
        wait = random.uniform(0.0, self._ceiling if limit is None else min(self._ceiling, limit))
        # Doubling the ceiling instead of an exponent cannot overflow.
        self._ceiling = min(self.cap, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        """Start from ``first`` again, after an attempt that succeeded and lasted."""
        self._ceiling = self.first

    def __repr__(self) -> str:
        return f"Backoff(first={self.first}, cap={self.cap}, ceiling={self._ceiling})"
