"""How long to wait before trying again. Retrying is a value; the loop around it belongs to the caller.

No clock and no source of chance live here: the caller sleeps, and the caller brings the dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """Exponential back-off with full jitter.

    Each wait is drawn evenly between zero and a ceiling that doubles from ``first`` up to ``cap``. The whole
    range is drawn from, not only its upper half, because what must be avoided is a thousand clients of one
    edge coming back in step after it restarted; spreading them evenly is what empties the queue soonest.
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
        """The most that the next wait can be."""
        return self._ceiling

    def next(self, random: Random, limit: float | None = None) -> float:
        """Seconds to wait before the next attempt; no more than ``limit`` where somebody waits for it."""
        wait = random.uniform(0.0, self._ceiling if limit is None else min(self._ceiling, limit))
        # Doubling the ceiling itself, not an exponent, cannot overflow however often it is tried.
        self._ceiling = min(self.cap, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        """An attempt succeeded and stayed up: the next failure starts from ``first`` again."""
        self._ceiling = self.first

    def __repr__(self) -> str:
        return f"Backoff(first={self.first}, cap={self.cap}, ceiling={self._ceiling})"
