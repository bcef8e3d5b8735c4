"""An edge without sockets: a :class:`RunningEdge` whose parts and endpoint are real; the rules bring visitors."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.auth.token_registry import TokenRegistry
from edge_server.certificates.context_store import ContextStore
from edge_server.change_watcher import ChangeWatcher
from edge_server.clients.acceptor import ClientAcceptor
from edge_server.clients.session import ClientSession, SessionContext
from edge_server.clients.session_table import SessionTable
from edge_server.config.edge_config import EdgeConfig
from edge_server.handoff.snapshot_entry import without_outdated_fields
from edge_server.ingress.admission import Admission
from edge_server.ingress.tcp_ports import TcpPorts
from edge_server.server import RunningEdge
from edge_server.storage.steady_clock import Clock
from edge_server.tunnels.domain_check import DomainCheck
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.pending import PendingTunnels
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.tickets import TicketSealer
from edge_server.tunnels.tunnel_record import TunnelRecord
from edge_server.tunnels.visitor_log import VisitorLog
from edge_server.wiring import EdgeServices
from quictunnel.transport.endpoint import Endpoint
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.messages import Bind
from tests.model.ports import PORTS
from tests.model.stores import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.tunnel import Lease, Tunnel
    from quictunnel.transport.engine import Closed, Connection
    from quictunnel.transport.link import Link
    from quictunnel.transport.session import Session
    from quictunnel.wire.messages import Unbind
    from tests.model.system import ModelSystem

DOMAIN = "edge.test"
HOLD = 120.0
GRACE = 20.0
REFRESH: Final = 30.0
"""Seconds between looks of an edge at what has changed (``change_watcher.REFRESH_INTERVAL``): it looks at once
when a rule has withdrawn something, and passing time does not take long."""
Names = list[tuple[TunnelRecord, Any]]
"""Names that one edge tells the next, with the listening socket of each TCP port where that is handed over."""


class WatchedClientSession(ClientSession):
    """Client session that reports its end to the model."""

    def __init__(
        self, context: SessionContext, connection: Connection, schedule_transmit: Any, on_closed: Any
    ) -> None:
        super().__init__(context, connection, schedule_transmit, on_closed)
        self.on_end: Callable[[WatchedClientSession, Closed], None] = lambda _, __: None
        self.away_at: float | None = None
        self.is_over = False
        self.reach: Callable[[str], None] = lambda _: None
        self.on_bind: Callable[[WatchedClientSession, Bind], Callable[[], None]] = lambda _, __: lambda: None
        self.on_bound: Callable[[Lease], None] = lambda _: None
        self.on_unbind: Callable[[Tunnel, Backend | None], None] = lambda _, __: None

    def lease(self, number: int) -> Lease | None:
        """Return the lease with the client's number."""
        return next((lease for lease in self.bindings if lease.number == number), None)

    def _apply(self, request: Bind | Unbind, *, points_here: bool = True) -> None:
        if not isinstance(request, Bind):
            if (lease := self.lease(request.lease)) is not None:
                self.on_unbind(*lease)
            super()._apply(request, points_here=points_here)
            return
        take_back = self.on_bind(self, request)
        super()._apply(request, points_here=points_here)
        if (lease := self.lease(request.lease)) is not None:
            self.on_bound(lease)
        else:
            take_back()

    def open_ticket(self, bind: Bind) -> int:
        """Return the generation of the ticket that is shown; 0 without one."""
        assert self.identity is not None
        ticket = self._context.binding.sealer.open(bind.ticket, self.identity.key) if bind.ticket else None
        return 0 if ticket is None else ticket.generation

    def session_away(self, closed: Closed) -> bool:
        kept = super().session_away(closed)
        if kept:
            self.away_at = asyncio.get_running_loop().time()
        return kept

    def session_resumed(self) -> None:
        if any(len(lease.tunnel.waiting) for lease in self.bindings):
            self.reach("resumed with newcomers")
        super().session_resumed()

    def session_down(self, closed: Closed) -> None:
        self.is_over = True
        self.on_end(self, closed)
        super().session_down(closed)


class WatchedExpected(PendingTunnels):
    """Names that are kept for clients; reports to the model when one is no longer kept."""

    on_forget: Callable[[Tunnel, Backend | None], None]

    def _forget(self, tunnel: Tunnel) -> None:
        self.on_forget(tunnel, None)
        super()._forget(tunnel)


class WatchedAcceptor(ClientAcceptor):
    """The clients of one edge; reports their events to the model."""

    def __init__(self, system: ModelSystem, context: SessionContext, admission: Admission) -> None:
        super().__init__(context, admission.is_banned)
        self._system = system
        self.all_clients: list[WatchedClientSession] = []

    def accept(self, connection: Connection, schedule_transmit: Callable[[], None]) -> Link:
        link = super().accept(connection, schedule_transmit)
        for client in self.sessions:
            assert isinstance(client, WatchedClientSession)
            if client not in self.all_clients:
                self.all_clients.append(client)
                client.on_end = self._system.client_ended
                client.reach = self._system.reach
                client.on_bind = self._system.client_binds
                client.on_bound = self._system.client_holds
                client.on_unbind = self._system.lease_closes
        return link


