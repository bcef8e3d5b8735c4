"""How much an identity may ask for: names and ports cost the edge something each time, whether they are given
or not.

A token bucket for each identity, of all its clients together, so that a client which is sent away for it and
dials again has gained nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

RATE: Final = 200.0
"""Requests a second that one identity may make for long: 4 % of a core."""
BURST: Final = 1000.0
"""And at once: ten clients that come back with all that they may hold."""
MAX_TRACKED: Final = 4096
"""Identities remembered, the latest; one that is forgotten has a full bucket."""


class Requests:
    """See the module."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """When each bucket is full again."""

    def may(self, key: str) -> bool:
        """Whether that identity may ask once more; it is then counted."""
        now = self._clock()
        full_at = max(now, self._full_at.pop(key, now)) + 1 / RATE
        if full_at - now > BURST / RATE:
            self._full_at[key] = full_at - 1 / RATE
            return False
        self._full_at[key] = full_at
        if len(self._full_at) > MAX_TRACKED:
            del self._full_at[next(iter(self._full_at))]
        return True
