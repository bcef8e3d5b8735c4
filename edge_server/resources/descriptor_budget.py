"""File descriptors: the limit of this process, its division by use, and log lines about a shortage."""

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
"""Limit where the platform does not report one."""
MAX_FILES: Final = 1_048_576
"""Descriptors requested where there is no hard limit, or a higher one: Linux's default maximum (fs.nr_open).
Visitors exhaust other resources of the machine first."""
MACOS_FILES: Final = 10_240
"""Descriptors requested when :data:`MAX_FILES` is refused, and assumed where nothing is reported: macOS refuses
more than OPEN_MAX, though its hard limit is infinite."""

RESERVE: Final = 128
"""Descriptors for the edge itself: sockets, files, the event loop, the operator's page, ACME, and connections that
one iteration of the loop accepts before they can be refused."""
RESERVE_DIVISOR: Final = 8
"""Divisor of the limit for the reserve where the limit is small."""
MIN_RESERVE: Final = 48
"""Smallest reserve. An idle edge has 16 descriptors open, and 30 with the operator's page and ACME active."""
PORT_DIVISOR: Final = 8
"""Divisor of the limit for the listening sockets of tunnels with a TCP port. Tokens have shares of these
(:mod:`edge_server.ingress.tcp_ports`), separate from those of visitors."""
HANDSHAKE_DIVISOR: Final = 4
"""Divisor of the rest for visitors in their TLS handshake. They are not counted against a tunnel yet, and silent
connections must not use up the descriptors of everybody else."""
MAX_HANDSHAKES: Final = 4096
"""Visitors between accept and the end of their handshake. Each holds a socket, up to 16 KiB of ClientHello
and then some 40 KiB of handshake; a flood is cut at about 160 MiB, and 400 connections a second with the
slowest of handshakes still fit."""
MIN_FILES: Final = 2 * MIN_RESERVE
"""Smallest limit with which an edge starts: with fewer, a browser that opens one page would be refused."""
WARN_FILES: Final = 1024
"""Limit below which the start logs a warning; most systems allow this many by default."""

MAX_PORTS: Final = 65_535
"""TCP ports of a host."""

PROBE_INTERVAL: Final = 1.0
"""Seconds between checks for a free descriptor."""
LOG_INTERVAL: Final = 60.0
"""Seconds between two log lines about the same shortage."""

REMEDY: Final = "`ulimit -n 65536` before the start, LimitNOFILE= of systemd, --ulimit nofile= of Docker"

logger = logging.getLogger(__name__)


def descriptor_limit() -> int:
    """Return the number of files that this process may open, after raising it as far as permitted."""
    if sys.platform == "win32":
        return FALLBACK_LIMIT
    import resource  # noqa: PLC0415 - does not exist on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MACOS_FILES
    for target in (MAX_FILES, MACOS_FILES):
        most = target if hard == resource.RLIM_INFINITY else min(target, hard)
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
    """The descriptors of an edge, divided by use."""

    limit: int
    """All descriptors."""
    handshakes: int
    """Descriptors of visitors between accept and the end of their TLS handshake."""
    visitors: int
    """Descriptors of admitted visitors."""
    ports: int
    """Descriptors of the tunnels' TCP ports."""

    @classmethod
    def of(cls, limit: int) -> Self:
        """Divide ``limit`` descriptors. Each use gets at least one; :meth:`check` rejects a limit that is too
        small."""
        reserve = min(RESERVE, max(MIN_RESERVE, limit // RESERVE_DIVISOR))
        ports = min(MAX_PORTS, max(1, limit // PORT_DIVISOR))
        free = max(2, limit - reserve - ports)
        handshakes = min(MAX_HANDSHAKES, max(1, free // HANDSHAKE_DIVISOR))
        return cls(limit=limit, handshakes=handshakes, visitors=free - handshakes, ports=ports)

    def check(self) -> None:
        """Raise ConfigError if there are too few descriptors to serve visitors well."""
        if self.limit < MIN_FILES:
            raise ConfigError(
                f"This process may open only {self.limit} files, and an edge needs at least {MIN_FILES}: "
                f"raise the limit ({REMEDY})."
            )

    def log(self) -> None:
        """Log the budget: as a warning when it is small, otherwise for debugging."""
        logger.log(
            logging.WARNING if self.limit < WARN_FILES else logging.DEBUG,
            "%d file descriptors: places for %d visitors, for %d in their TLS handshake, and for %d TCP ports%s",
            self.limit,
            self.visitors,
            self.handshakes,
            self.ports,
            f"; for more raise the limit ({REMEDY})" if self.limit < WARN_FILES else "",
        )


class ShortageLog:
    """Log lines about exhausted resources: one at once, and then one a minute while the shortage lasts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: monotonic seconds."""
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        """Time of the last line by kind. The kinds are a few fixed texts of this program."""
        self._unreported: dict[str, int] = {}

    def report(self, what: str, detail: Callable[[], str]) -> None:
        """Count one occurrence, and log it if the last line is old enough. ``detail`` is called only for a
        line."""
        now = self._clock()
        self._unreported[what] = self._unreported.get(what, 0) + 1
        if now >= self._logged_at.get(what, -LOG_INTERVAL) + LOG_INTERVAL:
            self._logged_at[what] = now
            count = self._unreported.pop(what)
            logger.warning("%s (%d times since the last such line): %s", what, count, detail())


async def watch_for_free_descriptors(shortage: ShortageLog) -> None:
    """Log a warning while no descriptor is free. Connections are then refused by the kernel or the event loop,
    which log nothing. Runs until cancelled."""
    while True:
        await asyncio.sleep(PROBE_INTERVAL)
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            shortage.report(
                "no file descriptor is free, new connections are refused", lambda: f"raise it ({REMEDY})"
            )
