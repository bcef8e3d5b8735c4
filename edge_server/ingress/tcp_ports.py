"""Public TCP ports: one listening socket for each tunnel that asked for one."""

from __future__ import annotations

import errno
import logging
import random
import socket
import sys
from itertools import islice
from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.shared.listening import open_listener
from quictunnel.transport.tcp import start_server

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger = logging.getLogger(__name__)

QUARANTINE_TIME: Final = 600.0
"""Seconds for which a freed port is only given to its previous owner, so that nobody receives the visitors of a
client whose network failed for a moment."""
MAX_DRAWS: Final = 200
"""Ports to draw for one request. Unavailable ones are put aside: the next request does not draw them."""
UNAVAILABLE_TIME: Final = 60.0
"""Seconds for which a port that another program uses, or that somebody else owns, is not drawn again."""
MAX_UNAVAILABLE_TRIES: Final = 20
"""Ports that were put aside to try again when no other is left: the program that used them may have ended."""
BACKLOG: Final = 1024
"""Connections that the kernel queues while the edge is busy: half a second of what one core accepts. A client that
finds the queue full retries after a second."""
ACCEPTS_PER_ITERATION: Final = 8
"""Backlog for asyncio, which accepts one connection more than that in each iteration of the loop.
Two iterations pass before the first of them can be refused; until then they take descriptors that are kept free.
uvloop accepts one connection."""

TCPI_UNACKED_OFFSET: Final = 24
"""Offset of ``tcpi_unacked`` in Linux's ``struct tcp_info``: for a listening socket, the length of its queue."""


