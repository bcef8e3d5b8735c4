"""The successor's side of a hot restart: it asks the edge that runs for its sockets and names."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_server.handoff.protocol import (
    IS_SUPPORTED,
    SOCKET,
    VERSION,
    Ask,
    HandoffChannel,
    HandoffError,
    HandoffOffer,
    HandoffRefusal,
    Names,
    Ready,
    close_all,
    socket_path,
)
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.handoff.protocol import Held


@dataclass(slots=True)
class InheritedSockets:
    """Sockets that the predecessor has offered."""

    channel: HandoffChannel
    domain: str
    mark: int
    https: socket.socket
    udp: socket.socket
    pipe: socket.socket
    acme_http: socket.socket | None = None

    async def accept(self) -> list[Held]:
        """Tell the predecessor that this edge is ready, and return its tunnels with the sockets of their ports.

        From the return on all sockets are this edge's alone. Raises HandoffError.
        """
        names: list[Held] = []
        try:
            await self.channel.send(Ready())
            while not await self._receive_names(names):
                pass
        except BaseException:
            close_all(sock for _, sock in names if sock is not None)
            raise
        self.channel.close()
        return names

    async def _receive_names(self, names: list[Held]) -> bool:
        """Add the tunnels of one message to ``names``. Return True after the last one. Raises HandoffError."""
        message, sockets = await self.channel.receive()
        if not isinstance(message, Names) or len(sockets) != sum(entry.port > 0 for entry in message.entries):
            close_all(sockets)
            raise HandoffError("it did not say what it holds")
        with_sockets = iter(sockets)
        names += [(entry, next(with_sockets) if entry.port else None) for entry in message.entries]
        return message.last

    def check(self, domain: str, https_port: int, quic_port: int) -> None:
        """Check that the options agree with what is inherited; a port of 0 agrees with any. Raises ConfigError."""
        https, udp = self.https.getsockname()[1], self.udp.getsockname()[1]
        for option, what, is_same in (
            ("--domain", self.domain, domain == self.domain),
            ("--https", f"port {https}", https_port in (0, https)),
            ("--quic", f"port {udp}", quic_port in (0, udp)),
        ):
            if not is_same:
                raise ConfigError(f"--takeover: the edge that runs has {what}, which {option} contradicts.")

    def close(self) -> None:
        """Close everything, because this edge does not take over."""
        self.channel.close()
        close_all([sock for sock in (self.https, self.udp, self.pipe, self.acme_http) if sock is not None])


async def request_handoff(directory: Path) -> InheritedSockets | None:
    """Ask the edge of this state directory to hand over.

    Returns its sockets, or None if no edge runs. Raises ConfigError if it does not hand over.
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
        await channel.send(Ask(VERSION))
        message, sockets = await channel.receive()
        if isinstance(message, HandoffOffer) and len(sockets) == 3 + message.has_acme_http:
            return InheritedSockets(channel, message.domain, message.mark, *sockets)
        close_all(sockets)
        if isinstance(message, HandoffRefusal):
            raise HandoffError(message.reason)
        raise HandoffError("it did not say what there is")
    except BaseException as error:
        channel.close()
        if isinstance(error, HandoffError):
            raise ConfigError(f"--takeover: the edge that runs does not hand over: {error}.") from None
        raise
