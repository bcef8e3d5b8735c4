"""The start of an edge, which opens everything in order, on a stack that closes it in the reverse order.

The stack is closed if the start fails or is cancelled, and by the stop of the edge. Each step pushes what it opens
onto the stack at once, so nothing stays open at whatever step the start ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.admin.server import TOKEN_FILE as ADMIN_TOKEN_FILE
from edge_server.admin.server import Admin, check_packages
from edge_server.auth.token import new_file_token
from edge_server.certificates.authority import DevelopmentAuthority
from edge_server.certificates.context_store import ContextStore
from edge_server.change_watcher import ChangeWatcher
from edge_server.clients.acceptor import ClientAcceptor
from edge_server.clients.qlog import QlogTracing
from edge_server.handoff.predecessor import Handoff, HandoffListener
from edge_server.handoff.protocol import IS_SUPPORTED, HandoffError, close_all
from edge_server.handoff.successor import request_handoff
from edge_server.handoff.udp_forwarding import SuccessorUdpSocket
from edge_server.ingress.tcp_ports import accept_from
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
from edge_server.resources.descriptor_budget import (
    DescriptorBudget,
    descriptor_limit,
    watch_for_free_descriptors,
)
from edge_server.server import RunningEdge, local_quic_address, public_quic_address
from edge_server.storage.edge_lock import EdgeLock
from edge_server.storage.state_dir import StateDir
from edge_server.systemd import ActivatedSockets
from edge_server.wiring import make_engine, open_services, take_certificates
from quictunnel.errors import ConfigError
from quictunnel.transport import descriptors
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.qlog import tracer_of
from quictunnel.transport.udp import UdpSocket
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from edge_server.config.edge_config import EdgeConfig
    from edge_server.handoff.protocol import RecordWithSocket
    from edge_server.handoff.snapshot import NameSnapshot
    from edge_server.handoff.successor import InheritedSockets
    from edge_server.ingress.tls_listener import TlsListener
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.wiring import EdgeServices
    from quictunnel.transport.engine import Connection, Engine
    from quictunnel.transport.link import Link
    from quictunnel.transport.qlog import Tracer

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 0.5
"""Seconds for which the endpoint repeats CONNECTION_CLOSE at the stop."""


class _Files(NamedTuple):
    """Files and directories of an edge, read or created before any port is opened."""

    state: StateDir
    token: str
    ca: Path
    certificates: ContextStore
    identity: tuple[Path, Path]
    """Certificate and key of the QUIC socket."""
    admin_token: str
    """Token of the operator's page; empty without one."""
    tracer: Tracer | None
    """Writer of ``--qlog``."""


class _Sockets(NamedTuple):
    """The sockets of the edge: its own, or those of the service manager or a predecessor."""

    lock: EdgeLock
    """Lock of the state directory."""
    inherited: InheritedSockets | None
    """All sockets of the predecessor, after ``--takeover``."""
    cid_prefix: int
    """First byte of this edge's connection IDs, by which the datagrams of two edges are distinguished."""
    admin: socket.socket | None
    """Socket of the operator's page; None without a page, or while a predecessor uses the address."""
    https: socket.socket
    acme_http: socket.socket | None
    udp: UdpSocket


class _Opened(NamedTuple):
    """Parts of an edge that are open before it serves."""

    files: _Files
    sockets: _Sockets
    services: EdgeServices
    engine: Engine
    snapshot: NameSnapshot


async def start_edge(config: EdgeConfig, activated: ActivatedSockets | None = None) -> RunningEdge:
    """Start an edge on the running loop.

    Args:
        config: the configuration of the edge.
        activated: activated sockets, which are closed if the start fails.

    Raises:
        ConfigError: the operator has to change something; the message is one line. Nothing is left open.
    """
    stack = contextlib.AsyncExitStack()
    try:
        return await _start(stack, config, activated or ActivatedSockets())
    except BaseException:
        await stack.aclose()
        raise


