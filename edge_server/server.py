"""The edge, put together: the one place that knows every room, and the order in which they open and close."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from certs.authority import DevelopmentAuthority
from edge_server.admin.server import Admin
from edge_server.auth.token import new_operator_token
from edge_server.certificates.context_store import ContextStore
from edge_server.clients.qlog import QlogRecorder
from edge_server.clients.session import ClientSession
from edge_server.handoff.predecessor import HandoffListener, offer_sockets, send_names
from edge_server.handoff.protocol import IS_SUPPORTED, HandoffError, HandoffOffer, HandoffRefusal
from edge_server.handoff.successor import request_handoff
from edge_server.handoff.udp_forwarding import ForwardedSocket, ForwardingSocket
from edge_server.ingress.admission import Admission
from edge_server.ingress.rate_limit import ConnectionRateLimiter
from edge_server.ingress.tcp_ports import accept_from, backlog_of
from edge_server.ingress.tls_listener import TlsListener
from edge_server.listeners import (
    acme_http_socket,
    check_tcp_host,
    https_socket,
    listen_at,
    make_identity,
    quic_socket,
)
from edge_server.observability.introspection import Introspection
from edge_server.observability.loop_lag import LoopLagMonitor
from edge_server.refresher import Refresher
from edge_server.reload import reconfigure
from edge_server.resources.descriptor_budget import watch_for_free_descriptors
from edge_server.storage.state_dir import StateDir
from edge_server.systemd import ActivatedSockets
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.tunnel_record import TunnelRecord
from edge_server.tunnels.visitor_log import VisitorLog
from edge_server.wiring import build_services, make_engine, take_certificates
from quictunnel.errors import ConfigError
from quictunnel.shared.address import format_address, is_name, on_this_machine
from quictunnel.transport import descriptors
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.qlog import tracer_of
from quictunnel.transport.udp import UdpSocket
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from edge_server.config.edge_config import EdgeConfig
    from edge_server.handoff.protocol import HandoffChannel, Held
    from edge_server.handoff.snapshot import LastHeld
    from edge_server.handoff.successor import InheritedSockets
    from edge_server.reload import ReloadOutcome
    from edge_server.storage.state_dir import ClientEnv
    from edge_server.wiring import EdgeServices
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.engine import Connection
    from quictunnel.transport.link import Link

logger = logging.getLogger(__name__)

GOODBYE: Final = 0.5
"""Seconds in which closed sessions may still be told so again."""
DRAIN_LOOK: Final = 0.05
"""Seconds between looks at whether the visitors have finished."""


class EdgeServer:
    """One edge on the running loop: :meth:`start`, later :meth:`drain` or not, then :meth:`stop`."""

    def __init__(self, config: EdgeConfig, given: ActivatedSockets | None = None) -> None:
        """``given``: sockets that are open already; they are this edge's from here on."""
        self.config = config
        self._given = given or ActivatedSockets()
        self.token = ""
        self.ca = config.state_dir / "ca.pem"
        self._guests: set[ClientSession] = set()
        self.lag = LoopLagMonitor()
        self._admission = Admission(rate_limiter=ConnectionRateLimiter(self._waiting, time.monotonic))
        self.ledger = VisitorLog()
        self._registry = Registry()
        self._certificates = ContextStore(allow_wildcard_h2=config.allow_wildcard_h2)
        self._endpoint: Endpoint | None = None
        self._tracing: QlogRecorder | None = None
        self._front: TlsListener | None = None
        self._https: asyncio.Server | None = None
        self._client_env: ClientEnv | None = None
        self._services: EdgeServices | None = None
        self._is_draining = False
        self._listening: socket.socket | None = None
        self._udp: UdpSocket | None = None
        self._watch: Refresher | None = None
        self._last_held: LastHeld | None = None
        self._gauges: list[asyncio.Task[None]] = []
        self.admin: Admin | None = None
        """The operator's page, if there is one."""
        self.asked_to_drain = asyncio.Event()
        """By its operator, who looks at the page; whoever runs this edge is to drain and to stop it."""
        self._offer: HandoffListener | None = None
        self.scene: Introspection | None = None
        """For those who look; there as soon as it serves."""
        self.mark = secrets.randbelow(256)
        """Mark of this edge's connection IDs, by which it and its successor tell their datagrams apart."""
        self.succeeded = asyncio.Event()
        """Another edge has taken over; this one is to drain and to stop."""
        self.https_port = 0

    async def start(self) -> None:
        """Open. Raises ConfigError, with one clear line, for anything that the operator has to mend; nothing
        is left open then."""
        try:
            self._admission.budget.check()
            await self._start()
            self._admission.budget.log()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        # Files first: what is wrong with them should be said before any port is taken.
        state = StateDir(config.state_dir)
        self.token = state.token(new_operator_token)
        authority = DevelopmentAuthority.load_or_create(config.state_dir)
        self.ca = authority.certificate
        take_certificates(config, self._certificates, authority)
        identity = make_identity(config, state.path, authority)
        tracer = tracer_of(config.qlog) if config.qlog is not None else None
        inherited = await self._ask(state) if config.takeover else None
        try:
            services = await self._open_public_port(state, inherited)
            self._udp = (
                await quic_socket(config, self._given) if inherited is None else UdpSocket.adopt(inherited.udp)
            )
            engine = make_engine(config, state, identity, self._udp, self.mark)
            check_tcp_host(config.tcp_host)
            # From here on a predecessor takes nobody any more.
            names = [] if inherited is None else await self._accept_inheritance(inherited)
        except BaseException:
            if inherited is not None:
                inherited.close()
            raise
        for name, sock in names:
            await services.pending.add(name, sock)
        self._last_held = services.make_snapshot(state.path, state.key("ticket"))
        if inherited is None:
            await self._last_held.expect()
        # ... then the port for clients, who bring the names that visitors ask for.
        source = self._udp if inherited is None else ForwardingSocket(self._udp, inherited.pipe, self.mark)
        self._endpoint = Endpoint(engine, source, on_connection=self._accept)
        self._tracing = QlogRecorder(self._endpoint, config.state_dir)
        self._tracing.trace_all(tracer)
        await self._serve(services, state, identity[0])
        logger.info("QUIC engine: %s %s", engine.name, engine.version)

    async def _open_public_port(self, state: StateDir, inherited: InheritedSockets | None) -> EdgeServices:
        """Build all parts; open the ports of the page and of TLS visitors, or inherit them. Raises ConfigError."""
        config = self.config
        if config.admin is not None:
            self.admin = Admin(
                config,
                state,
                listen=partial(listen_at, "--admin", config.admin),
                inherits=inherited is not None,
            )
        # The public port next, because clients are told its number...
        self._listening = https_socket(config, self._given) if inherited is None else inherited.https
        services = self._services = build_services(
            config,
            state,
            self._listening.getsockname()[1],
            admission=self._admission,
            certificates=self._certificates,
            ledger=self.ledger,
            registry=self._registry,
            token=self.token,
        )
        door = acme_http_socket(config, self._given)
        if services.acme is not None:
            await services.acme.open(door)
        self._admission.ban(services.claims.banned_networks())
        self.https_port = services.https_port
        self._front = self._make_front(services)
        return services

    async def _serve(self, services: EdgeServices, state: StateDir, identity: Path) -> None:
        """Accept visitors, start what runs in the background, and tell where this edge is."""
        assert self._front is not None
        assert self._last_held is not None
        assert self._listening is not None
        self._https = await accept_from(self._listening, self._front)
        if services.acme is not None:
            await services.acme.start(services.supervisor)
        self._watch = Refresher(services, self._guests)
        self._last_held.keep()
        self._gauges = self._watch_machine(services.supervisor)
        self.scene = self._look_at(services, identity)
        self._given.close()
        if self.admin is not None:
            await self.admin.start(self.scene, self.asked_to_drain.set)
        # Last, tell: whoever reads this may come at once.
        self._client_env = state.publish(edge=self.quic_address, token=self.token, ca=self.ca)
        if IS_SUPPORTED:
            self._offer = self._make_offer(state)

    def _look_at(self, services: EdgeServices, identity: Path) -> Introspection:
        """Return the view of this edge for its page, its metrics and its dumps."""
        assert self._endpoint is not None
        assert self._front is not None
        assert self._tracing is not None
        assert self._udp is not None
        return Introspection(
            admission=services.admission,
            attempts=services.attempts,
            certificates=services.certificate_policy,
            claims=services.claims,
            config=self.config,
            endpoint=self._endpoint,
            tls_listener=self._front,
            clients=self._guests,
            https_port=services.https_port,
            identity=identity,
            is_draining=lambda: self._is_draining,
            lag=self.lag,
            ledger=services.ledger,
            names=services.names,
            now=services.clock.now,
            pending=services.pending,
            registry=services.registry,
            sessions=services.sessions,
            supervisor=services.supervisor,
            tracing=self._tracing,
            udp=self._udp,
        )

    def _watch_machine(self, supervisor: Supervisor) -> list[asyncio.Task[None]]:
        return [
            supervisor.keep_running(self.lag.watch, "measuring how late the loop is"),
            supervisor.keep_running(
                lambda: watch_for_free_descriptors(self._admission.shortage), "watching for free descriptors"
            ),
        ]

    def _make_front(self, services: EdgeServices) -> TlsListener:
        router, admission = services.make_router(), self._admission
        return TlsListener(
            router.route,
            origin=router.origin,
            max_pending=admission.max_handshakes,
            admits=admission.admits,
            shortage=admission.shortage,
        )

    @property
    def quic_address(self) -> str:
        """``host:port`` for clients on this machine."""
        host, port = self._bound
        is_dual = self._udp is not None and self._udp.is_dual
        return format_address("127.0.0.1" if host == "::" and is_dual else on_this_machine(host), port)

    @property
    def public_quic_address(self) -> str:
        """``host:port`` for clients on other machines. Empty when nothing says it: the edge listens on all
        interfaces, and its domain is only of this machine."""
        host, port = self._bound
        name = self.config.public_name(host)
        return "" if name == self.config.domain and name.endswith(".localhost") else format_address(name, port)

    @property
    def _bound(self) -> tuple[str, int]:
        """Host and port of the QUIC socket; the host as the operator called it, which is in its certificate."""
        assert self._endpoint is not None
        host, port = self._endpoint.local_address[:2]
        is_everywhere = host in ("0.0.0.0", "::")
        return host if is_everywhere or not is_name(self.config.quic[0]) else self.config.quic[0], port

    @property
    def visitors(self) -> int:
        """Public connections open now."""
        return self._admission.active

    @property
    def guests(self) -> int:
        """Clients connected now, those not yet authorised included."""
        return len(self._guests)

    @property
    def leases(self) -> int:
        """Names held now."""
        return len(self._registry)

    def _waiting(self) -> int:
        """Visitors whom the kernel has accepted and nobody here has."""
        return backlog_of(self._listening) if self._listening is not None else 0

    async def reconfigure(self, config: EdgeConfig) -> ReloadOutcome:
        """Take over what may change while it serves; which options did, and which did not. Raises ConfigError
        when something is wrong with them: then nothing has changed."""
        assert self._services is not None
        assert self._tracing is not None
        is_other = config.qlog != self.config.qlog
        tracer = tracer_of(config.qlog) if is_other and config.qlog is not None else None
        outcome = await reconfigure(self._services, self.config, config)
        if is_other:
            self._tracing.trace_all(tracer)
        self.config = outcome.config
        return outcome

    async def drain(self) -> None:
        """Take no new visitors and no new clients; wait until those in flight have finished, at most the
        configured grace. With a successor nobody is in a hurry: idle visitors have the whole grace as well.
        Cancelling it ends the wait."""
        self._is_draining = True
        self._stop_accepting()
        if self._last_held is not None:
            self._last_held.stopping()
        if self._services is not None:
            self._services.pending.give_up_all()
        for guest in tuple(self._guests):
            guest.go_away(self.config.grace)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.grace
        while (now := loop.time()) < deadline:
            # Whether anybody is in the middle of something is a matter of time, not of an event.
            if not self._is_needed(now):
                return
            await asyncio.sleep(DRAIN_LOOK)

    def _stop_accepting(self) -> None:
        """Take no more TLS visitors. May be called again."""
        if self._https is not None:
            descriptors.disown(self._listening)
            self._https.close()

    def _is_needed(self, now: float) -> bool:
        if self._front is not None and self._front.pending:
            return True
        if self.succeeded.is_set():
            return self.visitors > 0 or self._passes_datagrams_on
        return any(guest.session.in_flight(now) for guest in self._guests)

    @property
    def _passes_datagrams_on(self) -> bool:
        """The edge before this one has visitors still, whose datagrams come to it from here."""
        source = self._endpoint.socket if self._endpoint is not None else None
        return isinstance(source, ForwardingSocket) and source.has_predecessor

    async def stop(self) -> None:
        """Close everything, in the reverse order of opening."""
        self._given.close()
        if self._client_env is not None:
            self._client_env.withdraw()
        if self._offer is not None:
            self._offer.close()
        for gauge in self._gauges:
            gauge.cancel()
        if self.admin is not None:
            await self.admin.close()
        self._stop_accepting()
        if self._endpoint is not None:
            assert self._services is not None
            assert self._last_held is not None
            await self._last_held.close()
            # Sessions first: their visitors are reset and their ports closed as they go.
            self._services.sessions.give_up_all()
            self._services.pending.give_up_all()
            await self._endpoint.close(GOODBYE, SessionCode.GOING_AWAY)
        elif self._udp is not None:
            self._udp.close()
        if self._front is not None:
            self._front.abort()
        if self._watch is not None:
            await self._watch.close()
        if self._services is not None:
            await self._services.close()
        # Let the transports that were just reset close their sockets.
        await asyncio.sleep(0)

    # Taking over, and being followed.

    async def _ask(self, state: StateDir) -> InheritedSockets | None:
        inherited = await request_handoff(state.path)
        if inherited is None:
            logger.info("no edge runs here that could hand over; starting as usual")
            return None
        try:
            inherited.check(self.config.domain, self.config.https[1], self.config.quic[1])
        except ConfigError:
            inherited.close()
            raise
        self.mark = (inherited.mark + 1) % 256
        self._inherit_door(inherited)
        return inherited

    def _inherit_door(self, inherited: InheritedSockets) -> None:
        """Take the socket for validators over: its port may be one that this edge has no right to open again."""
        door, inherited.acme_http = inherited.acme_http, None
        if door is None:
            return
        wanted = self.config.acme_http
        if wanted is not None and wanted[1] in (0, door.getsockname()[1]) and self._given.acme_http is None:
            self._given.acme_http = door
        else:
            door.close()

    @staticmethod
    async def _accept_inheritance(inherited: InheritedSockets) -> list[Held]:
        try:
            return await inherited.accept()
        except HandoffError as error:
            raise ConfigError(f"--takeover: the edge that runs did not hand over: {error}.") from None

    def _make_offer(self, state: StateDir) -> HandoffListener | None:
        try:
            return HandoffListener(state.path, self._hand_over)
        except OSError as error:
            logger.warning("no successor will be able to take over: %s", error.strerror or error)
            return None

    async def _hand_over(self, channel: HandoffChannel) -> None:
        """Hand over to a successor that asked. Until it is ready nothing changes here. Raises HandoffError."""
        assert self._listening is not None
        assert self._udp is not None
        assert self._services is not None
        if self._is_draining:
            await channel.send(HandoffRefusal("it is stopping"))
            return
        acme = self._services.acme
        acme_http = acme.listening if acme is not None else None
        offer = HandoffOffer(self.config.domain, self.mark, has_acme_http=acme_http is not None)
        with self._udp.duplicate() as udp:
            pipe = await offer_sockets(channel, offer, self._listening, udp, acme_http)
        await send_names(channel, self._stop_taking(pipe))

    def _stop_taking(self, pipe: socket.socket) -> list[Held]:
        """Leave visitors and datagrams to the successor from now on; return the names that it has to know."""
        assert self._endpoint is not None
        assert self._udp is not None
        self._is_draining = True
        source: ForwardedSocket | ForwardingSocket = ForwardedSocket(UdpSocket.adopt(self._udp.duplicate()), pipe)
        before = self._endpoint.socket
        if isinstance(before, ForwardingSocket) and self._passes_datagrams_on:
            source = before.over(source)
        self._endpoint.rebind(source)
        self._client_env = None  # the successor's now, as is what follows
        if self._last_held is not None:
            self._last_held.leave()
        if self.admin is not None:
            self.admin.leave()
        if self._services is not None and self._services.acme is not None:
            self._services.acme.leave()
        self._stop_accepting()
        names = []
        for tunnel in self._registry:
            sock = tunnel.duplicate_socket()
            port = tunnel.tcp_port if sock is not None else 0
            names.append((TunnelRecord.of(tunnel, port), sock))
            tunnel.stop_listening()
        logger.info("another edge takes over; %d visitors are left", self.visitors)
        self.succeeded.set()
        return names

    # Serving.

    def _accept(self, connection: Connection) -> Link:
        assert self._services is not None
        assert self._endpoint is not None
        guest = ClientSession(
            self._services.session_context, connection, self._endpoint.wake, self._guests.discard
        )
        if not self._admission.admits(guest.peer):
            guest.session.close(SessionCode.BANNED)
        elif self._is_draining:
            guest.session.close(SessionCode.GOING_AWAY)
        self._guests.add(guest)
        return guest.session.link
