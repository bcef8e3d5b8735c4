"""How much an identity may ask for: names and ports cost the edge something each time, whether they are given
or not. What is counted is work and not calls: :func:`work_of` says how much a request is.

A token bucket for each identity, of all its clients together, so that a client which is sent away for it and
dials again has gained nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from quictunnel.wire.messages import Bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.wire.messages import Unbind

RATE: Final = 200.0
"""Plain requests a second that one identity may make for long: 4 % of a core."""
NETWORKS: Final = 64
"""To allow or to deny, that are read in the time of a plain request (some 0.1 ms)."""
PORT: Final = 1.0
"""Plain requests that a listening socket counts as: it is opened, watched and closed."""
LOOKUP: Final = 4.0
"""Plain requests that a domain counts as: its addresses and the edge's own are looked up, in threads."""
BURST: Final = 1000.0
"""And at once: ten clients that come back with all that they may hold."""
FRESH_BURST: Final = 2000.0
"""Random names that one identity may be given at once, beside those that it has tickets for: one who abuses a name
goes on to the next, and all of them are to be in the history (``claims.store.MAX_NAMES_A_DAY``)."""
FRESH_RATE: Final = 1 / 60
"""And so many a second for long: 1,440 a day."""
MAX_TRACKED: Final = 4096
"""Identities remembered, the latest; one that is forgotten has a full bucket."""


def work_of(request: Bind | Unbind) -> float:
    """How much work a request is, in plain requests (measured as 0.1, 0.25 and 0.15 ms for a Bind alone, with 128
    networks and with a port)."""
    if not isinstance(request, Bind):
        return 1.0
    networks = len(request.allow) + len(request.deny)
    return 1.0 + networks / NETWORKS + PORT * request.unencrypted + LOOKUP * bool(request.domain)


class RequestLimiter:
    """A bucket of work for each identity: it is full at first, and what is taken comes back at a steady rate."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        """Work a second."""
        self.burst = burst
        """Work at once."""
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """When each bucket is full again."""

    def may(self, key: str, work: float = 1.0) -> bool:
        """Count so much more work of an identity; return False, and count nothing, if that is too much."""
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


def request_budget(clock: Callable[[], float] = time.monotonic) -> RequestLimiter:
    """Of requests, by :func:`work_of`."""
    return RequestLimiter(RATE, BURST, clock)


def fresh_name_budget(clock: Callable[[], float] = time.monotonic) -> RequestLimiter:
    """Of random names that nobody had before."""
    return RequestLimiter(FRESH_RATE, FRESH_BURST, clock)
