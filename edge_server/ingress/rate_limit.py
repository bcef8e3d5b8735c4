"""How many come in a second, and who is sent away when that is more than this machine can do.

As long as the edge keeps up, nobody is limited, however many they are: an address may be a whole city behind one
NAT. When it falls behind, each second gets a budget, which shrinks while it stays behind and grows again when it
keeps up, slowly as long as somebody is sent away. Of the budget, an address, a network, a lease and an owner may
each have so many times what is left, as with places (:mod:`edge_server.ingress.admission`): whoever comes most
often is the first to be sent away, and who comes now and then is not.

It is behind when a newcomer waits for long, which is where it shows first: so many who wait in the kernel for
``accept``, at so many who come in a second, wait for the one divided by the other (Little's law).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from edge_server.resources.peer_network import neighbourhood, network_of

if TYPE_CHECKING:
    from collections.abc import Callable

BEHIND: Final = 0.1
"""Seconds that a newcomer waits, from which on the edge is behind: half of what its whole handshake may take."""
LASTING: Final = 10
"""Seconds in a row for which it has to be before there is a budget; a burst of some thousands is over sooner, and
is no fault. Where there is one already, a single second is enough."""
SHRINK: Final = 0.75
"""Of what came in a second that was too much, so much is taken in the next."""
GROW: Final = 1.25
"""Each second that was not too much, and in which nobody was sent away, the next may take so many times more."""
CREEP: Final = 1.03
"""And if somebody was: the same flood would be too much again soon, and everybody waits while it is."""
LEAST: Final = 100
"""Visitors a second that are taken always; the slowest of machines can do that."""
MOST: Final = 10_000
"""A budget that has grown to this is no more: no machine does more than so many on one core."""
SHARE: Final = 8
"""How many times what is left of a second's budget one owner or lease may have."""
ADDRESS_SHARE: Final = 2
"""And one address or network: less, so that who comes to a lease that one of them floods still finds some."""
ALWAYS: Final = 16
"""A second that everybody may have as long as there is any budget: a browser that opens a page."""


class ConnectionRateLimiter:
    """See the module. Bounded: nobody is remembered for longer than a second, in which no more than a core can
    take come in."""

    def __init__(self, waiting: Callable[[], int], clock: Callable[[], float]) -> None:
        """``waiting``: how many the kernel has accepted and this process has not."""
        self.budget = math.inf
        """How many may come in this second."""
        self.refused = 0
        self._waiting = waiting
        self._clock = clock
        self._second = math.floor(clock())
        self._came = 0
        self._seen = 0
        """Those sent away included."""
        self._behind_for = 0
        self._by: Counter[str] = Counter()

    def comes(self, host: str, *, owner: str = "", lease: str = "") -> bool:
        """Whether a visitor from that address, to that lease, may come in now; of nobody, for names that do not
        exist. Counts it if so."""
        second = math.floor(self._clock())
        if second != self._second:
            self._next(second)
        self._seen += 1
        who = {
            f"from {neighbourhood(host)}": ADDRESS_SHARE,
            f"within {network_of(host)}": ADDRESS_SHARE,
            f"of {owner}": SHARE,
            f"to {lease}": SHARE,
        }
        if self.budget < math.inf:
            left = self.budget - self._came
            if left <= 0 or any(self._by[key] >= max(ALWAYS, share * left) for key, share in who.items()):
                self.refused += 1
                return False
        self._came += 1
        self._by.update(who.keys())
        return True

    def _next(self, second: int) -> None:
        passed, self._second = second - self._second, second
        is_behind = passed == 1 and self._waiting() >= BEHIND * max(self._seen, LEAST)
        self._behind_for = self._behind_for + 1 if is_behind else 0
        if self._behind_for >= (LASTING if self.budget == math.inf else 1):
            self.budget = max(LEAST, SHRINK * min(self.budget, self._came))
        elif self.budget < math.inf:
            # A pause of a minute is enough for the smallest of budgets to end; the power is bounded by it.
            self.budget *= CREEP if passed == 1 and self._seen > self._came else GROW ** min(60, passed)
            if self.budget >= MOST:
                self.budget = math.inf
        self._came = self._seen = 0
        self._by.clear()
