"""Adaptive reordering tolerance of loss detection.

A short tolerance detects losses early, but on a path with reordering it declares half of the traffic lost. So it
is short (RFC 9002 section 6.1.2) until a packet that was declared lost is acknowledged. Then it is long for a
while (the idea of RFC 8985 section 6.2, without its steps).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Time thresholds in round trips. On a simulated link of 50 ms the long one tolerates 10 ms of jitter.
SHORT_TIME = 1.125
LONG_TIME = 1.5
# Packet thresholds: a packet is lost if one sent so many later was acknowledged. With the RFC's 3, a link that
# reorders by a few milliseconds seems to lose everything: 10 ms of jitter at 100 Mbit/s let 90 packets overtake
# one. After reordering was seen, the time threshold does the work and this is a backstop: on a simulated link with
# that jitter, 64 packets give 36 % of the rate, 256 give 68 %. Before that, the small threshold retransmits a
# keystroke that was lost beside bulk data a few milliseconds sooner.
SMALL_PACKET_THRESHOLD = 32
LARGE_PACKET_THRESHOLD = 256
# Round trips for which one proof of reordering counts (RFC 8985 section 6.2 step 4: 16 recoveries).
PROOF_LIFETIME = 256
# Packets declared lost to remember, about those of one round trip.
MAX_DECLARED = 512


class Reordering:
    """Reordering observed on one path."""

    def __init__(self) -> None:
        self._declared: list[int] = []
        self._until = 0.0

    def time_threshold(self, now: float) -> float:
        """Return the time threshold for an overtaken packet, in round trips."""
        return LONG_TIME if now < self._until else SHORT_TIME

    def packet_threshold(self, now: float) -> int:
        """Return the packet threshold: packets that may overtake one before it is lost."""
        return LARGE_PACKET_THRESHOLD if now < self._until else SMALL_PACKET_THRESHOLD

    def on_declared(self, numbers: Iterable[int], *, is_cut: bool) -> None:
        """Record packets declared lost. ``is_cut``: the congestion window was reduced for them."""
        if is_cut:
            self._declared.clear()
        self._declared.extend(numbers)
        if len(self._declared) > 2 * MAX_DECLARED:
            del self._declared[:-MAX_DECLARED]

    def is_proven(self, ranges: Sequence[tuple[int, int]], now: float, rtt: float) -> bool:
        """Record acknowledged half-open ranges and return True if the last window reduction was spurious.

        That is so when reordering is seen for the first time, or when every packet declared lost has arrived.
        """
        declared = self._declared
        was_known = now < self._until
        for start, stop in ranges if declared else ():
            first, last = bisect_left(declared, start), bisect_left(declared, stop)
            if first < last:
                self._until = now + PROOF_LIFETIME * rtt
                del declared[first:last]
                if not was_known:
                    declared.clear()
                if not declared:
                    return True
        return False
