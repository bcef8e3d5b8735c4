"""Limit of concurrent visitors of a client, so that they do not use up the file descriptors of the user's program.

The limit follows from the process's own (``ulimit -n``), which is read and never changed. A part of it is kept
free for the program, the rest is shared. A tunnel, or a peer (the addresses of one subscriber), may hold at most a
multiple of the number of free descriptors, so that one that takes all it can leaves room for others.
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

MIN_KEPT_FREE: Final = 32
"""Descriptors kept free however low the limit is: for an event loop, a log, some files and a subprocess."""
MAX_KEPT_FREE: Final = 1024
"""Most descriptors kept free however high the limit is: the usual limit of a process that has not raised it."""
KEPT_FREE_DIVISOR: Final = 4
"""Between those two, a quarter of the limit is kept free. A program that serves its visitors itself needs a
descriptor for each as well, which it opens a moment after the visitor was counted here."""
SHARE_FACTOR: Final = 8
"""One tunnel or peer may hold 8 times the number of free descriptors (dynamic thresholds, Choudhury and
Hahne 1998), which is at most 8/9 of all."""
MIN_PER_HOLDER: Final = 4
"""Visitors that each tunnel and peer may have as long as any descriptor is free."""
MAX_CACHED_PEERS: Final = 4096
"""Addresses whose peer is cached; a busy visitor connects again and again."""
OPEN_DESCRIPTORS: Final = Path("/proc/self/fd")
"""Directory whose size is the number of this process's descriptors, on Linux 6.2 and newer."""
DESCRIPTOR_DIRS: Final = (OPEN_DESCRIPTORS, Path("/dev/fd"))
"""Directories with an entry for each open descriptor: on older Linux, and on macOS."""
LISTING_REUSE_FACTOR: Final = 20
"""A count is reused for 20 times the duration of the listing. Listing takes a twentieth of a core at most: with
ten thousand descriptors, about ten listings a second."""
SUBSCRIBER_PREFIX: Final = 64
"""Bits of an IPv6 address that belong to one subscriber."""


class Capacity:
    """Reservations of descriptors for visitors that have a connection to an origin or are about to get one."""

    def __init__(self) -> None:
        self.reserved = 0
        self._opening = 0
        """Reservations whose descriptor may not be open yet: many visitors arrive in one iteration of the event
        loop. A visitor that waits for a busy origin counts twice."""
        self._per_holder: Counter[Hashable] = Counter()

    def reserve(self, tunnel: Hashable, address: str) -> Reservation | None:
        """Reserve a descriptor for a visitor from ``address``. Return None if its tunnel's or peer's share is used
        up, or no descriptor is free."""
        peer = peer_of(address)
        free = free_descriptors()
        if free is not None:
            free -= self._opening
            share = max(MIN_PER_HOLDER, SHARE_FACTOR * free)
            if free <= 0 or any(self._per_holder[key] >= share for key in (tunnel, peer)):
                return None
        return Reservation(self, tunnel, peer)


class Reservation:
    """Reservation of one descriptor for one visitor. Released once."""

    # Each visitor has one for its whole life: slots take less memory than a tuple and a closure.
    __slots__ = ("_capacity", "_is_opening", "_peer", "_tunnel")

    def __init__(self, capacity: Capacity, tunnel: Hashable, peer: str) -> None:
        self._capacity = capacity
        self._tunnel = tunnel
        self._peer = peer
        self._is_opening = True
        capacity.reserved += 1
        capacity._opening += 1  # noqa: SLF001 - the two classes are one unit
        capacity._per_holder.update((tunnel, peer))  # noqa: SLF001 - likewise

    def mark_opened(self) -> None:
        """Note that the descriptor of the visitor's connection is open."""
        if self._is_opening:
            self._is_opening = False
            _listing.opened_since += 1
            self._capacity._opening -= 1  # noqa: SLF001 - likewise

    def release(self, _splice: object = None) -> None:
        """Release the descriptor: the visitor's connection is closed, or none was opened. Fits
        ``Splice.on_closed``."""
        self.mark_opened()
        self._capacity.reserved -= 1
        counts = self._capacity._per_holder  # noqa: SLF001 - likewise
        for key in (self._tunnel, self._peer):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]


def descriptor_limit() -> int | None:
    """Return the current descriptor limit of this process; None where there is none."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - does not exist on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def kept_free(limit: int) -> int:
    """Return the number of descriptors, out of ``limit``, that are kept free for the program."""
    return min(MAX_KEPT_FREE, max(MIN_KEPT_FREE, limit // KEPT_FREE_DIVISOR))


def free_descriptors() -> int | None:
    """Return the number of descriptors that visitors may still take. None where there is no limit.

    Where the system does not report the number of open descriptors, they are counted. Where they cannot be
    counted, the lowest free number is taken for it, which misses those above a gap."""
    limit = descriptor_limit()
    if limit is None:
        return None
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            lowest, count = probe.fileno(), _open_besides_one()
    except OSError:
        return 0
    if not lowest <= count <= limit:  # the size of this directory means something else on other systems
        count = max(lowest, _listing.count())
    return limit - kept_free(limit) - count


def _open_besides_one() -> int:
    with contextlib.suppress(OSError):
        return OPEN_DESCRIPTORS.stat().st_size - 1
    return 0


class _Listing:
    """Count of open descriptors by listing a directory. A listing is slow, so one serves for several visitors."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.opened_since = 0
        """Descriptors of visitors opened since the last listing. Closed ones are not subtracted, so the number of
        free descriptors is never overestimated, except by what the program itself has opened since."""
        self._counted = 0
        self._used_until = 0.0

    def count(self) -> int:
        """Return the number of open descriptors; 0 where no directory lists them."""
        now = self._clock()
        if now >= self._used_until:
            self._counted, self.opened_since = self._list(), 0
            self._used_until = now + (1 + LISTING_REUSE_FACTOR) * (self._clock() - now)
        return self._counted + self.opened_since

    @staticmethod
    def _list() -> int:
        for directory in DESCRIPTOR_DIRS:
            with contextlib.suppress(OSError), os.scandir(directory) as entries:
                return sum(1 for _ in entries) - 1  # without the listing's own
        return 0


_listing = _Listing()


@lru_cache(MAX_CACHED_PEERS)
def peer_of(address: str) -> str:
    """Return the addresses that count as one peer: an IPv4 address, or a /64 of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, SUBSCRIBER_PREFIX), strict=False))
