"""How long a packet may be late before it counts as lost: learnt from the path.

A short patience finds losses soon, and on a path that reorders it takes half of the traffic for lost. So it is
short (RFC 9002 section 6.1.2) until a packet that was declared lost is acknowledged after all, then long for a
while (the idea of RFC 8985 section 6.2, without its steps).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Round trips. On a simulated link of 50 ms the long one outlasts 10 ms of jitter with room to spare.
SHORT = 1.125
LONG = 1.5
# A packet is also lost when one sent so many later was acknowledged. The RFC's 3 take a link that reorders by
# some milliseconds for one that loses everything: 10 ms of jitter at 100 Mbit/s let 90 packets overtake one. Where
# that was seen, time does the work and this is a backstop: on a simulated link with that jitter, 64 packets give
# 36 % of the rate, 256 give 68 %. Where it was not, a keystroke lost beside bulk is sent again some milliseconds
# sooner.
FEW = 32
MANY = 256
# Round trips for which one proof of reordering counts (RFC 8985 section 6.2 step 4 keeps it for 16 recoveries).
REMEMBERED = 256
# Packets declared lost whose late acknowledgement would still be noticed; those of a round trip or so.
KEPT = 512


class Reordering:
    """What one path was seen to do."""

    def __init__(self) -> None:
        self._declared: list[int] = []
        self._until = 0.0

    def patience(self, now: float) -> float:
        """How many round trips to wait for a packet that was overtaken."""
        return LONG if now < self._until else SHORT

    def threshold(self, now: float) -> int:
        """How many packets may overtake one."""
        return MANY if now < self._until else FEW

    def on_declared(self, numbers: Iterable[int], *, is_cut: bool) -> None:
        """These packets were taken for lost; for the first of them the window was cut, if it was."""
        if is_cut:
            self._declared.clear()
        self._declared.extend(numbers)
        if len(self._declared) > 2 * KEPT:
            del self._declared[:-KEPT]

    def is_proven(self, ranges: Sequence[tuple[int, int]], now: float, rtt: float) -> bool:
        """Half-open ranges were acknowledged. Whether the last cut was for nothing: for the first time a packet
        taken for lost turns out to have been overtaken only, or later every one of them does."""
        declared = self._declared
        was_known = now < self._until
        for start, stop in ranges if declared else ():
            first, last = bisect_left(declared, start), bisect_left(declared, stop)
            if first < last:
                self._until = now + REMEMBERED * rtt
                del declared[first:last]
                if not was_known:
                    declared.clear()
                if not declared:
                    return True
        return False
