"""Shares of something finite: how much of it one token may have, so that others find some as well.

One rule for sessions, tunnels, TCP ports, memory and certificates (dynamic thresholds, Choudhury and Hahne 1998;
visitors' places follow it in :mod:`edge_server.ingress.admission`): a holder may have so many times what is left.
As long as there is plenty that limits nobody, so an edge with one token loses a ninth at most. When it gets
scarce, the holder of the most is the first to get no more, and one that has none finds some.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

SHARE: Final = 8
"""How many times what is left one holder may have. One that takes all it can gets 8/9, a second one 8/9 of the
rest, and the next still finds some."""


class Shares:
    """Counts who has how much of ``size``, and says who may have more."""

    def __init__(self, size: int, *, share: int = SHARE, always: int = 0) -> None:
        """``always``: what everybody may have as long as there is any."""
        self.size = size
        self.used = 0
        self._share = share
        self._always = always
        self._held: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Amount that nobody has; below zero after :meth:`take` without :meth:`may_take`."""
        return self.size - self.used

    def held_by(self, holder: str) -> int:
        """Return the amount that one holder has."""
        return self._held[holder]

    def most_for(self, holder: str) -> int:
        """How much more a holder may take at once: the largest amount that :meth:`may_take` allows."""
        left, held = max(0, self.left), self._held[holder]
        # held + n - 1 < share * (left - (n - 1)), solved for n.
        by_share = (self._share * left - held + self._share) // (self._share + 1) if left else 0
        return max(0, min(left, max(by_share, self._always - held)))

    def may_take(self, holder: str, amount: int = 1) -> bool:
        """Return True if a holder may have so much more."""
        return amount <= self.most_for(holder)

    def take(self, holder: str, amount: int = 1) -> None:
        """Count it. What was given before, as by an edge that was followed, is counted whatever the share."""
        if amount:
            self.used += amount
            self._held[holder] += amount

    def give_back(self, holder: str, amount: int = 1) -> None:
        """The inverse of :meth:`take`."""
        self.used -= amount
        self._held[holder] -= amount
        if not self._held[holder]:
            del self._held[holder]
