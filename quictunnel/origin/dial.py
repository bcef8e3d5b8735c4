"""Connections to the origin, the local service behind a tunnel, on 127.0.0.1 and ::1.

The edge names a lease, never an address: the client alone decides which port is dialled.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.shared import unpatched
from quictunnel.transport import descriptors
from quictunnel.transport.splice import TcpSplice
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.transport.stream import Stream

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Both addresses, because a server on ``localhost`` may listen on only one of them."""
PROBE_TIMEOUT: Final = 5.0
"""Seconds for a listener to accept a probe. A visitor's connection has no such limit: it waits until the visitor
leaves or the kernel gives up (two minutes on Linux)."""


class DialFailure(NamedTuple):
    """Reason why an origin could not be reached, with its texts for edge, visitor and user."""

    code: StreamCode
    """Code of the stream's reset, for the edge."""
    status: str
    """HTTP status and reason phrase, for the visitor."""
    visitor_text: str
    """Body of the HTTP response, for the visitor; ``{port}`` stands for the origin's port."""
    event: str
    """Text of the client's event, for the user; ``{port}`` stands for the origin's port."""


REFUSED: Final = DialFailure(
    StreamCode.REFUSED,
    "502 Bad Gateway",
    "nobody listens on port {port} of the machine behind this tunnel",
    "Nobody listens on port {port}; visitors are refused.",
)
BUSY: Final = DialFailure(
    StreamCode.UNREACHABLE,
    "504 Gateway Timeout",
    "the service on port {port} of the machine behind this tunnel accepts no connections now",
    "Port {port} accepts no connections: its backlog has been full for minutes (raise the backlog of the server, "
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
    "the machine behind this tunnel has no route to port {port}",
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
"""Errors that a dial of ``::1`` has on a machine without IPv6; they are ignored."""


def dial_failure(error: OSError) -> DialFailure:
    """Return the DialFailure for the error of a connection attempt."""
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


class OriginDialError(Exception):
    """Error of a dial for which no loopback address accepted the connection. ``failure`` has the reason."""

    def __init__(self, failure: DialFailure) -> None:
        super().__init__(failure.event)
        self.failure = failure


async def is_listening(port: int) -> bool:
    """Return True if a local port accepts a connection. Cancellation leaves no socket open."""
    for host in LOOPBACKS:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
        except OSError:  # TimeoutError is one of them
            continue
        writer.close()
        return True
    return False


class Origin:
    """Dialer of one local port. Tries the loopback address that answered last first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._hosts = list(LOOPBACKS)

    async def dial(self, stream: Stream) -> TcpSplice:
        """Dial the origin and splice the connection with ``stream``. Waits as long as the kernel retries.

        Cancellation leaves no socket open.

        Raises:
            OriginDialError: no loopback address accepted the connection.
        """
        failure = REFUSED
        for host in tuple(self._hosts):
            try:
                splice = await self._dial_address(host, stream)
            except OSError as error:
                if not (host == "::1" and error.errno in _NO_IPV6):
                    latest = dial_failure(error)
                    failure = latest if latest is not REFUSED else failure
            else:
                if self._hosts[0] != host:
                    self._hosts.sort(key=host.__ne__)
                return splice
        raise OriginDialError(failure)

    def splice(self, stream: Stream) -> TcpSplice:
        """Return the protocol object that joins a connection with ``stream``."""
        return TcpSplice(lambda splice: splice.join(stream))

    async def _dial_address(self, host: str, stream: Stream) -> TcpSplice:
        loop = asyncio.get_running_loop()
        # Created here and registered, because a dial may take minutes and a child may be forked meanwhile.
        sock = unpatched.new_socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        descriptors.set_close_on_fork(sock)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, self.port))
            _, splice = await loop.create_connection(lambda: self.splice(stream), sock=sock)
        except BaseException:
            descriptors.clear_close_on_fork(sock)
            sock.close()
            raise
        return splice
