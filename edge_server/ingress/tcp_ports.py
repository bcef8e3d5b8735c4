"""The plain TCP ports: one listening socket for each lease that asked for one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
import sys
from itertools import islice
from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

QUARANTINE: Final = 600.0
"""Seconds for which a freed port goes only to whoever had it, so that nobody picks up the visitors
of somebody whose network failed for a moment."""
TRIES: Final = 200
"""Ports to draw for one request. Those that cannot be had are put aside: the next request does not draw them."""
ASIDE: Final = 60.0
"""Seconds for which a port is not drawn again that another program has, or that is claimed by somebody else."""
LAST_TRIES: Final = 20
"""Ports that were put aside to try, where no other is left: what took them may have ended."""
BACKLOG: Final = 1024
"""Connections that the kernel keeps while the edge is busy: half a second of as many as one core welcomes. Who
finds no room there tries again after a second."""
ACCEPTS: Final = 8
"""Connections that asyncio's own loop accepts in a turn, and one more, twice before anybody can refuse the first:
their descriptors come out of the reserve. uvloop accepts one."""

_UNACKED: Final = 24
"""Where ``tcpi_unacked`` is in Linux's ``struct tcp_info``: of a listening socket, the length of its queue."""


class _Drawable:
    """Numbers of a range: one is drawn at random out of any part of it, in logarithmic time (a Fenwick tree)."""

    def __init__(self, numbers: range) -> None:
        self._start = numbers.start
        self._size = len(numbers)
        self._is_in = bytearray(b"\x01" * self._size)
        self._tree = [0] + [number & -number for number in range(1, self._size + 1)]
        self._top = 1 << self._size.bit_length() >> 1

    def put(self, number: int, *, is_in: bool) -> None:
        """Let it be drawn, or not."""
        at = number - self._start
        if self._is_in[at] == is_in:
            return
        self._is_in[at] = is_in
        at += 1
        while at <= self._size:
            self._tree[at] += 1 if is_in else -1
            at += at & -at

    def draw(self, part: range, chance: random.Random) -> int | None:
        """Return one of a part at random, None when there is none."""
        before = self._count_below(part.start - self._start)
        count = self._count_below(part.stop - self._start) - before
        if count <= 0:
            return None
        wanted, at, step = before + chance.randrange(count), 0, self._top
        while step:
            if at + step <= self._size and self._tree[at + step] <= wanted:
                at += step
                wanted -= self._tree[at]
            step >>= 1
        return self._start + at

    def _count_below(self, at: int) -> int:
        at = min(max(at, 0), self._size)
        count = 0
        while at:
            count += self._tree[at]
            at &= at - 1
        return count


