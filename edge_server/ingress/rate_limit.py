"""Limits on new connections per second, applied only while the edge is overloaded.

While the edge keeps up, nobody is limited: one address may be a whole city behind a NAT. When it falls behind,
each second gets a budget. The budget shrinks while the edge stays behind and grows again when it keeps up, slowly
as long as connections are refused. An address, a network, a tunnel and an owner may each use a fixed multiple of
what is left of the budget, as with places (:mod:`edge_server.ingress.admission`): the most frequent visitor is the
first to be refused, and an occasional one is not.

The edge is behind when new connections wait for long, which is where overload shows first. The wait is the length
of the kernel's accept queue divided by the connections per second (Little's law).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from edge_server.resources.peer_network import network_prefix, peer_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_QUEUE_DELAY: Final = 0.1
"""Seconds in the accept queue from which on the edge is behind: half of the time for a whole handshake."""
OVERLOAD_SECONDS: Final = 10
"""Consecutive seconds behind before a budget is imposed. A burst of some thousand connections ends sooner and is
legitimate. While a budget is in force, a single second is enough to shrink it."""
SHRINK_FACTOR: Final = 0.75
"""Factor from the connections of an overloaded second to the next budget."""
GROWTH_FACTOR: Final = 1.25
"""Factor of growth for each second that was not overloaded and in which nobody was refused."""
SLOW_GROWTH_FACTOR: Final = 1.03
"""Factor of growth if somebody was refused: the same flood would soon overload the edge again, and everybody waits
while it does."""
MIN_BUDGET: Final = 100
"""Smallest budget in visitors a second; the slowest of machines can serve that."""
MAX_BUDGET: Final = 10_000
"""Budget above which the limit is lifted: no machine serves more on one core."""
MAX_PER_REMAINING: Final = 8
"""Connections a second that one owner or tunnel may use for each connection that remains of the budget."""
MAX_PER_REMAINING_OF_ADDRESS: Final = 2
"""The same for one address or network. Smaller, so that other visitors of a tunnel that one address floods still
get some."""
MIN_PER_SECOND: Final = 16
"""Connections a second that each holder may have while there is any budget: a browser that opens a page."""


class ConnectionRateLimiter:
    """The budget of the current second. Its memory is bounded: counts last for one second, in which no more
    connections arrive than one core can accept."""

    def __init__(self, waiting: Callable[[], int], clock: Callable[[], float]) -> None:
        """``waiting`` returns the length of the kernel's accept queue; ``clock`` monotonic seconds."""
        self.budget = math.inf
        """Connections that may be admitted in this second."""
        self.refused = 0
        self._waiting = waiting
        self._clock = clock
        self._second = math.floor(clock())
        self._admitted = 0
        self._seen = 0
        """Connections in this second, refused ones included."""
        self._behind_for = 0
        self._by: Counter[str] = Counter()

    def admit(self, address: str, *, owner: str = "", tunnel_name: str = "") -> bool:
        """Count a new connection and return True if it may be admitted; otherwise count it as refused.

        ``owner`` and ``tunnel_name`` are empty for names that do not exist.
        """
        second = math.floor(self._clock())
        if second != self._second:
            self._start_second(second)
        self._seen += 1
        holders = {
            f"from {peer_prefix(address)}": MAX_PER_REMAINING_OF_ADDRESS,
            f"within {network_prefix(address)}": MAX_PER_REMAINING_OF_ADDRESS,
            f"of {owner}": MAX_PER_REMAINING,
            f"to {tunnel_name}": MAX_PER_REMAINING,
        }
        if self.budget < math.inf:
            left = self.budget - self._admitted
            if left <= 0 or any(
                self._by[key] >= max(MIN_PER_SECOND, share * left) for key, share in holders.items()
            ):
                self.refused += 1
                return False
        self._admitted += 1
        self._by.update(holders.keys())
        return True

    def _start_second(self, second: int) -> None:
        passed, self._second = second - self._second, second
        is_behind = passed == 1 and self._waiting() >= MAX_QUEUE_DELAY * max(self._seen, MIN_BUDGET)
        self._behind_for = self._behind_for + 1 if is_behind else 0
        if self._behind_for >= (OVERLOAD_SECONDS if self.budget == math.inf else 1):
            self.budget = max(MIN_BUDGET, SHRINK_FACTOR * min(self.budget, self._admitted))
        elif self.budget < math.inf:
            # 60 idle seconds raise any budget above MAX_BUDGET, so the exponent stops there.
            has_refused = passed == 1 and self._seen > self._admitted
            self.budget *= SLOW_GROWTH_FACTOR if has_refused else GROWTH_FACTOR ** min(60, passed)
            if self.budget >= MAX_BUDGET:
                self.budget = math.inf
        self._admitted = self._seen = 0
        self._by.clear()