async def _start(stack: AsyncExitStack, config: EdgeConfig, activated: ActivatedSockets) -> RunningEdge:
    stack.callback(activated.close)
    # The last step of the stop: transports that were reset close their sockets in the next iteration of the loop.
    stack.push_async_callback(asyncio.sleep, 0)
    DescriptorBudget.of(descriptor_limit()).check()
    opened = await _open(stack, config, activated)
    activated.close()
    edge = await _serve(stack, config, opened)
    edge.services.admission.budget.log()
    logger.info("QUIC engine: %s %s", opened.engine.name, opened.engine.version)
    return edge


async def _open(stack: AsyncExitStack, config: EdgeConfig, activated: ActivatedSockets) -> _Opened:
    """Open files, ports and databases, and keep the names of the previous edge. Nobody is served yet."""
    state = StateDir(config.state_dir)
    # A second edge is refused before it writes anything; the lock of a successor comes from its predecessor.
    lock = None if config.takeover else _lock(stack, config)
    files = _prepare_files(config, state)
    sockets = await _open_sockets(stack, config, files.state, activated, lock)
    services = open_services(
        stack, config, files.state, sockets.https, certificates=files.certificates, token=files.token
    )
    if services.acme is not None:
        await services.acme.open(sockets.acme_http)
    engine = make_engine(config, files.state, files.identity, sockets.udp, sockets.cid_prefix)
    check_tcp_host(config.tcp_host)
    snapshot = await _keep_names(stack, services, sockets.inherited, files.state)
    sockets.lock.sign()
    return _Opened(files, sockets, services, engine, snapshot)


async def _serve(stack: AsyncExitStack, config: EdgeConfig, opened: _Opened) -> RunningEdge:
    """Accept clients and visitors, start the background tasks, and publish the address of this edge."""
    files, sockets, services, _, snapshot = opened
    clients = ClientAcceptor(services.session_context, services.admission.is_banned)
    change_watcher = ChangeWatcher(services, clients.sessions)
    stack.push_async_callback(change_watcher.close)
    introspection = _accept_clients(stack, config, opened, clients)
    # A second time, on top of the stack: the names are written for the last time before the sessions end.
    stack.push_async_callback(snapshot.close)
    stop_accepting = await _accept_visitors(stack, sockets.https, introspection.tls_listener)
    if services.acme is not None:
        await services.acme.start(services.supervisor)
    snapshot.start()
    _watch_machine(stack, introspection)
    drain_requested = asyncio.Event()
    admin = await _start_admin(stack, introspection, files, sockets.admin, drain_requested.set)
    # Last, and without an await until the end, because a client that reads the file may connect at once.
    address = local_quic_address(config, introspection)
    files.state.keep_domain(config.domain)
    files.state.keep_public_address(public_quic_address(config, introspection))
    client_env = files.state.publish(edge=address, token=files.token, ca=files.ca)
    stack.callback(client_env.withdraw)
    edge = RunningEdge(
        config=config,
        token=files.token,
        ca=files.ca,
        services=services,
        clients=clients,
        introspection=introspection,
        snapshot=snapshot,
        change_watcher=change_watcher,
        admin=admin,
        handoff=_handoff(config, sockets, services, introspection.endpoint),
        drain_requested=drain_requested,
        taken_over=asyncio.Event(),
        stop_accepting=stop_accepting,
        resources=stack,
    )
    _offer_handoff(stack, files.state, edge)
    return edge


def _lock(stack: AsyncExitStack, config: EdgeConfig, descriptor: int | None = None) -> EdgeLock:
    """Return the lock of the state directory: that of a predecessor, by its descriptor, or a new one.

    Raises ConfigError if another edge runs.
    """
    if descriptor is not None:
        lock = EdgeLock(descriptor)
    elif config.takeover:
        lock = EdgeLock.acquire(config.state_dir, "it does not hand over; stop it, or use another directory")
    elif IS_SUPPORTED:
        lock = EdgeLock.acquire(config.state_dir, "use --takeover to replace it, or another directory")
    else:
        lock = EdgeLock.acquire(config.state_dir, "stop it, or use another directory")
    stack.callback(lock.release)
    return lock


def _prepare_files(config: EdgeConfig, state: StateDir) -> _Files:
    """Read and create the files, so that errors in them are reported before any port is opened."""
    token = state.token(new_file_token)
    authority = DevelopmentAuthority.load_or_create(config.state_dir)
    certificates = ContextStore(allow_wildcard_h2=config.allow_wildcard_h2)
    take_certificates(config, certificates, authority)
    identity = make_identity(config, state.path, authority)
    tracer = tracer_of(config.qlog) if config.qlog is not None else None
    admin_token = "" if config.admin is None else state.secret_token(ADMIN_TOKEN_FILE, new_file_token)
    return _Files(state, token, authority.certificate, certificates, identity, admin_token, tracer)


