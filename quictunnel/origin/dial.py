"""The origin: the local service behind a tunnel, dialled for each visitor on 127.0.0.1 and ::1.

The edge names a lease, never an address: what is dialled is decided here alone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.transport import descriptors, unpatched
from quictunnel.transport.splice import TcpSplice
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.transport.stream import Stream

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Both, because servers that say ``localhost`` may listen on either alone."""
MAX_DIALS: Final = 4
"""Connections to one local port that are begun together. After an outage hundreds of visitors come at once. Where
more ask than the service lets wait (five, for Python's own servers), its system answers with SYN cookies, and has
no trace of a connection for whose last packet there was no room: only this side knows of it."""
DIAL_TURN: Final = 0.23
"""Seconds after which the next may begin although the service has not answered: its queue is full, and the system
asks again after whole seconds, of which this is no divisor."""
PROBE_TIMEOUT: Final = 5.0
"""Seconds in which a listener that is asked for by name, and not for a visitor, has to take a connection. A
visitor waits as long as TCP does: while it is there, and until the kernel gives up (two minutes on Linux)."""


class DialFailure(NamedTuple):
    """Why an origin was not reached, for those who hear of it."""

    code: StreamCode
    """For the edge."""
    status: str
    """For a visitor who speaks HTTP."""
    words: str
    """For a visitor, after the port."""
    event: str
    """For the user; ``{port}`` is the origin's."""


REFUSED: Final = DialFailure(
    StreamCode.REFUSED,
    "502 Bad Gateway",
    "nobody listens on port {port} of the machine behind this tunnel",
    "Nobody listens on port {port}; visitors are refused.",
)
BUSY: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "504 Gateway Timeout",
    "the service on port {port} of the machine behind this tunnel takes no connections now",
    "Port {port} takes no connections: its queue has been full for minutes (raise the backlog of the server, "
    "or the number of its workers).",
)
NO_DESCRIPTORS: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the program behind this tunnel has no room for another visitor now",
    "No file descriptors are left for a connection to port {port} (see ulimit -n); visitors are refused.",
)
_FORBIDDEN: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "502 Bad Gateway",
    "the program behind this tunnel may not connect to port {port}",
    "This program may not connect to port {port} (a firewall or a security policy); visitors are refused.",
)
_NO_ROUTE: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "502 Bad Gateway",
    "the machine behind this tunnel has no way to port {port}",
    "There is no route to port {port} of this machine: is its loopback interface up? Visitors are refused.",
)
_NO_LOCAL_PORTS: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the machine behind this tunnel has no room for another visitor now",
    "No local ports are left for a connection to port {port} (see net.ipv4.ip_local_port_range); visitors are "
    "refused.",
)
_NO_MEMORY: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "503 Service Unavailable",
    "the machine behind this tunnel has no room for another visitor now",
    "The system has no memory for a connection to port {port}; visitors are refused.",
)
_BY_ERRNO: Final = {
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: BUSY,
    errno.EMFILE: NO_DESCRIPTORS,
    errno.ENFILE: NO_DESCRIPTORS._replace(
        event="The system has no file descriptors left for a connection to port {port}; visitors are refused."
    ),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENETUNREACH: _NO_ROUTE,
    errno.EHOSTUNREACH: _NO_ROUTE,
    errno.ENETDOWN: _NO_ROUTE,
    errno.EADDRNOTAVAIL: _NO_LOCAL_PORTS,
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOBUFS: _NO_MEMORY,
}
_NO_IPV6: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH})
"""Errors of a machine without IPv6 for ``::1``, which are no trouble."""


def trouble_of(error: OSError) -> DialFailure:
    """Return the words for a failed connection."""
    known = _BY_ERRNO.get(error.errno or 0)
    if known is not None:
        return known
    return DialFailure(
        StreamCode.UNREACHABLE,
        "502 Bad Gateway",
        "port {port} of the machine behind this tunnel cannot be reached",
        "A connection to port {port} failed ("
        + (error.strerror or str(error)).replace("{", "{{").replace("}", "}}")
        + "); visitors are refused.",
    )


class OriginRefusedError(Exception):
    """Nobody took the connection; ``trouble`` says why."""

    def __init__(self, trouble: DialFailure) -> None:
        super().__init__(trouble.event)
        self.trouble = trouble


async def is_listening(port: int) -> bool:
    """Whether somebody takes connections there, found out by one. When cancelled, nothing stays open."""
    for host in LOOPBACKS:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
        except OSError:  # a time-out is one, too
            continue
        writer.close()
        return True
    return False


class Origin:
    """One local port. Remembers which of the loopback addresses answered last and asks it first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._hosts = list(LOOPBACKS)
        self._dials = asyncio.Semaphore(MAX_DIALS)

    async def join(self, stream: Stream) -> TcpSplice:
        """Dial and splice with ``stream``. Waits as long as the system does. Raises OriginRefusedError. When
        cancelled, nothing stays open."""
        found = REFUSED
        for host in tuple(self._hosts):
            try:
                splice = await self._dial(host, stream)
            except OSError as error:
                if not (host == "::1" and error.errno in _NO_IPV6):
                    trouble = trouble_of(error)
                    found = trouble if trouble is not REFUSED else found
            else:
                if self._hosts[0] != host:
                    self._hosts.sort(key=host.__ne__)
                return splice
        raise OriginRefusedError(found)

    async def _connect(self, sock: socket.socket, host: str) -> None:
        """Connect when it is this one's turn."""
        loop = asyncio.get_running_loop()
        await self._dials.acquire()
        is_over = False

        def end_turn() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._dials.release()

        timer = loop.call_later(DIAL_TURN, end_turn)
        try:
            await loop.sock_connect(sock, (host, self.port))
        finally:
            timer.cancel()
            end_turn()

    def splice(self, stream: Stream) -> TcpSplice:
        """What the connection for ``stream`` is to be joined by."""
        return TcpSplice(lambda splice: splice.join(stream))

    async def _dial(self, host: str, stream: Stream) -> TcpSplice:
        loop = asyncio.get_running_loop()
        # A socket of our own, because a dial may take minutes and a child may be forked meanwhile.
        sock = unpatched.new_socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        descriptors.own(sock)
        try:
            sock.setblocking(False)
            await self._connect(sock, host)
            _, splice = await loop.create_connection(lambda: self.splice(stream), sock=sock)
        except BaseException:
            descriptors.disown(sock)
            sock.close()
            raise
        return splice
