"""Fair shares of a finite resource among tokens.

One rule for sessions, tunnels, TCP ports, memory and certificates (dynamic thresholds, Choudhury and Hahne 1998;
visitors' places follow it in :mod:`edge_server.ingress.admission`): a holder may have a fixed multiple of what is
left. While there is plenty, that limits nobody, so an edge with one token loses a ninth at most. When it gets
scarce, the largest holder is the first to get no more, and one that has none still gets some.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

DEFAULT_MAX_PER_FREE: Final = 8
"""Units that one holder may have for each unit that is free. A holder that takes all it can gets 8/9, a
second one 8/9 of the rest, and the next still gets some."""


class Shares:
    """Counts the holders of ``size`` units and decides who may take more."""

    def __init__(self, size: int, *, max_per_free: int = DEFAULT_MAX_PER_FREE, minimum: int = 0) -> None:
        """Start without holders.

        Args:
            size: units in all.
            max_per_free: units that a holder may have for each unit that is free.
            minimum: units that each holder may have while there are any.
        """
        self.size = size
        self.used = 0
        self._max_per_free = max_per_free
        self._minimum = minimum
        self._held: Counter[str] = Counter()

    @property
    def available(self) -> int:
        """Units that are free; negative after :meth:`take` without :meth:`may_take`."""
        return self.size - self.used

    def held_by(self, holder: str) -> int:
        """Return the units of one holder."""
        return self._held[holder]

    def max_for(self, holder: str) -> int:
        """Return the largest amount that :meth:`may_take` allows a holder to take now."""
        left, held = max(0, self.available), self._held[holder]
        # held + n - 1 < max_per_free * (left - (n - 1)), solved for n.
        by_share = (
            (self._max_per_free * left - held + self._max_per_free) // (self._max_per_free + 1) if left else 0
        )
        return max(0, min(left, max(by_share, self._minimum - held)))

    def may_take(self, holder: str, amount: int = 1) -> bool:
        """Return True if a holder may take ``amount`` more."""
        return amount <= self.max_for(holder)

    def take(self, holder: str, amount: int = 1) -> None:
        """Count ``amount`` for a holder, whatever its share: units that a predecessor edge granted stay
        granted."""
        if amount:
            self.used += amount
            self._held[holder] += amount

    def release(self, holder: str, amount: int = 1) -> None:
        """Return ``amount`` units of a holder."""
        self.used -= amount
        self._held[holder] -= amount
        if not self._held[holder]:
            del self._held[holder]
