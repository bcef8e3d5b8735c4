"""Bandwidth limits per identity: the wait that follows after each number of bytes.

A token bucket (RFC 2697's committed rate, without colours) limits each direction of each identity that has a
limit. A splice that overdraws its bucket stops reading, or withholds its stream's credit, until the bucket is
balanced again. Nothing is dropped and nothing waits in memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.permissions import Identity

BURST_SECONDS: Final = 0.1
"""Seconds of unused rate that a bucket saves up. Short enough that other visitors on a narrow line do not
notice."""


class TokenBucket:
    """A token bucket for one direction of one identity."""

    __slots__ = ("_balanced_at", "_clock", "rate")

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a balanced bucket; ``rate`` is in bytes a second."""
        self.rate = rate
        self._clock = clock
        self._balanced_at = clock()
        """Clock time at which everything that was spent is paid for."""

    def spend(self, size: int) -> float:
        """Take ``size`` bytes. Return the seconds to wait before taking more; 0 means no wait."""
        now = self._clock()
        self._balanced_at = max(self._balanced_at, now - BURST_SECONDS) + size / self.rate
        return max(0.0, self._balanced_at - now)


class BandwidthLimiter:
    """The buckets of the identities that have a limit, created on first use."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[TokenBucket, TokenBucket]] = {}

    def buckets_of(self, identity: Identity) -> tuple[TokenBucket, TokenBucket] | None:
        """Return the buckets for the bytes that an identity's visitors send and receive; None without a limit.

        A bucket is replaced when the limit of its identity has changed.
        """
        rate = identity.permissions.bandwidth
        if rate is None:
            self._buckets.pop(identity.key, None)
            return None
        buckets = self._buckets.get(identity.key)
        if buckets is None or buckets[0].rate != rate:
            buckets = self._buckets[identity.key] = TokenBucket(rate), TokenBucket(rate)
        return buckets