class ModelEdge(RunningEdge):
    """Process of the edge."""

    def __init__(self, system: ModelSystem, number: int, names: Names) -> None:
        self.system = system
        self.number = number
        self.state = "serving"
        """``leaving`` when it drains, ``gone`` when it has stopped."""
        self._names = names
        self._leaving: list[asyncio.Task[None]] = []
        services = self._make_services()
        clients = WatchedAcceptor(system, services.session_context, services.admission)
        self.all_clients = clients.all_clients
        endpoint = Endpoint(
            system.network.edge_engine(number),
            system.network.edge_socket(number),
            on_connection=lambda connection: clients.accept(connection, endpoint.schedule_transmit),
        )
        # What a model has not: the public port, files, a page and a successor that asks for sockets.
        absent: Any = SimpleNamespace(pending=(), freeze=lambda: None, forwards=False)
        introspection: Any = SimpleNamespace(endpoint=endpoint, tls_listener=absent)
        super().__init__(
            config=EdgeConfig(state_dir=Path("/nonexistent"), domain=DOMAIN, grace=GRACE, hold=HOLD),
            token=TOKEN,
            ca=Path("/nonexistent"),
            services=services,
            clients=clients,
            introspection=introspection,
            snapshot=absent,
            change_watcher=ChangeWatcher(services, clients.sessions),
            admin=None,
            handoff=absent,
            drain_requested=asyncio.Event(),
            taken_over=asyncio.Event(),
            stop_accepting=lambda: None,
            resources=contextlib.AsyncExitStack(),
        )

    def _make_services(self) -> EdgeServices:
        loop, system = asyncio.get_running_loop(), self.system
        admission, visitor_log, registry = Admission(), VisitorLog(), Registry()
        ports = TcpPorts("127.0.0.1", PORTS, loop.time)
        ports._random = random.Random(f"{system.seed} ports {self.number}")  # type: ignore[assignment]
        pending = WatchedExpected(registry, ports, admission, visitor_log=visitor_log, hold=HOLD)
        pending.on_forget = system.lease_closes
        return EdgeServices(
            admission=admission,
            attempts=FailedAttempts(loop.time),
            certificates=ContextStore(),
            claims=NameOwnership(system.claims),  # type: ignore[arg-type]
            clock=Clock(loop.time, loop.time),
            domain=DOMAIN,
            domains=DomainCheck(),
            pending=pending,
            https_port=443,
            visitor_log=visitor_log,
            ports=ports,
            registry=registry,
            sealer=TicketSealer(bytes(32), DOMAIN),
            sessions=SessionTable(HOLD),
            tcp_host=DOMAIN,
            tokens=TokenRegistry(TOKEN, system.tokens),  # type: ignore[arg-type]
        )

    async def expect(self) -> None:
        """Keep the names of the edge before, and their ports: handed over, or opened again (the snapshot)."""
        for name, sock in self._names:
            if sock is not None:
                self.system.reach("a port went to the edge's successor")
            elif name.port:
                sock = self.services.ports.bind_exact(name.port, name.owner)  # noqa: PLW2901
                self.system.reach("a port was opened again after a restart")
            await self.services.pending.add(name, sock)

    def look(self) -> None:
        """Look at what the operator has withdrawn."""
        if self.state != "gone":
            asyncio.get_running_loop().create_task(self.change_watcher._look())

    def find(self, host: str) -> Tunnel | None:
        """Return the tunnel that a visitor's ClientHello leads to."""
        return self.services.registry.find(self.services.name_directory.name_of(host))

    def find_name(self, name: str) -> Tunnel | None:
        """Return the tunnel of a name."""
        return self.services.registry.find(name)

    def noted_names(self, *, is_last: bool) -> Names:
        """Return what an edge that is started after this one knows of it. ``is_last``: it stops in good order."""
        names = [TunnelRecord.of(tunnel, tunnel.tcp_port) for tunnel in self.services.registry]
        return [(without_outdated_fields(name, is_last=is_last), None) for name in names]

    def hand_over(self) -> Names:
        """Take nobody any more: a successor does from now on (:meth:`RunningEdge.hand_over`)."""
        self.clients.is_draining = True
        names: Names = []
        for tunnel in self.services.registry:
            sock = tunnel.duplicate_socket()
            names.append((TunnelRecord.of(tunnel, tunnel.tcp_port if sock is not None else 0), sock))
            tunnel.stop_listening()
        self.taken_over.set()
        self.leave()
        return names

    def leave(self) -> None:
        """Drain and stop, as ``python -m edge_server`` does."""
        self.state = "leaving"
        self._leaving.append(asyncio.get_running_loop().create_task(self._drain_and_stop()))

    async def _drain_and_stop(self) -> None:
        await self.drain()
        await self.change_watcher.close()
        self.services.sessions.give_up_all()
        self.services.pending.give_up_all()
        await self.introspection.endpoint.close(0.5, SessionCode.GOING_AWAY)
        self.state = "gone"

    def kill(self) -> None:
        """Die without a word: sockets are closed, and whatever is in memory is forgotten."""
        for leaving in self._leaving:
            leaving.cancel()
        self.state = "gone"
        self.change_watcher._task.cancel()
        self.services.sessions.hold = 0
        self.system.network.isolate(self.introspection.endpoint)
        self.introspection.endpoint.abort()
        self.services.sessions.give_up_all()
        self.services.pending.give_up_all()

    def sessions(self) -> list[Session]:
        """Return the sessions of clients that are not over."""
        return [
            client.session for client in self.all_clients if not client.is_over and client.identity is not None
        ]
