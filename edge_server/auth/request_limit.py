"""Limits on the requests of an identity. A request for a name or a port costs the edge work whether it succeeds or
not, so work is counted rather than calls: :func:`request_cost` returns the cost of a request.

Each identity has one token bucket for all of its clients. A client that is rejected and dials again gains nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from quictunnel.wire.messages import Bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.wire.messages import Unbind

REQUEST_RATE: Final = 200.0
"""Plain requests a second that one identity may sustain: 4 % of a core."""
NETWORKS_PER_UNIT: Final = 64
"""Networks to allow or to deny that cost as much as one plain request (about 0.1 ms)."""
PORT_COST: Final = 1.0
"""Cost of a listening socket in plain requests: it is opened, watched and closed."""
LOOKUP_COST: Final = 4.0
"""Cost of a domain in plain requests: its addresses and those of the edge are resolved in threads."""
REQUEST_BURST: Final = 1000.0
"""Plain requests at once: ten clients that reconnect with everything they may hold."""
NEW_NAME_BURST: Final = 2000.0
"""Random names that one identity may get at once, in addition to those of its tickets. An identity that abuses
a name moves on to the next one, and the history has to keep all of them
(``tunnels.ownership_store.MAX_NAMES_A_DAY``)."""
NEW_NAME_RATE: Final = 1 / 60
"""Random names a second that one identity may sustain: 1,440 a day."""
MAX_TRACKED: Final = 4096
"""Identities remembered, the latest ones. An identity that was dropped has a full bucket."""


def request_cost(request: Bind | Unbind) -> float:
    """Return the cost of a request in plain requests.

    Measured: 0.1 ms for a plain Bind, 0.25 ms with 128 networks, 0.15 ms with a port.
    """
    if not isinstance(request, Bind):
        return 1.0
    networks = len(request.allow) + len(request.deny)
    cost = 1.0 + networks / NETWORKS_PER_UNIT
    return cost + PORT_COST * request.unencrypted + LOOKUP_COST * bool(request.domain)


class RequestLimiter:
    """A token bucket of work per identity. It starts full and refills at a steady rate."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow ``rate`` units of work a second and ``burst`` units at once."""
        self.rate = rate
        """Units of work a second."""
        self.burst = burst
        """Units of work at once."""
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """Clock time by key at which each bucket is full again."""

    def can_take(self, key: str) -> bool:
        """Return True if :meth:`try_take` would take one unit of work now."""
        now = self._clock()
        full_at = max(now, self._full_at.get(key, now)) + 1 / self.rate
        return full_at - now <= self.burst / self.rate

    def try_take(self, key: str, work: float = 1.0) -> bool:
        """Take ``work`` from the bucket of an identity. Return False, and take nothing, if it holds less than
        that."""
        now = self._clock()
        before = max(now, self._full_at.pop(key, now))
        full_at = before + work / self.rate
        if full_at - now > self.burst / self.rate:
            self._full_at[key] = before
            return False
        self._full_at[key] = full_at
        if len(self._full_at) > MAX_TRACKED:
            del self._full_at[next(iter(self._full_at))]
        return True


def request_limiter(clock: Callable[[], float] = time.monotonic) -> RequestLimiter:
    """Return a limiter for requests; their cost comes from :func:`request_cost`."""
    return RequestLimiter(REQUEST_RATE, REQUEST_BURST, clock)


def new_name_limiter(clock: Callable[[], float] = time.monotonic) -> RequestLimiter:
    """Return a limiter for random names that were never assigned before."""
    return RequestLimiter(NEW_NAME_RATE, NEW_NAME_BURST, clock)
