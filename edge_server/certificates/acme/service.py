"""ACME in the edge: certificate management and the http-01 listener, started and stopped together."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edge_server.certificates.acme.certificate_manager import CertificateManager
from edge_server.certificates.acme.http01 import Http01Responder
from edge_server.certificates.acme.quota_file import QuotaFile
from edge_server.certificates.acme.store import CertificateFiles, folder_name
from edge_server.certificates.acme.worker import OrderWorker
from edge_server.ingress.tcp_ports import BACKLOG, try_listen
from quictunnel.errors import ConfigError
from quictunnel.transport import descriptors
from quictunnel.transport.tcp import start_server

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from edge_server.certificates.acme.certificate_manager import RenewalPolicy
    from edge_server.certificates.acme.scheduler import CertificateStatus
    from edge_server.certificates.acme.settings import AcmeSettings
    from edge_server.certificates.context_store import ContextStore
    from edge_server.storage.steady_clock import Clock
    from quictunnel.shared.supervision import Supervisor


class AcmeService:
    """All of ACME. Call :meth:`open`, then :meth:`start`, :meth:`release` on a hot restart, and :meth:`close`."""

    def __init__(
        self,
        settings: AcmeSettings,
        state_dir: Path,
        contexts: ContextStore,
        policy: RenewalPolicy,
        *,
        clock: Clock,
        https_port: int,
    ) -> None:
        """Open nothing yet.

        Args:
            settings: of ACME.
            state_dir: of the edge.
            contexts: takes the certificates that were issued.
            policy: the names that need a certificate.
            clock: of the edge.
            https_port: of the redirects.
        """
        self._settings = settings
        directory = state_dir / "acme" / folder_name(settings.directory)
        files, quota_file = CertificateFiles(directory / "certificates"), QuotaFile(directory / "quota.json")
        worker = OrderWorker(settings, directory, files, quota_file)
        self.challenges = worker.challenges
        """Challenge responses for validations at the TLS port."""
        self.manager = CertificateManager(
            policy,
            settings.timings,
            contexts,
            worker,
            certificate_files=files,
            quota_file=quota_file,
            now=clock.now,
            is_settled=lambda: clock.is_settled,
        )
        clock.add_listener(self.manager.adjust_clock)
        self._responder = Http01Responder(self.challenges.http, https_port)
        self.listening: socket.socket | None = None
        """Socket of the HTTP listener, if there is one."""
        self._http = contextlib.ExitStack()
        """Closes the HTTP listener."""

    @property
    def statuses(self) -> list[CertificateStatus]:
        """Status of each certificate, sorted by name."""
        return self.manager.statuses

    async def open(self, listening: socket.socket | None = None) -> None:
        """Use the stored certificates and bind the HTTP port, before visitors arrive. Raises ConfigError and
        AcmeError.

        ``listening``: an inherited socket for that port; it belongs to this object from now on.
        """
        self.listening = listening
        if self._settings.http is not None and listening is None:
            self.listening = _listen(self._settings.http)
        if self.listening is not None:
            self._http.callback(self.listening.close)
        await self.manager.load()

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Accept validations and start to order, once the edge's own listeners are open."""
        if self.listening is not None:
            server = await start_server(self.listening, self._responder, backlog=BACKLOG)
            self._http.callback(server.close)
            self._http.callback(descriptors.clear_close_on_fork, self.listening)
        await self.manager.start(supervisor)

    def release(self) -> None:
        """Stop orders and the listener, because a successor takes over."""
        self.manager.stop_orders()
        self._http.close()
        self._responder.abort()

    async def close(self) -> None:
        """Stop; orders in progress have a moment to clean up."""
        self.release()
        await self.manager.close()


def _listen(address: tuple[str, int]) -> socket.socket:
    """Return a listening socket that an edge and its successor can share. Raises ConfigError."""
    host, port = address
    try:
        sock = try_listen(host, port, is_shared=True)
    except OSError as error:
        raise ConfigError(f"--acme-http {host}:{port} cannot be used: {error.strerror or error}.") from None
    if sock is None:
        raise ConfigError(
            f"--acme-http: port {port} of {host} cannot be used (taken, or not allowed to you); choose another "
            "that the world reaches as port 80."
        )
    return sock
