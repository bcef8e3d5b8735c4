"""Bandwidth as a right: how long somebody has to wait after so many bytes.

A token bucket (RFC 2697's committed rate, without colours) for each direction of each identity that has a limit. A
splice that has spent more than there is stops reading, or withholds its stream's credit, until the bucket is even
again: nothing is dropped and nothing waits in memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.permissions import Identity

BURST_SECONDS: Final = 0.1
"""For which an unused rate is saved up: short enough not to be felt by others on a narrow line."""


class Bucket:
    """One direction of one identity."""

    __slots__ = ("_clock", "_even_at", "rate")

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._even_at = clock()
        """When everything that was spent is paid for."""

    def spend(self, size: int) -> float:
        """Take so many bytes; seconds to wait before any more, 0 for none."""
        now = self._clock()
        self._even_at = max(self._even_at, now - BURST_SECONDS) + size / self.rate
        return max(0.0, self._even_at - now)


class BandwidthLimiter:
    """The buckets of those who have a limit, made when they are first needed."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[Bucket, Bucket]] = {}

    def of(self, identity: Identity) -> tuple[Bucket, Bucket] | None:
        """What its visitors send, and what they receive; None without a limit."""
        rate = identity.rights.bandwidth
        if rate is None:
            self._buckets.pop(identity.key, None)
            return None
        buckets = self._buckets.get(identity.key)
        if buckets is None or buckets[0].rate != rate:
            buckets = self._buckets[identity.key] = Bucket(rate), Bucket(rate)
        return buckets