class _NumberSet:
    """A set of numbers of a range, with random draws from any part of it in logarithmic time (a Fenwick tree)."""

    def __init__(self, numbers: range) -> None:
        self._start = numbers.start
        self._size = len(numbers)
        self._members = bytearray(b"\x01" * self._size)
        self._tree = [0] + [number & -number for number in range(1, self._size + 1)]
        self._top = 1 << self._size.bit_length() >> 1

    def set_member(self, number: int, *, is_member: bool) -> None:
        """Add or remove a number."""
        at = number - self._start
        if self._members[at] == is_member:
            return
        self._members[at] = is_member
        at += 1
        while at <= self._size:
            self._tree[at] += 1 if is_member else -1
            at += at & -at

    def draw(self, part: range, generator: random.Random) -> int | None:
        """Return a random number of a part; None if it has none."""
        before = self._count_below(part.start - self._start)
        count = self._count_below(part.stop - self._start) - before
        if count <= 0:
            return None
        rank, at, step = before + generator.randrange(count), 0, self._top
        while step:
            if at + step <= self._size and self._tree[at + step] <= rank:
                at += step
                rank -= self._tree[at]
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
    """Allocates listening sockets from the edge's range. No operation gets slower when few ports are left."""

    def __init__(
        self, host: str, ports: range, clock: Callable[[], float], *, max_ports: int | None = None
    ) -> None:
        """Start with all ports free.

        Args:
            host: address to listen on.
            ports: the range.
            clock: monotonic seconds.
            max_ports: ports for which there are descriptors; None: all.
        """
        self._host = host
        self.range = ports
        """The edge's TCP ports."""
        self._clock = clock
        self.shares = Shares(len(ports) if max_ports is None else min(len(ports), max_ports))
        """Ports that are owned, or quarantined for their owner."""
        self._owner: dict[int, str] = {}
        """Owner by port."""
        self._quarantined: dict[int, float] = {}
        """End of quarantine by port, in order."""
        self._quarantined_of: dict[str, dict[int, None]] = {}
        """Quarantined ports by owner."""
        self._unavailable: dict[int, float] = {}
        """Unavailable ports, each with the time until which it is not drawn, in order."""
        self._drawable = _NumberSet(ports)
        self._random = random.SystemRandom()

    def bind(
        self,
        owner: str,
        preferred: int = 0,
        allowed: range | None = None,
        is_free: Callable[[int], bool] = lambda _: True,
    ) -> socket.socket | None:
        """Return a listening socket; None if no port is free, the owner has its share
        (:mod:`edge_server.resources.shares`), or the system refuses.

        Args:
            owner: token key.
            preferred: preferred port, taken if it is free or was the owner's; 0: a random one.
            allowed: ports that the owner may have; None: all.
            is_free: returns True for a port that the owner may have now.
        """
        try:
            return self._find(owner, preferred, self.range if allowed is None else allowed, is_free)
        except OSError as error:
            return self._log_failure(error)

    def bind_exact(self, port: int, owner: str) -> socket.socket | None:
        """Return a listening socket on exactly this port; None if it cannot be had."""
        self._expire()
        try:
            return self._take(port, owner) if port in self.range else None
        except OSError as error:
            return self._log_failure(error)

    def adopt(self, port: int, owner: str) -> None:
        """Count a port whose socket was inherited from another edge."""
        if port in self.range:
            self._assign(port, owner)

    def quarantine(self, port: int, owner: str) -> None:
        """Keep the port of a tunnel that has ended for its owner, for :data:`QUARANTINE_TIME` seconds."""
        if port not in self.range:
            return
        self._assign(port, owner)
        self._quarantined[port] = self._clock() + QUARANTINE_TIME
        self._quarantined_of.setdefault(owner, {})[port] = None

    def _find(
        self, owner: str, preferred: int, allowed: range, is_free: Callable[[int], bool]
    ) -> socket.socket | None:
        self._expire()
        if preferred in self.range and preferred in allowed and is_free(preferred):
            sock = self._take(preferred, owner)
            if sock is not None:
                return sock
        # Own quarantined ports first: an owner that binds and unbinds in a loop then uses up one port, not all.
        for port in tuple(islice(self._quarantined_of.get(owner, ()), MAX_DRAWS)):
            if port in allowed and is_free(port) and (sock := self._take(port, owner)) is not None:
                return sock
        if not self.shares.may_take(owner):
            return None
        return self._draw(owner, allowed, is_free)

    def _draw(self, owner: str, allowed: range, is_free: Callable[[int], bool]) -> socket.socket | None:
        for _ in range(MAX_DRAWS):
            port = self._drawable.draw(allowed, self._random)
            if port is None:
                break
            if is_free(port) and (sock := self._take(port, owner)) is not None:
                return sock
            self._drawable.set_member(port, is_member=False)
            self._unavailable[port] = self._clock() + UNAVAILABLE_TIME
        for port in tuple(islice(self._unavailable, MAX_UNAVAILABLE_TRIES)):
            if port in allowed and is_free(port) and (sock := self._take(port, owner)) is not None:
                return sock
        return None

    def _take(self, port: int, owner: str) -> socket.socket | None:
        current = self._owner.get(port)
        if current is None:
            if not self.shares.may_take(owner):
                return None
        elif port not in self._quarantined or (current != owner and self._quarantined[port] > self._clock()):
            return None
        sock = try_listen(self._host, port)
        if sock is not None:
            self._assign(port, owner)
        return sock

    def _assign(self, port: int, owner: str) -> None:
        """Count a port for its owner; it is neither free nor quarantined any more."""
        self._unassign(port)
        self._owner[port] = owner
        self.shares.take(owner)
        self._drawable.set_member(port, is_member=False)
        self._unavailable.pop(port, None)

    def _unassign(self, port: int) -> None:
        """Remove a port from its owner."""
        before = self._owner.pop(port, None)
        if before is None:
            return
        self.shares.release(before)
        if self._quarantined.pop(port, None) is not None:
            quarantined = self._quarantined_of[before]
            del quarantined[port]
            if not quarantined:
                del self._quarantined_of[before]

    def _expire(self) -> None:
        """Return ports whose time is over to the drawable ones. Amortised over the calls that put them there."""
        now = self._clock()
        for table in (self._quarantined, self._unavailable):
            while table:
                port, until = next(iter(table.items()))
                if until > now:
                    break
                if table is self._quarantined:
                    self._unassign(port)
                else:
                    del table[port]
                self._drawable.set_member(port, is_member=True)

    @staticmethod
    def _log_failure(error: OSError) -> None:
        # Out of files or memory: this tunnel fails, and all others continue.
        logger.warning("a listening socket could not be created: %s", error.strerror or error)


def try_listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket | None:
    """Return a listening socket (``open_listener``); None if the port is in use or forbidden.

    Raises:
        OSError: for anything else.
    """
    try:
        return open_listener(host, port, backlog=BACKLOG, is_shared=is_shared)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise


async def accept_from(sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
    """Serve the connections of a listening socket; forked children close their copies of it."""
    server = await start_server(sock, factory, backlog=ACCEPTS_PER_ITERATION)
    restore_backlog(server, sock)
    return server


def restore_backlog(server: asyncio.Server, sock: socket.socket) -> None:
    """Restore the kernel's queue length of a server with a backlog of :data:`ACCEPTS_PER_ITERATION`.

    asyncio uses that number both for the queue and for the connections accepted in an iteration.
    """
    if server.is_serving():
        sock.listen(BACKLOG)


def accept_queue_length(sock: socket.socket) -> int:
    """Return the number of connections in a listening socket's queue; 0 where the system does not report it."""
    if sys.platform != "linux" or sock.fileno() == -1:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_UNACKED_OFFSET + 4)
    return int.from_bytes(info[TCPI_UNACKED_OFFSET:], sys.byteorder)