async def _open_sockets(
    stack: AsyncExitStack,
    config: EdgeConfig,
    state: StateDir,
    activated: ActivatedSockets,
    lock: EdgeLock | None,
) -> _Sockets:
    """Open the ports, or inherit them from the running edge. ``lock``: None if it is to be inherited as well."""
    if config.admin is not None:
        check_packages()
    inherited = await _inherit(stack, config, state, activated) if config.takeover else None
    if lock is None:
        lock = _lock(stack, config, None if inherited is None else inherited.channel.take_lock())
    admin = None
    if config.admin is not None and inherited is None:
        admin = listen_at("--admin", config.admin)
        stack.callback(admin.close)
    https = https_socket(config, activated) if inherited is None else inherited.https
    stack.callback(https.close)
    acme_http = acme_http_socket(config, activated)
    if acme_http is not None:
        stack.callback(acme_http.close)
    udp = await quic_socket(config, activated) if inherited is None else UdpSocket.adopt(inherited.udp)
    stack.callback(udp.close)
    cid_prefix = secrets.randbelow(256) if inherited is None else (inherited.cid_prefix + 1) % 256
    return _Sockets(lock, inherited, cid_prefix, admin, https, acme_http, udp)


async def _inherit(
    stack: AsyncExitStack, config: EdgeConfig, state: StateDir, activated: ActivatedSockets
) -> InheritedSockets | None:
    """Request the sockets of the running edge. Return None if none runs."""
    inherited = await request_handoff(state.path)
    if inherited is None:
        logger.info("no running edge to take over from; starting as usual")
        return None
    stack.callback(inherited.close)
    logger.info("taking over from the edge with pid %d", inherited.channel.peer_pid)
    inherited.check(config.domain, config.https[1], config.quic[1])
    _inherit_acme_http(inherited, config.acme_http, activated)
    return inherited


def _inherit_acme_http(
    inherited: InheritedSockets, configured: tuple[str, int] | None, activated: ActivatedSockets
) -> None:
    """Take over the socket for http-01 validators, whose port this edge may have no privilege to open."""
    sock, inherited.acme_http = inherited.acme_http, None
    if sock is None:
        return
    if configured is not None and configured[1] in (0, sock.getsockname()[1]) and activated.acme_http is None:
        activated.acme_http = sock
    else:
        sock.close()


async def _keep_names(
    stack: AsyncExitStack, services: EdgeServices, inherited: InheritedSockets | None, state: StateDir
) -> NameSnapshot:
    """Keep the names of the previous edge for their clients: from a running predecessor, or from the snapshot of
    the last run. Return the snapshot."""
    stack.callback(services.pending.give_up_all)
    if inherited is not None:
        try:
            # From here on the predecessor accepts no visitors and clients.
            names = await inherited.accept()
        except HandoffError as error:
            raise ConfigError(f"--takeover: the running edge did not hand over: {error}.") from None
        await _add_names(services.pending, names)
    snapshot = services.make_snapshot(state.path, state.key("ticket"))
    stack.push_async_callback(snapshot.close)
    if inherited is None:
        await snapshot.restore()
    return snapshot


async def _add_names(pending: PendingTunnels, names: list[RecordWithSocket]) -> None:
    """Keep names with the sockets of their ports, which are closed if this is cancelled."""
    rest = names[::-1]
    try:
        while rest:
            await pending.add(*rest.pop())
    except BaseException:
        close_all(sock for _, sock in rest if sock is not None)
        raise


