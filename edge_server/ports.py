"""The plain TCP ports: one listening socket for each lease that asked for one."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

QUARANTINE: Final = 600.0
"""Seconds for which a freed port goes only to the holder of its ticket, so that nobody picks up the visitors
of somebody whose network failed for a moment."""
TRIES: Final = 200
"""Random ports to try. With nine in ten of a range taken by others, all of them fail once in a billion."""
BACKLOG: Final = 512


class Ports:
    """Hands out listening sockets from the edge's range."""

    def __init__(self, host: str, ports: range, clock: Callable[[], float]) -> None:
        self._host = host
        self._range = ports
        self._clock = clock
        self._freed: dict[int, float] = {}
        self._chance = random.SystemRandom()

    def bind(self, wanted: int = 0, allowed: range | None = None) -> socket.socket | None:
        """A listening socket: on ``wanted``, if its ticket was shown and it is free, else on a random port, in any
        case one of those ``allowed``. None when no port is free, or the system has no socket to give."""
        try:
            return self._find(wanted, self._range if allowed is None else allowed)
        except OSError as error:
            # Out of files or memory: one lease less, and everybody else goes on.
            logger.warning("no listening socket could be made: %s", error.strerror or error)
            return None

    def _find(self, wanted: int, allowed: range) -> socket.socket | None:
        if wanted in self._range and wanted in allowed:
            taken = self._listen(wanted)
            if taken is not None:
                self._freed.pop(wanted, None)
                return taken
        self._forget_old()
        free = [port for port in self._range if port in allowed and port not in self._freed]
        for port in self._chance.sample(free, min(TRIES, len(free))):
            taken = self._listen(port)
            if taken is not None:
                return taken
        return None

    def release(self, port: int) -> None:
        """The lease is gone; its port is quarantined."""
        self._freed[port] = self._clock() + QUARANTINE

    def _forget_old(self) -> None:
        now = self._clock()
        for port in [port for port, until in self._freed.items() if until <= now]:
            del self._freed[port]

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
