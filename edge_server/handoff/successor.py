"""The successor's side of a hot restart: it requests the sockets and names of the running edge."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_server.handoff.protocol import (
    IS_SUPPORTED,
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
    socket_path,
)
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.handoff.protocol import RecordWithSocket


@dataclass(slots=True)
class InheritedSockets:
    """The sockets that the predecessor has offered."""

    channel: HandoffChannel
    domain: str
    cid_prefix: int
    https: socket.socket
    udp: socket.socket
    pipe: socket.socket
    acme_http: socket.socket | None = None

    async def accept(self) -> list[RecordWithSocket]:
        """Confirm to the predecessor that this edge is ready, and receive its tunnels with the sockets of their
        ports.

        Afterwards only this edge uses the sockets. Raises HandoffError.
        """
        names: list[RecordWithSocket] = []
        try:
            await self.channel.send(HandoffReady())
            while not await self._receive_names(names):
                pass
        except BaseException:
            close_all(sock for _, sock in names if sock is not None)
            raise
        self.channel.close()
        return names

    async def _receive_names(self, names: list[RecordWithSocket]) -> bool:
        """Add the tunnels of one message to ``names``. Return True after the last one. Raises HandoffError."""
        message, sockets = await self.channel.receive()
        if not isinstance(message, HandoffNames) or len(sockets) != message.port_count:
            close_all(sockets)
            raise HandoffError("it did not send its names")
        with_sockets = iter(sockets)
        names += [(entry, next(with_sockets) if entry.port else None) for entry in message.entries]
        return message.last

    def check(self, domain: str, https_port: int, quic_port: int) -> None:
        """Check that the options match the predecessor's; port 0 matches any. Raises ConfigError."""
        https, udp = self.https.getsockname()[1], self.udp.getsockname()[1]
        for option, what, is_same in (
            ("--domain", self.domain, domain == self.domain),
            ("--https", f"port {https}", https_port in (0, https)),
            ("--quic", f"port {udp}", quic_port in (0, udp)),
        ):
            if not is_same:
                raise ConfigError(f"--takeover: the running edge has {what}, which {option} contradicts.")

    def close(self) -> None:
        """Close the channel and the sockets that are not taken out yet."""
        self.channel.close()
        close_all([sock for sock in (self.https, self.udp, self.pipe, self.acme_http) if sock is not None])


async def request_handoff(directory: Path) -> InheritedSockets | None:
    """Request the handoff from the running edge of this state directory.

    Returns its sockets, or None if no edge runs. Raises ConfigError if the handoff fails.
    """
    if not IS_SUPPORTED:
        raise ConfigError("--takeover needs Linux.")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with socket_path(directory) as path:
            sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise ConfigError(f"--takeover: {directory / SOCKET} cannot be used ({error.strerror}).") from None
    channel = HandoffChannel(sock)
    try:
        await channel.send(HandoffRequest(VERSION, takes_lock=True))
        message, sockets = await channel.receive()
        if isinstance(message, HandoffOffer) and len(sockets) == 3 + message.has_acme_http:
            return InheritedSockets(channel, message.domain, message.cid_prefix, *sockets)
        close_all(sockets)
        if isinstance(message, HandoffRefusal):
            raise HandoffError(message.reason)
        raise HandoffError("it did not offer its sockets")
    except BaseException as error:
        channel.close()
        if isinstance(error, HandoffError):
            raise ConfigError(f"--takeover: the running edge does not hand over: {error}.") from None
        raise