class TcpPorts:
    """Hands out listening sockets from the edge's range. Nothing here takes longer the fewer ports are left."""

    def __init__(self, host: str, ports: range, clock: Callable[[], float], *, most: int | None = None) -> None:
        """``most``: how many there are descriptors for."""
        self._host = host
        self._range = ports
        self._clock = clock
        self.shares = Shares(len(ports) if most is None else min(len(ports), most))
        """Ports that somebody has, or that are quarantined for somebody."""
        self._owner: dict[int, str] = {}
        """Owners of those ports."""
        self._freed: dict[int, float] = {}
        """Ends of quarantines by port, in their order."""
        self._freed_of: dict[str, dict[int, None]] = {}
        """Quarantined ports by owner."""
        self._aside: dict[int, float] = {}
        """Times until which ports that could not be had are not drawn, in their order."""
        self._drawable = _Drawable(ports)
        self._chance = random.SystemRandom()

    def bind(
        self,
        owner: str,
        wanted: int = 0,
        allowed: range | None = None,
        may: Callable[[int], bool] = lambda _: True,
    ) -> socket.socket | None:
        """A listening socket: on ``wanted``, if it is free or was the owner's, else on a random port, in any
        case one of those ``allowed`` which it ``may`` be. None when no port is free, when the owner has its share
        (:mod:`edge_server.resources.shares`), or when the system has no socket to give."""
        try:
            return self._find(owner, wanted, self._range if allowed is None else allowed, may)
        except OSError as error:
            return self._failed(error)

    def bind_this(self, port: int, owner: str) -> socket.socket | None:
        """On this port or on none."""
        self._forget_old()
        try:
            return self._take(port, owner) if port in self._range else None
        except OSError as error:
            return self._failed(error)

    def adopt(self, port: int, owner: str) -> None:
        """Count a port whose socket came from somewhere else, as from the edge before this one."""
        if port in self._range:
            self._have(port, owner)

    def release(self, port: int, owner: str) -> None:
        """The lease is gone; its port is quarantined."""
        if port not in self._range:
            return
        self._have(port, owner)
        self._freed[port] = self._clock() + QUARANTINE
        self._freed_of.setdefault(owner, {})[port] = None

    def _find(self, owner: str, wanted: int, allowed: range, may: Callable[[int], bool]) -> socket.socket | None:
        self._forget_old()
        if wanted in self._range and wanted in allowed and may(wanted):
            taken = self._take(wanted, owner)
            if taken is not None:
                return taken
        # Their own first: whoever binds and unbinds in a loop then quarantines one port and not all of them.
        for port in tuple(islice(self._freed_of.get(owner, ()), TRIES)):
            if port in allowed and may(port) and (taken := self._take(port, owner)) is not None:
                return taken
        if not self.shares.may_take(owner):
            return None
        return self._draw(owner, allowed, may)

    def _draw(self, owner: str, allowed: range, may: Callable[[int], bool]) -> socket.socket | None:
        for _ in range(TRIES):
            port = self._drawable.draw(allowed, self._chance)
            if port is None:
                break
            if may(port) and (taken := self._take(port, owner)) is not None:
                return taken
            self._drawable.put(port, is_in=False)
            self._aside[port] = self._clock() + ASIDE
        for port in tuple(islice(self._aside, LAST_TRIES)):
            if port in allowed and may(port) and (taken := self._take(port, owner)) is not None:
                return taken
        return None

    def _take(self, port: int, owner: str) -> socket.socket | None:
        whose = self._owner.get(port)
        if whose is None:
            if not self.shares.may_take(owner):
                return None
        elif port not in self._freed or (whose != owner and self._freed[port] > self._clock()):
            return None
        taken = listen(self._host, port)
        if taken is not None:
            self._have(port, owner)
        return taken

    def _have(self, port: int, owner: str) -> None:
        """Count a port for its owner; it is neither free nor quarantined any more."""
        self._let_go(port)
        self._owner[port] = owner
        self.shares.take(owner)
        self._drawable.put(port, is_in=False)
        self._aside.pop(port, None)

    def _let_go(self, port: int) -> None:
        """Count a port for nobody."""
        before = self._owner.pop(port, None)
        if before is None:
            return
        self.shares.give_back(before)
        if self._freed.pop(port, None) is not None:
            mine = self._freed_of[before]
            del mine[port]
            if not mine:
                del self._freed_of[before]

    def _forget_old(self) -> None:
        """Let ports be drawn again whose time is over. Each costs as much as its being put there did."""
        now = self._clock()
        for table in (self._freed, self._aside):
            while table:
                port, until = next(iter(table.items()))
                if until > now:
                    break
                if table is self._freed:
                    self._let_go(port)
                else:
                    del table[port]
                self._drawable.put(port, is_in=True)

    @staticmethod
    def _failed(error: OSError) -> None:
        # Out of files or memory: one lease less, and everybody else goes on.
        logger.warning("no listening socket could be made: %s", error.strerror or error)


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


async def accept_from(sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
    """Serve the connections of a listening socket, which forked children close their copies of."""
    descriptors.own(sock)
    server = await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=ACCEPTS)
    restore_backlog(server, sock)
    return server


def restore_backlog(server: asyncio.Server, sock: socket.socket) -> None:
    """Let the kernel keep as many as before for a server that was made with a backlog of :data:`ACCEPTS`: asyncio
    means by that both what the kernel keeps and what it accepts in a turn."""
    if server.is_serving():
        sock.listen(BACKLOG)


def backlog_of(sock: socket.socket) -> int:
    """How many connections wait in a listening socket's queue; 0 where the system does not say."""
    if sys.platform != "linux" or sock.fileno() == -1:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
    return int.from_bytes(info[_UNACKED:], sys.byteorder)
