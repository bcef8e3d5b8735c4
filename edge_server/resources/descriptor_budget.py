"""File descriptors: how many this process may open, what they are shared out to, and what is said about it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

FALLBACK_LIMIT: Final = 4096
"""Where the platform does not say how many files a process may open."""
MAX_FILES: Final = 1_048_576
"""Asked for where there is no hard limit, or a higher one: what Linux grants by default (fs.nr_open). Visitors use
up other things of the machine first."""
MACOS_FILES: Final = 10_240
"""Asked for when that is too much, and counted on where nothing is said: macOS refuses more than OPEN_MAX, though
its hard limit is infinite."""

RESERVE: Final = 128
"""Descriptors kept for the edge itself: sockets, files, the event loop's own, what the operator's page and ACME
open, connections that a turn of the loop accepts before anybody could refuse them."""
RESERVE_SHARE: Final = 8
"""One in so many where there are few."""
LEAST_RESERVE: Final = 48
"""An idle edge has 16 open, 30 with the operator's page and ACME at work."""
PORT_SHARE: Final = 8
"""One in so many of all is for the listening sockets of leases with a TCP port: tokens have shares of these
(:mod:`edge_server.ingress.tcp_ports`), and no way into those of visitors."""
DOORSTEP_SHARE: Final = 4
"""One in so many of the rest is for visitors who have not finished their TLS handshake. They are not counted in
yet, and strangers who say nothing must not use up the files of everybody else."""
MAX_DOORSTEP: Final = 4096
"""Visitors between accept and the end of their handshake. Each holds a socket, up to 16 KiB of ClientHello
and then some 40 KiB of handshake; a flood is cut at about 160 MiB, and 400 newcomers a second with the
slowest of handshakes still fit."""
LEAST_FILES: Final = 2 * LEAST_RESERVE
"""With fewer an edge does not start: a browser that opens one page would be turned away."""
FEW_FILES: Final = 1024
"""With fewer it says at the start what that means; most systems allow as many without being asked."""

MAX_PORTS: Final = 65_535
"""No host has more."""

PROBE_INTERVAL: Final = 1.0
"""Seconds between looks for a free descriptor."""
QUIET: Final = 60.0
"""Seconds between two lines of the log that say that there are too few."""

REMEDY: Final = "`ulimit -n 65536` before the start, LimitNOFILE= of systemd, --ulimit nofile= of Docker"

logger = logging.getLogger(__name__)


def descriptor_limit() -> int:
    """Return how many files this process may open, after raising that as far as it is allowed to."""
    if sys.platform == "win32":
        return FALLBACK_LIMIT
    import resource  # noqa: PLC0415 - does not exist on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MACOS_FILES
    for wanted in (MAX_FILES, MACOS_FILES):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if most <= soft:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # macOS says EINVAL for more than it has
            continue
        return most
    return min(soft, MAX_FILES)


@dataclass(frozen=True, slots=True)
class DescriptorBudget:
    """The descriptors of an edge, by their use."""

    limit: int
    """All of them."""
    doorstep: int
    """For visitors between accept and the end of their TLS handshake."""
    visitors: int
    """For those who are in."""
    ports: int
    """For TCP ports of leases."""

    @classmethod
    def of(cls, limit: int) -> Self:
        """Share out so many. Each has at least one; whether that is of any use is :meth:`check`'s to say."""
        reserve = min(RESERVE, max(LEAST_RESERVE, limit // RESERVE_SHARE))
        ports = min(MAX_PORTS, max(1, limit // PORT_SHARE))
        free = max(2, limit - reserve - ports)
        doorstep = min(MAX_DOORSTEP, max(1, free // DOORSTEP_SHARE))
        return cls(limit=limit, doorstep=doorstep, visitors=free - doorstep, ports=ports)

    def check(self) -> None:
        """Raises ConfigError when there are too few to serve anybody well."""
        if self.limit < LEAST_FILES:
            raise ConfigError(
                f"This process may open only {self.limit} files, and an edge needs at least {LEAST_FILES}: "
                f"raise the limit ({REMEDY})."
            )

    def tell(self) -> None:
        """Say in the log what there is; as a warning when that is little."""
        logger.log(
            logging.WARNING if self.limit < FEW_FILES else logging.INFO,
            "%d file descriptors: places for %d visitors, for %d in their TLS handshake, and for %d TCP ports%s",
            self.limit,
            self.visitors,
            self.doorstep,
            self.ports,
            f"; for more raise the limit ({REMEDY})" if self.limit < FEW_FILES else "",
        )


class ShortageLog:
    """Says that something has run out: at once, and then once a minute as long as it goes on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        """When each was said last; a kind is a text of this program, of which there are three."""
        self._unsaid: dict[str, int] = {}

    def tell(self, what: str, detail: Callable[[], str]) -> None:
        """``detail`` is asked for only when there is a line."""
        now = self._clock()
        self._unsaid[what] = self._unsaid.get(what, 0) + 1
        if now >= self._said.get(what, -QUIET) + QUIET:
            self._said[what] = now
            count = self._unsaid.pop(what)
            logger.warning("%s (%d times since this was last said): %s", what, count, detail())


async def watch_for_free_descriptors(shortage: ShortageLog) -> None:
    """Tell of it while no descriptor is free: whoever connects then is turned away by the kernel or the event
    loop, which say nothing. Runs until cancelled."""
    while True:
        await asyncio.sleep(PROBE_INTERVAL)
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            shortage.tell("no file descriptor is free, newcomers are turned away", lambda: f"raise it ({REMEDY})")
