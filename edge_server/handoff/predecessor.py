"""The predecessor's side of a hot restart: it accepts a successor, and hands its sockets and names over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.handoff.protocol import (
    PEERCRED,
    SOCKET,
    VERSION,
    HandoffChannel,
    HandoffError,
    HandoffNames,
    HandoffOffer,
    HandoffReady,
    HandoffRefusal,
    HandoffRequest,
    close_all,
    in_parts,
    socket_path,
)
from edge_server.handoff.udp_forwarding import PredecessorUdpSocket, SuccessorUdpSocket
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.shared.supervision import Supervisor
from quictunnel.transport import descriptors
from quictunnel.transport.udp import UdpSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from edge_server.handoff.protocol import HasDescriptor, RecordWithSocket
    from edge_server.storage.edge_lock import EdgeLock
    from edge_server.tunnels.registry import Registry
    from quictunnel.transport.endpoint import Endpoint

logger = logging.getLogger(__name__)

BACKLOG: Final = 4


class HandoffListener:
    """The Unix socket to which a successor connects."""

    def __init__(self, directory: Path, hand_over: Callable[[HandoffChannel], Awaitable[None]]) -> None:
        """Listen in the state directory.

        Args:
            directory: the state directory.
            hand_over: called after an HandoffRequest, for one successor at a time; may raise HandoffError.

        Raises OSError if the socket cannot be created.
        """
        self._directory = directory
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._tasks = Supervisor()
        self._handoff_lock = asyncio.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inode = 0
        try:
            # Bound under a temporary name and renamed, because the path may exist: of a predecessor or a crashed
            # edge.
            temporary = f".{SOCKET}-{os.getpid()}"
            path = directory / temporary
            path.unlink(missing_ok=True)
            with socket_path(directory, temporary) as address:
                self._listener.bind(address)
            path.chmod(0o600)
            self._inode = path.stat().st_ino
            path.replace(directory / SOCKET)
            self._listener.listen(BACKLOG)
            self._listener.setblocking(False)
            descriptors.set_close_on_fork(self._listener)
            self._loop.add_reader(self._listener, self._accept)
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        """Stop listening."""
        self._tasks.cancel()
        self._loop.remove_reader(self._listener)
        descriptors.clear_close_on_fork(self._listener)
        self._listener.close()
        path = self._directory / SOCKET
        with contextlib.suppress(OSError):  # nothing may prevent the stop
            if path.stat().st_ino == self._inode:  # unless it is the socket of a successor
                path.unlink()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            logger.debug("a successor disconnected before it was accepted: %s", error.strerror)
            return
        _, user, _ = PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
        if user not in (0, os.geteuid()):
            sock.close()
            return
        self._tasks.start(self._serve(HandoffChannel(sock)), "handing over to a successor")

    async def _serve(self, channel: HandoffChannel) -> None:
        try:
            message, sockets = await channel.receive()
            close_all(sockets)
            if not isinstance(message, HandoffRequest) or message.version != VERSION:
                await channel.send(HandoffRefusal(f"this edge speaks version {VERSION} of the handoff protocol"))
            elif self._handoff_lock.locked():
                await channel.send(HandoffRefusal("another edge is taking over already"))
            else:
                channel.peer_takes_lock = message.takes_lock
                async with self._handoff_lock:
                    await self._hand_over(channel)
        except HandoffError as error:
            logger.warning("an edge that wanted to take over failed: %s", error)
        finally:
            channel.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The handoff of a running edge to its successor. Until the successor is ready nothing changes."""

    domain: str
    cid_prefix: int
    """First byte of this edge's connection IDs."""
    https: socket.socket
    """Listening socket of TLS visitors."""
    udp: UdpSocket
    """UDP socket of the clients, from which the endpoint reads."""
    acme_http: socket.socket | None
    """Listening socket for http-01 validators; None without one."""
    endpoint: Endpoint
    registry: Registry
    lock: EdgeLock
    """Lock of the state directory."""

    async def hand_over(self, channel: HandoffChannel, on_ready: Callable[[], None]) -> None:
        """Hand over to a successor that has sent an HandoffRequest.

        Args:
            channel: with the successor.
            on_ready: called when the successor is ready: stops accepting, and releases what the successor takes
                over.

        Raises:
            HandoffError: the successor failed.
        """
        lock = self.lock if channel.peer_takes_lock else None
        offer = HandoffOffer(
            self.domain, self.cid_prefix, has_acme_http=self.acme_http is not None, has_lock=lock is not None
        )
        with self.udp.duplicate() as udp:
            pipe = await offer_sockets(
                channel, offer, [self.https, udp], [sent for sent in (self.acme_http, lock) if sent is not None]
            )
        self._forward_from(pipe)
        on_ready()
        self.lock.release()
        await send_names(channel, self._held_names())

    @property
    def forwards(self) -> bool:
        """Return True while this edge forwards datagrams to its own predecessor, which still has visitors."""
        source = self.endpoint.socket
        return isinstance(source, SuccessorUdpSocket) and source.has_predecessor

    def _forward_from(self, pipe: socket.socket) -> None:
        """Read the datagrams that the successor forwards, instead of the UDP socket."""
        sending = UdpSocket.adopt(self.udp.duplicate())
        source: PredecessorUdpSocket | SuccessorUdpSocket = PredecessorUdpSocket(sending, pipe)
        before = self.endpoint.socket
        if isinstance(before, SuccessorUdpSocket) and self.forwards:
            source = before.with_source(source)
        self.endpoint.rebind(source)

    def _held_names(self) -> list[RecordWithSocket]:
        """Return all tunnels with duplicates of their listening sockets, and stop listening on their ports."""
        names = []
        for tunnel in self.registry:
            sock = tunnel.duplicate_socket()
            port = tunnel.tcp_port if sock is not None else 0
            names.append((TunnelRecord.of(tunnel, port), sock))
            tunnel.stop_listening()
        return names


async def offer_sockets(
    channel: HandoffChannel,
    offer: HandoffOffer,
    public: Sequence[HasDescriptor],
    optional: Sequence[HasDescriptor],
) -> socket.socket:
    """Offer the sockets to a successor, and wait until it is ready to serve.

    Args:
        channel: with the successor.
        offer: the message.
        public: the sockets for HTTPS and UDP.
        optional: what the offer says is included: the socket for http-01 and the lock.

    Returns this edge's end of the socket pair through which the successor forwards datagrams. Raises HandoffError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            await channel.send(offer, [*public, theirs, *optional])
            message, _ = await channel.receive()
            if not isinstance(message, HandoffReady):
                raise HandoffError("it sent another message than HandoffReady")
        except BaseException:
            ours.close()
            raise
    return ours


async def send_names(channel: HandoffChannel, names: list[RecordWithSocket]) -> None:
    """Send the tunnels and the sockets of their ports to a successor, and close these sockets. Raises
    HandoffError."""
    with contextlib.ExitStack() as stack:
        for _, sock in names:
            if sock is not None:
                stack.enter_context(sock)
        parts = in_parts(names)
        for number, part in enumerate(parts, 1):
            sockets = [sock for _, sock in part if sock is not None]
            await channel.send(HandoffNames([name for name, _ in part], number == len(parts)), sockets)
