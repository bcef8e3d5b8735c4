"""May one more visitor come in?

Counts what is in, of each owner, each lease, each address and altogether, and says no at the cap, so that a
flood of visitors is refused one by one while the tunnels' own sockets and files go on working. Nobody takes all
places: an owner, a lease and an address may have so many times what is left. While there is plenty of room that
limits nobody, so people who share an address are not punished for it; when it gets scarce, whoever has the most is
the first to get no more. How many come in a second is :mod:`edge_server.arrivals`'.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from edge_server.addresses import neighbourhood
from edge_server.arrivals import Arrivals
from edge_server.visitors.filter import Filter
from edge_server.visitors.front import MAX_PENDING

if TYPE_CHECKING:
    from collections.abc import Iterable

RESERVE: Final = 256
"""File descriptors kept free of visitors: the QUIC socket, listeners of leases, files, the loop's own."""
DOORSTEP_SHARE: Final = 4
"""One in so many of the rest is for visitors who have not finished their TLS handshake. They are not counted in
yet, and strangers who say nothing must not use up the files of everybody else."""
SHARE: Final = 8
"""How many times what is left one owner, lease or address may have (dynamic thresholds, Choudhury and Hahne 1998).
One that takes all it can gets to 8/9 of the places, a second one to 8/9 of the rest, and the next still finds
some."""
ALWAYS: Final = 16
"""Places that everybody may have as long as there are any."""
FALLBACK_LIMIT: Final = 4096
"""Where the platform does not say how many files a process may open."""


def descriptor_limit() -> int:
    """How many files this process may open; raised to the hard limit first, where there is one."""
    if sys.platform == "win32":
        return FALLBACK_LIMIT
    import resource  # noqa: PLC0415 - does not exist on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return FALLBACK_LIMIT if soft == resource.RLIM_INFINITY else soft


class Admission:
    """The number of visitors, and its cap."""

    def __init__(self, cap: int | None = None, arrivals: Arrivals | None = None) -> None:
        """``arrivals``: how many may come in a second; by default anybody."""
        self.arrivals = arrivals or Arrivals(lambda: 0, time.monotonic)
        free = max(2, descriptor_limit() - RESERVE)
        self.doorstep = min(MAX_PENDING, free // DOORSTEP_SHARE)
        """How many visitors may be between accept and the end of their TLS handshake."""
        self.cap = free - self.doorstep if cap is None else cap
        self.inside = 0
        self.refused = 0
        self._of: Counter[str] = Counter()
        self._at: Counter[str] = Counter()
        self._from: Counter[str] = Counter()
        self._banned = Filter((), ())

    def ban(self, networks: Iterable[str]) -> None:
        """Nobody may come from these from now on, and from those of before anybody may."""
        self._banned = Filter((), networks)

    def admits(self, host: str) -> bool:
        """Whether anybody may come from there."""
        return self._banned.admits(host)

    def enter(self, owner: str, lease: str, host: str, most: int | None = None) -> bool:
        """Take a place for a visitor of ``owner``, who may have ``most`` of them, at that lease and from that
        address. False: there is none; the visitor is counted as refused."""
        neighbours = neighbourhood(host)
        fair = max(ALWAYS, SHARE * (self.cap - self.inside))
        if (
            self.inside >= self.cap
            or not self.admits(host)
            or self._of[owner] >= (fair if most is None else min(fair, most))
            or self._at[lease] >= fair
            or self._from[neighbours] >= fair
        ):
            self.refused += 1
            return False
        self.inside += 1
        self._of[owner] += 1
        self._at[lease] += 1
        self._from[neighbours] += 1
        return True

    def leave(self, owner: str, lease: str, host: str) -> None:
        """Give a place back."""
        self.inside -= 1
        for count, key in ((self._of, owner), (self._at, lease), (self._from, neighbourhood(host))):
            count[key] -= 1
            if not count[key]:
                del count[key]
