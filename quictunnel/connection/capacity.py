"""The number of visitors that a client takes: they must not use up the file descriptors of the user's program.

The process's own limit decides (``ulimit -n``), which is read and never changed. A part of it is kept free for the
program. What is left is shared: a tunnel, and a network of visitors, may hold so many times what is still free, so
that one that takes all it can leaves room for others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections import Counter
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MIN_RESERVE: Final = 32
"""Descriptors kept free however low the limit is: an event loop, a log, some files and a subprocess."""
MAX_RESERVE: Final = 1024
"""And no more than these, however high it is: as many as a program may have where nobody has raised the limit."""
RESERVE_DIVISOR: Final = 4
"""In between, a quarter of the limit. A program that serves its visitors itself has a descriptor for each as well;
it accepts them a moment after they were counted here."""
SHARE: Final = 8
"""One tunnel or network may hold so many times what is free (dynamic thresholds, Choudhury and Hahne 1998): at
most 8/9 of all."""
ALWAYS: Final = 4
"""Visitors that each may have as long as there is room for any."""
REMEMBERED: Final = 4096
"""Addresses whose network was found out before; busy ones come again."""
OPEN_DESCRIPTORS: Final = Path("/proc/self/fd")
"""A directory whose size is the number of this process's descriptors, on Linux 6.2 and newer."""
LISTINGS: Final = (OPEN_DESCRIPTORS, Path("/dev/fd"))
"""Directories with an entry for each of them: on older Linux, and on macOS."""
LISTING_KEPT: Final = 20
"""A count is used for so many times as long as the listing took: so listing takes a twentieth of a core at most,
with ten thousand descriptors about ten looks a second."""
SUBSCRIBER_PREFIX: Final = 64
"""Bits of an IPv6 address that belong to one subscriber."""


class Capacity:
    """Counts the visitors that hold a connection to an origin, or are about to."""

    def __init__(self) -> None:
        self.held = 0
        self._opening = 0
        """Places whose descriptor may not be open yet: many visitors come in one turn of the loop. One that waits
        for a busy origin counts twice."""
        self._by: Counter[Hashable] = Counter()

    def take(self, tunnel: Hashable, host: str) -> Place | None:
        """Take a place for a visitor from ``host``; None if there is none, or none for this tunnel or network."""
        network = network_of(host)
        free = free_descriptors()
        if free is not None:
            free -= self._opening
            share = max(ALWAYS, SHARE * free)
            if free <= 0 or any(self._by[key] >= share for key in (tunnel, network)):
                return None
        return Place(self, tunnel, network)


class Place:
    """Place of one visitor. Given back once."""

    # One of these stays with each visitor: no tuple and no closure.
    __slots__ = ("_capacity", "_is_opening", "_network", "_tunnel")

    def __init__(self, capacity: Capacity, tunnel: Hashable, network: str) -> None:
        self._capacity = capacity
        self._tunnel = tunnel
        self._network = network
        self._is_opening = True
        capacity.held += 1
        capacity._opening += 1  # noqa: SLF001 - the two are one thing
        capacity._by.update((tunnel, network))  # noqa: SLF001 - likewise

    def opened(self) -> None:
        """The visitor's connection is there, and with it its descriptor."""
        if self._is_opening:
            self._is_opening = False
            _listing.opened_since += 1
            self._capacity._opening -= 1  # noqa: SLF001 - likewise

    def give_back(self, _splice: object = None) -> None:
        """The visitor's connection is closed, or there will be none. Fits ``Splice.on_gone``."""
        self.opened()
        self._capacity.held -= 1
        counts = self._capacity._by  # noqa: SLF001 - likewise
        for key in (self._tunnel, self._network):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]


def descriptor_limit() -> int | None:
    """Return how many descriptors this process may have now; None where there is no limit."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - does not exist on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def reserve_of(limit: int) -> int:
    """Return how many of ``limit`` descriptors are kept free."""
    return min(MAX_RESERVE, max(MIN_RESERVE, limit // RESERVE_DIVISOR))


def free_descriptors() -> int | None:
    """Return how many descriptors visitors may still take. None where there is no limit.

    Where the system does not say how many are open, they are counted, and where they cannot be, the lowest free
    number stands for it: what is open above a gap then does not count."""
    limit = descriptor_limit()
    if limit is None:
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            lowest, count = probe.fileno(), _open_besides_one()
    except OSError:
        return 0
    if not lowest <= count <= limit:  # other systems' /proc says other things there
        count = max(lowest, _listing.count())
    return limit - reserve_of(limit) - count


def _open_besides_one() -> int:
    with contextlib.suppress(OSError):
        return OPEN_DESCRIPTORS.stat().st_size - 1
    return 0


class _Listing:
    """The number of open descriptors where each has to be counted, which takes a while and is not done for every
    visitor."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.opened_since = 0
        """Descriptors of visitors that were opened since. Those that were closed do not count: there may be more
        than are said to be free, never fewer, but for what the program itself has opened meanwhile."""
        self._counted = 0
        self._used_until = 0.0

    def count(self) -> int:
        """Return how many are open; 0 where nothing says that."""
        now = self._clock()
        if now >= self._used_until:
            self._counted, self.opened_since = self._list(), 0
            self._used_until = now + (1 + LISTING_KEPT) * (self._clock() - now)
        return self._counted + self.opened_since

    @staticmethod
    def _list() -> int:
        for directory in LISTINGS:
            with contextlib.suppress(OSError), os.scandir(directory) as entries:
                return sum(1 for _ in entries) - 1  # without its own
        return 0


_listing = _Listing()


@lru_cache(REMEMBERED)
def network_of(host: str) -> str:
    """Return what counts as one visitor's network: an IPv4 address, or a /64 of IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, SUBSCRIBER_PREFIX), strict=False))