def _accept_clients(
    stack: AsyncExitStack,
    config: EdgeConfig,
    opened: _Opened,
    clients: ClientAcceptor,
) -> Introspection:
    """Open the endpoint for clients. Return the edge's parts as observers read them."""
    files, services = opened.files, opened.services
    tls_listener = services.make_tls_listener()
    stack.callback(tls_listener.abort)
    endpoint = _open_endpoint(stack, opened, clients)
    tracing = QlogTracing(endpoint, config.state_dir)
    tracing.trace_all(files.tracer)
    return Introspection(
        admission=services.admission,
        attempts=services.attempts,
        certificates=services.certificate_policy,
        claims=services.claims,
        config=config,
        endpoint=endpoint,
        error_pages=services.error_pages,
        tls_listener=tls_listener,
        clients=clients.sessions,
        https_port=services.https_port,
        identity=files.identity[0],
        is_draining=lambda: clients.is_draining,
        lag=LoopLagMonitor(),
        visitor_log=services.visitor_log,
        name_directory=services.name_directory,
        now=services.clock.now,
        pending=services.pending,
        registry=services.registry,
        sessions=services.sessions,
        supervisor=services.supervisor,
        tokens=services.tokens,
        tracing=tracing,
        udp=opened.sockets.udp,
    )


def _open_endpoint(stack: AsyncExitStack, opened: _Opened, clients: ClientAcceptor) -> Endpoint:
    """Return the endpoint of the UDP socket; after a handoff it forwards the predecessor's datagrams."""

    def accept(connection: Connection) -> Link:
        return clients.accept(connection, endpoint.schedule_transmit)

    async def close() -> None:
        # Sessions first, because their end resets their visitors and closes their ports.
        services.sessions.give_up_all()
        services.pending.give_up_all()
        await endpoint.close(CLOSE_TIMEOUT, SessionCode.GOING_AWAY)

    _, sockets, services, engine, _ = opened
    inherited, udp = sockets.inherited, sockets.udp
    source = udp if inherited is None else SuccessorUdpSocket(udp, inherited.pipe, sockets.cid_prefix)
    endpoint = Endpoint(engine, source, on_connection=accept)
    stack.push_async_callback(close)
    return endpoint


async def _accept_visitors(
    stack: AsyncExitStack, sock: socket.socket, tls_listener: TlsListener
) -> Callable[[], None]:
    """Accept TLS visitors. Return a function that closes their port, and may be called more than once."""
    server = await accept_from(sock, tls_listener)

    def stop_accepting() -> None:
        descriptors.clear_close_on_fork(sock)
        server.close()

    stack.callback(stop_accepting)
    return stop_accepting


def _watch_machine(stack: AsyncExitStack, introspection: Introspection) -> None:
    """Start the measurement of the loop's delay, and the watch for free descriptors."""
    shortage = introspection.admission.shortage
    for watch, what in (
        (introspection.lag.watch, "measuring how late the loop is"),
        (partial(watch_for_free_descriptors, shortage), "watching for free descriptors"),
    ):
        stack.callback(introspection.supervisor.keep_running(watch, what).cancel)


async def _start_admin(
    stack: AsyncExitStack,
    introspection: Introspection,
    files: _Files,
    sock: socket.socket | None,
    drain: Callable[[], None],
) -> Admin | None:
    """Serve the operator's page: on a socket, or as soon as a predecessor has released the address."""
    address = introspection.config.admin
    if address is None:
        return None
    admin = Admin(introspection, files.state.path, address=address, token=files.admin_token, drain=drain)
    stack.push_async_callback(admin.close)
    if sock is not None:
        await admin.serve(sock)
    else:
        admin.serve_when_free(partial(listen_at, "--admin", address))
    return admin


def _handoff(config: EdgeConfig, sockets: _Sockets, services: EdgeServices, endpoint: Endpoint) -> Handoff:
    """Return the handoff of this edge to a successor."""
    return Handoff(
        domain=config.domain,
        cid_prefix=sockets.cid_prefix,
        https=sockets.https,
        udp=sockets.udp,
        acme_http=None if services.acme is None else services.acme.listening,
        endpoint=endpoint,
        registry=services.registry,
        lock=sockets.lock,
    )


def _offer_handoff(stack: AsyncExitStack, state: StateDir, edge: RunningEdge) -> None:
    """Listen for a successor, where the system supports it."""
    if not IS_SUPPORTED:
        return
    try:
        listener = HandoffListener(state.path, edge.hand_over)
    except OSError as error:
        logger.warning("no successor will be able to take over: %s", error.strerror or error)
    else:
        stack.callback(listener.close)
