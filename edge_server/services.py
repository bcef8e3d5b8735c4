"""What all clients of one edge share."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_server.auth.bandwidth import BandwidthLimiter
from edge_server.auth.request_limit import RequestLimiter, fresh_name_budget, request_budget
from edge_server.resources.memory_budget import MemoryBudget
from edge_server.storage.steady_clock import Clock
from edge_server.tunnels.domain_check import DomainCheck
from edge_server.tunnels.ownership_store import BANNED
from quictunnel.errors import ConfigError
from quictunnel.shared.supervision import Supervisor
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from edge_server.auth.failed_attempts import FailedAttempts
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.certificates.acme.service import AcmeService
    from edge_server.certificates.context_store import ContextStore, Validity
    from edge_server.clients.session import ClientSession
    from edge_server.clients.session_table import SessionTable
    from edge_server.ingress.admission import Admission
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tickets import TicketSealer
    from edge_server.tunnels.visitor_log import VisitorLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeServices:
    """See the module."""

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

    def host_of(self, name: str) -> str:
        """The host name of a lease's name, which is a label below the edge's domain or a whole domain."""
        return name if "." in name else f"{name}.{self.domain}"

    def name_of(self, host: str) -> str | None:
        """The inverse; None for a host name that no lease can have."""
        label, _, domain = host.partition(".")
        if domain == self.domain:
            return label
        # A label alone is a name below the edge's domain, and no host name.
        return host if domain else None

    def lease_of(self, host: str) -> Lease | None:
        """The lease that a host name leads to, if there is one."""
        name = self.name_of(host)
        return None if name is None else self.registry.find(name)

    def is_anybodys(self, host: str) -> bool:
        """Whether a host name is somebody's, who may be away, and whose token may have it still: it then has a
        certificate that is renewed."""
        name = self.name_of(host)
        if name is None:
            return False
        lease, claimed_by = self.registry.find(name), self.claims.owner(name)
        owner = claimed_by if lease is None else lease.owner
        if owner is None or claimed_by == BANNED:
            return False
        identity = self.tokens.identity(owner)
        if identity is None:
            return False
        # A random name was given, so rights have no word for it.
        return RANDOM_LABEL.fullmatch(name) is not None or self.tokens.objection(identity, name) is None

    def validities(self) -> list[Validity]:
        """When the certificates are good that visitors are met with. Without those of ACME for names that are
        nobody's any more: they end without a successor, and that is as it should be."""
        standings = self.acme.standings if self.acme is not None else []
        left_over = {frozenset(standing.names) for standing in standings if not standing.is_wanted}
        return [each for each in self.certificates.validities() if each.names not in left_over]

    @property
    def held(self) -> frozenset[str]:
        """Names and TCP ports (as claims have them) that somebody holds now, or is waited for."""
        leases = tuple(self.registry)
        return frozenset(lease.name for lease in leases) | {f":{lease.tcp_port}" for lease in leases}

    def certify(self, lease: Lease) -> None:
        """Let visitors of a lease that begins be met with a certificate, as soon as there is one."""
        host, h2 = self.host_of(lease.name), lease.terms.h2
        if self.acme is None or lease.terms.passthrough:
            return
        keeper = self.acme.keeper
        if keeper.is_asked_for(host) or not self.certificates.covers(host, h2=h2):
            keeper.want(host, lease.owner, alone=h2)

    @property
    def has_own_certificate(self) -> bool:
        """Whether one for all names below the domain is meant to be there; else each name has its own."""
        return self.acme is None or self.acme.keeper.is_for_all or self.certificates.has_files

    def can_certify(self, host: str) -> bool:
        """Whether there is, or will be, a certificate for one name alone."""
        return (
            self.acme is not None or self.certificates.is_development or self.certificates.covers(host, h2=False)
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
