"""Connections to the origin, the local service behind a tunnel: TCP, TLS or a Unix socket.

The edge names a lease, never an address: the client alone decides what is dialled.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from quictunnel.origin.dial_failure import (
    BUSY,
    NO_ANSWER,
    NO_IPV6,
    NO_NAME,
    REFUSED,
    DialFailure,
    dial_failure,
    tls_failure,
)
from quictunnel.origin.target import LOOPBACKS, Target
from quictunnel.origin.tls import EarlyBytes, OriginTlsError, TlsDialer
from quictunnel.shared import unpatched
from quictunnel.shared.address import is_name
from quictunnel.shared.event_loop import in_thread
from quictunnel.transport import descriptors
from quictunnel.transport.splice import Splice, TcpSplice, TlsSplice

if TYPE_CHECKING:
    from quictunnel.transport.stream import Stream

PROBE_TIMEOUT: Final = 5.0
"""Seconds for a listener to accept a probe. A visitor's connection has no such limit: it waits until the visitor
leaves or the kernel gives up (two minutes on Linux)."""
NEXT_ADDRESS_AFTER: Final = 5.0
"""Seconds after which the next address of a name is dialled: one of them may not answer at all."""
MAX_ADDRESSES: Final = 8
"""Addresses of one name that are dialled for a visitor."""


class OriginDialError(Exception):
    """Error of a dial for which no address accepted the connection. ``failure`` has the reason."""

    def __init__(self, failure: DialFailure, target: Target) -> None:
        super().__init__(failure.event_for(target))
        self.failure = failure


async def is_listening(target: Target) -> bool:
    """Return True if a target accepts a connection. Cancellation leaves no socket open."""
    try:
        sock = await _connected_socket(target)
    except OSError:  # TimeoutError is one of them
        return False
    sock.close()
    return True


async def open_streams(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a target, with TLS where it has it, for requests of this program. Raises OSError."""
    sock = await _connected_socket(target)
    try:
        if target.path:
            return await asyncio.open_unix_connection(sock=sock)
        name = None if target.tls is None else target.server_name
        return await asyncio.open_connection(sock=sock, ssl=target.tls, server_hostname=name)
    except BaseException:
        sock.close()
        raise


async def _connected_socket(target: Target) -> socket.socket:
    """Return a connected socket, to the first address that accepts. Raises OSError."""
    origin = Origin(target)
    failure: OSError = ConnectionRefusedError()
    try:
        hosts = await origin.addresses()
    except OriginDialError as error:
        raise OSError(str(error)) from None
    for host in hosts:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                sock = await origin.connect(host)
        except OSError as error:
            failure = error
            continue
        descriptors.clear_close_on_fork(sock)
        return sock
    raise failure


class Origin:
    """Dialer of one target. Tries the address that answered last first."""

    def __init__(self, target: Target | int) -> None:
        self.target = Target(target) if isinstance(target, int) else target
        self.port = self.target.port
        self._hosts = list(LOOPBACKS)
        tls = self.target.tls
        self._tls = None if tls is None else TlsDialer(tls, self.target.server_name)

    async def dial(self, stream: Stream) -> Splice:
        """Dial the origin and splice the connection with ``stream``. Waits as long as the kernel retries.

        Cancellation leaves no socket open.

        Raises:
            OriginDialError: no address accepted the connection.
        """
        failure = REFUSED
        hosts = await self.addresses()
        for number, host in enumerate(hosts, 1):
            seconds = NEXT_ADDRESS_AFTER if number < len(hosts) and self.target.host else None
            try:
                async with asyncio.timeout(seconds):
                    splice = await self._dial_address(host, stream)
            except OriginTlsError as error:
                failure = tls_failure(error)
            except OSError as error:
                if not (host == "::1" and error.errno in NO_IPV6):
                    latest = dial_failure(error)
                    latest = NO_ANSWER if latest is BUSY and self.target.host else latest
                    failure = latest if latest is not REFUSED else failure
            else:
                if self._hosts[0] != host:
                    self._hosts.sort(key=host.__ne__)
                return splice
        raise OriginDialError(failure, self.target)

    async def addresses(self) -> tuple[str, ...]:
        """Return the numeric hosts to dial, the best first. Raises OriginDialError for a name without any."""
        host = self.target.host
        if not host:
            return ("",) if self.target.path else tuple(self._hosts)
        if not is_name(host):
            return (host,)
        # At each dial, because a container that was started again has another address.
        query = partial(unpatched.getaddrinfo, host, self.port, kind=socket.SOCK_STREAM)
        try:
            found = await in_thread(query)
        except OSError:
            raise OriginDialError(NO_NAME, self.target) from None
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))[:MAX_ADDRESSES]

    def splice(self, stream: Stream) -> Splice:
        """Return the protocol object that joins a connection with ``stream``."""
        kind = TcpSplice if self._tls is None else TlsSplice
        return kind(lambda splice: splice.join(stream))

    async def _dial_address(self, host: str, stream: Stream) -> Splice:
        sock = await self.connect(host)
        tls, loop = self._tls, asyncio.get_running_loop()

        def first_protocol() -> asyncio.BaseProtocol:
            return self.splice(stream) if tls is None else EarlyBytes()

        create = loop.create_unix_connection if self.target.path else loop.create_connection
        try:
            raw, protocol = await create(first_protocol, sock=sock)
        except BaseException:
            descriptors.clear_close_on_fork(sock)
            sock.close()
            raise
        if tls is not None and isinstance(protocol, EarlyBytes):
            return await tls.handshake(raw, protocol, lambda: self.splice(stream))
        assert isinstance(protocol, Splice)
        return protocol

    async def connect(self, host: str) -> socket.socket:
        """Return a connected socket, registered to be closed after a fork. Raises OSError.

        Args:
            host: one of :meth:`addresses`.
        """
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Created here and registered, because a dial may take minutes and a child may be forked meanwhile.
        sock = unpatched.new_socket(socket.AF_UNIX if self.target.path else family, socket.SOCK_STREAM)
        descriptors.set_close_on_fork(sock)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, self.target.path or (host, self.port))
        except BaseException:
            descriptors.clear_close_on_fork(sock)
            sock.close()
            raise
        return sock
