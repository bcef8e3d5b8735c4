"""The plain TCP ports: one listening socket for each lease that asked for one."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import socket
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

QUARANTINE: Final = 600.0
"""Seconds for which a freed port goes only to whoever had it, so that nobody picks up the visitors
of somebody whose network failed for a moment."""
TRIES: Final = 200
"""Random ports to try. With nine in ten of a range taken by others, all of them fail once in a billion."""
BLIND_TRIES: Final = 20
"""Before those: with a range that is half full, all of them fail once in a million."""
BACKLOG: Final = 1024
"""Connections that the kernel keeps while the edge is busy: half a second of as many as one core welcomes. Who
finds no room there tries again after a second."""


_UNACKED: Final = 24
"""Where ``tcpi_unacked`` is in Linux's ``struct tcp_info``: of a listening socket, the length of its queue."""


class Ports:
    """Hands out listening sockets from the edge's range."""

    def __init__(self, host: str, ports: range, clock: Callable[[], float]) -> None:
        self._host = host
        self._range = ports
        self._clock = clock
        self._freed: dict[int, tuple[float, str]] = {}
        """Until when a port is quarantined, and whose it was."""
        self._chance = random.SystemRandom()

    def bind(
        self,
        owner: str,
        wanted: int = 0,
        allowed: range | None = None,
        may: Callable[[int], bool] = lambda _: True,
    ) -> socket.socket | None:
        """A listening socket: on ``wanted``, if it is free or was the owner's, else on a random port, in any
        case one of those ``allowed`` which it ``may`` be. None when no port is free, or the system has no
        socket to give."""
        try:
            return self._find(owner, wanted, self._range if allowed is None else allowed, may)
        except OSError as error:
            return self._failed(error)

    def bind_this(self, port: int, owner: str) -> socket.socket | None:
        """On this port or on none."""
        try:
            return self._take(port, owner) if port in self._range else None
        except OSError as error:
            return self._failed(error)

    def _find(self, owner: str, wanted: int, allowed: range, may: Callable[[int], bool]) -> socket.socket | None:
        if wanted in self._range and wanted in allowed and may(wanted):
            taken = self._take(wanted, owner)
            if taken is not None:
                return taken
        self._forget_old()
        # Their own first: whoever binds and unbinds in a loop then quarantines one port and not all of them.
        for port in [port for port, (_, whose) in self._freed.items() if whose == owner]:
            if port in allowed and may(port) and (taken := self._take(port, owner)) is not None:
                return taken
        for port in self._drawn(allowed, may):
            taken = self._listen(port)
            if taken is not None:
                return taken
        return None

    def _drawn(self, allowed: range, may: Callable[[int], bool]) -> Iterator[int]:
        """Ports at random that may be free, as many as are worth a try. First drawn blindly, which nearly always
        does it; only in a range that is all but full is it worth looking at every port."""
        within = range(max(self._range.start, allowed.start), min(self._range.stop, allowed.stop))
        if not within:
            return
        for port in self._chance.choices(within, k=BLIND_TRIES):
            if port not in self._freed and may(port):
                yield port
        free = [port for port in within if port not in self._freed and may(port)]
        yield from self._chance.sample(free, min(TRIES, len(free)))

    def _take(self, port: int, owner: str) -> socket.socket | None:
        until, whose = self._freed.get(port, (0.0, owner))
        if whose != owner and until > self._clock():
            return None
        taken = self._listen(port)
        if taken is not None:
            self._freed.pop(port, None)
        return taken

    def release(self, port: int, owner: str) -> None:
        """The lease is gone; its port is quarantined."""
        self._freed.pop(port, None)
        self._freed[port] = self._clock() + QUARANTINE, owner

    def _forget_old(self) -> None:
        now = self._clock()
        for port in [port for port, (until, _) in self._freed.items() if until <= now]:
            del self._freed[port]

    @staticmethod
    def _failed(error: OSError) -> None:
        # Out of files or memory: one lease less, and everybody else goes on.
        logger.warning("no listening socket could be made: %s", error.strerror or error)

    def _listen(self, port: int) -> socket.socket | None:
        return listen(self._host, port)


def listen(host: str, port: int) -> socket.socket | None:
    """A non-blocking listening TCP socket; None when the port is taken. Raises OSError for anything else."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # Without it a port stays taken for a minute by connections that have already ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # one socket for both families, where the system can
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def backlog_of(sock: socket.socket) -> int:
    """How many connections wait in a listening socket's queue; 0 where the system does not say."""
    if sys.platform != "linux" or sock.fileno() == -1:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
    return int.from_bytes(info[_UNACKED:], sys.byteorder)
