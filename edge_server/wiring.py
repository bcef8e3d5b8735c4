"""The parts of one edge, created from its configuration, and the engine of its QUIC port.

Nothing is opened here except the databases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from edge_server.auth.bandwidth import BandwidthLimiter
from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.auth.request_limit import RequestLimiter, new_name_limiter, request_limiter
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.certificates.acme.certificate_manager import RenewalPolicy
from edge_server.certificates.acme.service import AcmeService
from edge_server.certificates.acme.settings import DNS, settings_of
from edge_server.certificates.policy import CertificatePolicy
from edge_server.clients.session import SessionContext
from edge_server.clients.session_table import SessionTable
from edge_server.handoff.snapshot import NameSnapshot
from edge_server.ingress.admission import Admission
from edge_server.ingress.error_pages import ErrorPages
from edge_server.ingress.rate_limit import ConnectionRateLimiter
from edge_server.ingress.tcp_ports import TcpPorts, accept_queue_length
from edge_server.ingress.tls_listener import TlsListener
from edge_server.resources.memory_budget import MemoryBudget
from edge_server.storage.steady_clock import Clock
from edge_server.tunnels.bind_context import BindContext
from edge_server.tunnels.bind_policy import BindPolicy
from edge_server.tunnels.domain_check import DomainCheck, make_domain_check
from edge_server.tunnels.name_directory import NameDirectory
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.ownership_store import OwnershipStore
from edge_server.tunnels.pending import PendingTunnels
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.router import Router
from edge_server.tunnels.tickets import TicketSealer
from edge_server.tunnels.visitor_log import VisitorLog
from quictunnel.errors import ConfigError
from quictunnel.shared.supervision import Supervisor
from quictunnel.transport.engine import TRUSTED, EngineSettings, Limits
from quictunnel.transport.engines import create_engine
from quictunnel.wire.codes import ALPN, SessionCode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.certificates.authority import DevelopmentAuthority
    from edge_server.certificates.context_store import ContextStore
    from edge_server.clients.session import ClientSession
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.storage.state_dir import StateDir
    from quictunnel.transport.engine import Engine
    from quictunnel.transport.udp import UdpSocket

logger = logging.getLogger(__name__)

# Also an authenticated client opens only its control stream.
CLIENT_LIMITS: Final = Limits(
    streams=1, stream_window=TRUSTED.stream_window, connection_window=TRUSTED.connection_window
)


@dataclass(frozen=True, kw_only=True)
class EdgeServices:
    """All parts of one edge. Each part gets only those that it needs."""

    acme: AcmeService | None = None
    """Orders certificates; None if ACME is off."""
    admission: Admission
    attempts: FailedAttempts
    certificates: ContextStore
    claims: NameOwnership
    clock: Clock = field(default_factory=Clock)
    domain: str
    domains: DomainCheck = field(default_factory=DomainCheck)
    error_pages: ErrorPages = field(default_factory=ErrorPages)
    pending: PendingTunnels
    https_port: int
    visitor_log: VisitorLog
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    ports: TcpPorts
    registry: Registry
    random_name_limit: RequestLimiter = field(default_factory=new_name_limiter)
    requests: RequestLimiter = field(default_factory=request_limiter)
    sealer: TicketSealer
    sessions: SessionTable[ClientSession]
    bandwidth_limiter: BandwidthLimiter = field(default_factory=BandwidthLimiter)
    supervisor: Supervisor = field(default_factory=Supervisor)
    """Supervisor of all background tasks."""
    tcp_host: str
    tokens: TokenRegistry

    @cached_property
    def name_directory(self) -> NameDirectory:
        """Return the directory of public names."""
        return NameDirectory(self.domain, self.registry, self.claims, self.tokens)

    @cached_property
    def certificate_policy(self) -> CertificatePolicy:
        """Return the policy for certificates for visitors."""
        return CertificatePolicy(self.certificates, self.acme)

    @cached_property
    def session_context(self) -> SessionContext:
        """Return the parts that each client's session needs."""
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
        """Return the parts that the bindings of each client need."""
        return BindContext(
            admission=self.admission,
            certificate_policy=self.certificate_policy,
            claims=self.claims,
            random_name_limit=self.random_name_limit,
            https_port=self.https_port,
            visitor_log=self.visitor_log,
            name_directory=self.name_directory,
            pending=self.pending,
            policy=BindPolicy(self.domain),
            ports=self.ports,
            registry=self.registry,
            sealer=self.sealer,
            bandwidth_limiter=self.bandwidth_limiter,
            supervisor=self.supervisor,
            tcp_host=self.tcp_host,
            tokens=self.tokens,
        )

    def make_router(self) -> Router:
        """Return a router of TLS visitors."""
        return Router(
            self.name_directory,
            self.certificate_policy,
            self.admission.rate_limiter,
            self.https_port,
            self.error_pages,
        )

    def make_tls_listener(self) -> TlsListener:
        """Return the listener of TLS visitors."""
        router = self.make_router()
        listener = TlsListener(
            router.route,
            redirect_target=router.redirect_target,
            max_pending=self.admission.max_handshakes,
            is_banned=self.admission.is_banned,
            shortage=self.admission.shortage,
        )
        self.error_pages.hold_place, self.error_pages.release_place = listener.acquire, listener.pending.release
        return listener

    def make_snapshot(self, directory: Path, key: bytes, now: Callable[[], float] = time.time) -> NameSnapshot:
        """Return the keeper of the snapshot of held names. ``key``: the key of the tickets."""
        return NameSnapshot(
            directory,
            key,
            self.domain,
            registry=self.registry,
            pending=self.pending,
            claims=self.claims,
            tokens=self.tokens,
            ports=self.ports,
            supervisor=self.supervisor,
            now=now,
        )

    async def close(self) -> None:
        """End ACME, write the pending changes, and close the databases."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close_claims)
            stack.callback(self.tokens.close)
            if self.acme is not None:
                stack.push_async_callback(self.acme.close)

    async def _close_claims(self) -> None:
        try:
            await asyncio.to_thread(self.claims.close)
        except ConfigError as error:
            logger.error("%s The latest claims are lost.", error)


def open_services(
    stack: contextlib.AsyncExitStack,
    config: EdgeConfig,
    state: StateDir,
    https: socket.socket,
    *,
    certificates: ContextStore,
    token: str,
) -> EdgeServices:
    """Return the parts of an edge, with its databases open.

    Args:
        stack: closes what is opened here, also if this raises.
        config: the configuration of the edge.
        state: its state directory.
        https: its listening socket for TLS visitors.
        certificates: the store of certificates for visitors.
        token: the operator's token.

    Raises:
        ConfigError: a database cannot be used, or the options of ACME or DNS are wrong.
    """
    https_port = https.getsockname()[1]
    monotonic, clock = asyncio.get_running_loop().time, Clock()
    admission = Admission(rate_limiter=ConnectionRateLimiter(partial(accept_queue_length, https), time.monotonic))
    visitor_log, registry = VisitorLog(), Registry()
    claims = _open_claims(stack, state.path, clock)
    admission.ban(claims.banned_networks())
    tokens = _open_tokens(stack, state.path, token, clock)
    names = NameDirectory(config.domain, registry, claims, tokens)
    ports = TcpPorts(config.tcp_host, config.tcp_ports, monotonic, max_ports=admission.budget.ports)
    services = EdgeServices(
        acme=_acme_service(
            config, state, certificates, is_needed=names.is_owned, clock=clock, https_port=https_port
        ),
        admission=admission,
        attempts=FailedAttempts(monotonic),
        certificates=certificates,
        claims=claims,
        clock=clock,
        domain=config.domain,
        domains=domain_check_of(config),
        error_pages=ErrorPages(is_on=config.error_pages == "on"),
        pending=PendingTunnels(registry, ports, admission, visitor_log=visitor_log, hold=config.hold),
        https_port=https_port,
        visitor_log=visitor_log,
        ports=ports,
        registry=registry,
        sealer=TicketSealer(state.key("ticket"), config.domain),
        sessions=SessionTable(config.hold),
        tcp_host=config.announced_tcp_host,
        tokens=tokens,
    )
    stack.push_async_callback(services.close)
    return services


def _open_claims(stack: contextlib.AsyncExitStack, directory: Path, clock: Clock) -> NameOwnership:
    """Open the database of claims, and return the owners of names. Raises ConfigError."""
    store = OwnershipStore(directory)
    stack.callback(store.close)
    claims = NameOwnership(store, clock.now)
    clock.add_listener(claims.clock_changed)
    return claims


def _open_tokens(
    stack: contextlib.AsyncExitStack, directory: Path, operator_token: str, clock: Clock
) -> TokenRegistry:
    """Open the database of tokens, and return the valid ones. Raises ConfigError."""
    store = TokenStore(directory)
    stack.callback(store.close)
    return TokenRegistry(operator_token, store, clock.now)


def _acme_service(
    config: EdgeConfig,
    state: StateDir,
    certificates: ContextStore,
    *,
    is_needed: Callable[[str], bool],
    clock: Clock,
    https_port: int,
) -> AcmeService | None:
    """Return the service that orders certificates, or None if ACME is off. Raises ConfigError."""
    settings = settings_of(config.acme_options)
    if settings is None:
        return None
    # If the operator has configured certificate files for the edge's own names, ACME is for custom domains only.
    has_wildcard = config.cert is None and settings.challenge == DNS
    own = (f"*.{config.domain}", config.domain) if has_wildcard else ()
    policy = RenewalPolicy(own=own, is_needed=is_needed)
    return AcmeService(settings, state.path, certificates, policy, clock=clock, https_port=https_port)


def domain_check_of(config: EdgeConfig) -> DomainCheck:
    """Return the check that custom domains point to this edge, as configured. Raises ConfigError."""
    if config.skip_domain_check:
        return DomainCheck()
    # Also a name below the domain: a wildcard record in DNS does not cover the domain itself.
    own = (config.public_host, config.domain, f"edge.{config.domain}")
    return make_domain_check(own, config.https[0], config.resolver)


def take_certificates(config: EdgeConfig, certificates: ContextStore, authority: DevelopmentAuthority) -> None:
    """Load the certificates for the edge's own names, unless ACME brings them. Raises ConfigError."""
    if config.cert is not None and config.key is not None:
        certificates.add_files(config.cert, config.key, config.domain)
    elif not config.acme:
        certificates.add_ca(authority, config.domain)


def make_engine(
    config: EdgeConfig, state: StateDir, identity: tuple[Path, Path], udp: UdpSocket, cid_prefix: int
) -> Engine:
    """Return the engine of the QUIC port. Raises ConfigError.

    Args:
        config: the configuration of the edge.
        state: its state directory.
        identity: files of the certificate and key for clients.
        udp: the socket of the port.
        cid_prefix: first byte of the edge's connection IDs.
    """
    certificate, private_key = identity
    settings = EngineSettings(
        is_server=True,
        alpn=ALPN,
        eviction_code=SessionCode.OVERLOADED,
        trusted=CLIENT_LIMITS,
        reset_key=state.key("reset"),
        certificate=certificate,
        private_key=private_key,
        largest_datagram=udp.largest_datagram,
        congestion=config.congestion,
        cid_prefix=cid_prefix,
    )
    return create_engine(settings, config.engine)
