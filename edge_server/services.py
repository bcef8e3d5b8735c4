"""The parts of one edge, put together."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from edge_server.auth.bandwidth import BandwidthLimiter
from edge_server.auth.request_limit import RequestLimiter, fresh_name_budget, request_budget
from edge_server.certificates.policy import CertificatePolicy
from edge_server.clients.session import SessionContext
from edge_server.handoff.snapshot import LastHeld
from edge_server.resources.memory_budget import MemoryBudget
from edge_server.storage.steady_clock import Clock
from edge_server.tunnels.bind_context import BindContext
from edge_server.tunnels.domain_check import DomainCheck
from edge_server.tunnels.names import NameDirectory
from edge_server.tunnels.router import Router
from quictunnel.errors import ConfigError
from quictunnel.shared.supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.auth.failed_attempts import FailedAttempts
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.certificates.acme.service import AcmeService
    from edge_server.certificates.context_store import ContextStore
    from edge_server.clients.session import ClientSession
    from edge_server.clients.session_table import SessionTable
    from edge_server.ingress.admission import Admission
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tickets import TicketSealer
    from edge_server.tunnels.visitor_log import VisitorLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EdgeServices:
    """All parts of one edge; only its composition root knows them all."""

    acme: AcmeService | None = None
    """Who gets certificates, if anybody does."""
    admission: Admission
    attempts: FailedAttempts
    certificates: ContextStore
    claims: NameOwnership
    clock: Clock = field(default_factory=Clock)
    domain: str
    domains: DomainCheck = field(default_factory=DomainCheck)
    expected: PendingTunnels
    https_port: int
    ledger: VisitorLog
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    ports: TcpPorts
    registry: Registry
    fresh_names: RequestLimiter = field(default_factory=fresh_name_budget)
    requests: RequestLimiter = field(default_factory=request_budget)
    sealer: TicketSealer
    sessions: SessionTable[ClientSession]
    shaping: BandwidthLimiter = field(default_factory=BandwidthLimiter)
    supervisor: Supervisor = field(default_factory=Supervisor)
    """Of everything that runs in the background."""
    tcp_host: str
    tokens: TokenRegistry

    @cached_property
    def names(self) -> NameDirectory:
        """Return the directory of public names."""
        return NameDirectory(self.domain, self.registry, self.claims, self.tokens)

    @cached_property
    def certificate_policy(self) -> CertificatePolicy:
        """Return what decides about certificates for visitors."""
        return CertificatePolicy(self.certificates, self.acme)

    @cached_property
    def session_context(self) -> SessionContext:
        """Return the part of this that each client's session needs."""
        return SessionContext(
            attempts=self.attempts,
            binding=self.bind_context,
            claims=self.claims,
            domains=self.domains,
            memory=self.memory,
            requests=self.requests,
            sessions=self.sessions,
            supervisor=self.supervisor,
            tokens=self.tokens,
        )

    @cached_property
    def bind_context(self) -> BindContext:
        """Return the part of this that the bindings of each client need."""
        return BindContext(
            admission=self.admission,
            certificates=self.certificate_policy,
            claims=self.claims,
            fresh_names=self.fresh_names,
            https_port=self.https_port,
            ledger=self.ledger,
            names=self.names,
            pending=self.expected,
            ports=self.ports,
            registry=self.registry,
            sealer=self.sealer,
            shaping=self.shaping,
            supervisor=self.supervisor,
            tcp_host=self.tcp_host,
            tokens=self.tokens,
        )

    def make_router(self) -> Router:
        """Return a router of TLS visitors."""
        return Router(self.names, self.certificate_policy, self.admission.arrivals, self.https_port)

    def make_snapshot(self, directory: Path, key: bytes, now: Callable[[], float] = time.time) -> LastHeld:
        """Return the keeper of the snapshot of held names. ``key``: the key of the tickets."""
        return LastHeld(
            directory,
            key,
            self.domain,
            registry=self.registry,
            pending=self.expected,
            claims=self.claims,
            tokens=self.tokens,
            ports=self.ports,
            supervisor=self.supervisor,
            now=now,
        )

    async def close(self) -> None:
        """Write what is not written yet."""
        if self.acme is not None:
            await self.acme.close()
        self.tokens.close()
        try:
            await asyncio.to_thread(self.claims.close)
        except ConfigError as error:
            logger.error("%s The claims of the last moment are lost.", error)
