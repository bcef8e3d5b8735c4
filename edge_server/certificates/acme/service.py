"""All of ACME as the edge has it: the keeper of certificates and the HTTP door, opened and closed together."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from edge_server.certificates.acme.http01 import Http01Responder
from edge_server.certificates.acme.renewal import CertificateManager
from edge_server.ingress.tcp_ports import BACKLOG
from quictunnel.errors import ConfigError
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.certificates.acme.challenges import ChallengeStore
    from edge_server.certificates.acme.renewal import CertificateStatus, RenewalPolicy
    from edge_server.certificates.acme.settings import AcmeSettings
    from edge_server.certificates.context_store import ContextStore
    from edge_server.storage.steady_clock import Clock
    from quictunnel.shared.supervision import Supervisor


class AcmeService:
    """See the module: :meth:`open`, :meth:`start`, :meth:`leave` when a successor comes, :meth:`close`."""

    def __init__(
        self,
        settings: AcmeSettings,
        state_dir: Path,
        certificates: ContextStore,
        wants: RenewalPolicy,
        *,
        clock: Clock,
        https_port: int,
    ) -> None:
        self._settings = settings
        self.keeper = CertificateManager(
            settings, state_dir, certificates, wants, now=clock.now, is_settled=lambda: clock.is_settled
        )
        clock.follow(self.keeper.moved)
        self._door = Http01Responder(self.keeper.answers.http, https_port)
        self.listening: socket.socket | None = None
        """The HTTP door's, if there is one."""
        self._server: asyncio.Server | None = None

    @property
    def answers(self) -> ChallengeStore:
        """What validators at the TLS port are met with."""
        return self.keeper.answers

    @property
    def standings(self) -> list[CertificateStatus]:
        """How it stands with each certificate, by name."""
        return self.keeper.standings

    async def open(self, listening: socket.socket | None = None) -> None:
        """Use what is stored, and take the address of the HTTP door; before visitors come. Raises ConfigError.
        ``listening``: a socket for that door which somebody else opened; it is this office's from here on."""
        self.listening = listening
        if self._settings.http is not None and listening is None:
            self.listening = _listen(self._settings.http)
        await self.keeper.load()

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Let validators in and begin to order, once the edge's own doors are open."""
        if self.listening is not None:
            descriptors.own(self.listening)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._door, sock=self.listening, backlog=BACKLOG)
        await self.keeper.start(supervisor)

    def leave(self) -> None:
        """Another edge takes over, which orders from now on."""
        self.keeper.leave()
        descriptors.disown(self.listening)
        if self._server is not None:
            self._server.close()
        elif self.listening is not None:
            self.listening.close()
        self._door.abort()

    async def close(self) -> None:
        """Order nothing any more; what is under way has a moment to tidy up."""
        self.leave()
        await self.keeper.close()


def _listen(address: tuple[str, int]) -> socket.socket:
    """A port that an edge and its successor can both listen on."""
    host, port = address
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--acme-http {host}:{port} cannot be used: {error.strerror or error}.") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"--acme-http: port {port} of {host} cannot be used ({error.strerror or error}); choose another that "
            "the world reaches as port 80."
        ) from None
    return sock
