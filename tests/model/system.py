"""The system of one episode: edges, programs, visitors, and the reasons for which a visitor may be reset."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from unittest import mock

import edge_server.change_watcher
import edge_server.clients.acceptor
import edge_server.ingress.tcp_ports
from quictunnel.origin.dial import REFUSED, OriginDialError
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import SessionCode
from tests.model.edge import DOMAIN, HOLD, REFRESH, ModelEdge, WatchedClientSession
from tests.model.fault_log import FaultLog
from tests.model.ports import ListeningPorts
from tests.model.program import LOST_TO_OLDER, Dial, Program, Ticket, WatchedConnection
from tests.model.stores import SECOND_TOKEN, ClaimStore, TokenStore
from tests.model.tcp import BrokenError, Peer, TcpPipe
from tests.model.visitor import CLOSED, REFUSED_BY_SERVICE, WITHDRAWN, Visitor
from tests.simnet.clock import START

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.tunnel import Lease, Tunnel
    from quictunnel.connection.edge_connection import EdgeConnection
    from quictunnel.transport.engine import Closed
    from quictunnel.transport.session import Session
    from quictunnel.transport.splice import TcpSplice
    from quictunnel.wire.messages import Bind
    from tests.model.stepped_loop import SteppedLoop

WAIT = 10.0


class ModelSystem:
    """Edges one after the other, programs and visitors. The rules decide everything that happens."""

    def __init__(self, loop: SteppedLoop, network: Any, seed: str, known: Collection[str] = ()) -> None:
        """``known``: kinds of faults that do not end the episode."""
        self.loop = loop
        self.known = known
        self.network = network
        self.seed = seed
        self.chance = random.Random(f"{seed} world")
        self.edges: list[ModelEdge] = []
        self.programs: list[Program] = []
        self.tickets: list[Ticket] = []
        self.visitors: list[Visitor] = []
        self.dials: list[Dial] = []
        self.tokens = TokenStore()
        self.claims = ClaimStore()
        self.ports = ListeningPorts()
        self.names_of_port: dict[int, set[str]] = {}
        """Names that have had each TCP port."""
        self.names_gone: set[str] = set()
        """Names that nobody had for a while."""
        self.free_names: set[str] = set()
        """Names of these that are free now: the first program that asks gets one, an older one included."""
        self.reached: Counter[str] = Counter()
        self.dead: dict[bytes, str] = {}
        """Sessions that are over at one side at least, by their secret's digest, and why."""
        self.fault_log = FaultLog()
        self.story: deque[str] = deque(maxlen=4000)
        self.visitors_so_far = 0
        self._turns = 0
        self._by_port: dict[int, Visitor] = {}
        loop.set_exception_handler(self._exception)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Make the product code use this system."""
        loggers = [logging.getLogger(name) for name in ("quictunnel", "edge_server")]
        before = [(logger.level, logger.propagate) for logger in loggers]
        with (
            self.network.in_force(),
            mock.patch.object(edge_server.clients.acceptor, "ClientSession", WatchedClientSession),
            mock.patch.object(edge_server.ingress.tcp_ports, "try_listen", self.ports.try_listen),
            mock.patch.object(edge_server.change_watcher, "REFRESH_INTERVAL", REFRESH),
        ):
            for logger in loggers:
                logger.addHandler(self.fault_log)
                logger.setLevel(logging.WARNING)
                logger.propagate = False
            try:
                yield
            finally:
                for logger, (level, propagates) in zip(loggers, before, strict=True):
                    logger.removeHandler(self.fault_log)
                    logger.setLevel(level)
                    logger.propagate = propagates

    def reach(self, state: str) -> None:
        """Count an interesting state."""
        self.reached[state] += 1
        self.note(state)

    def fail(self, kind: str, text: str) -> None:
        """Raise BrokenError, unless faults of that kind are known and passed over."""
        if not any(kind.startswith(known) for known in self.known):
            raise BrokenError(kind, text)
        self.reach(f"passed over: {kind}")

    def note(self, text: str) -> None:
        """Add a line to the log of this episode."""
        self.story.append(f"{self.loop.time() - START:8.2f} {text}")

    # Making things.

    @property
    def edge(self) -> ModelEdge | None:
        """Return the edge that takes visitors and clients."""
        last = self.edges[-1] if self.edges else None
        return last if last is not None and last.state == "serving" else None

    def start_edge(self, names: list[Any]) -> None:
        edge = ModelEdge(self, len(self.edges), names)
        self.edges.append(edge)
        self.note(f"edge {edge.number} serves, names {[name.name for name, _ in names]}")
        self.loop.create_task(edge.expect())

    def start_program(self, ticket: Ticket | None, kind: str = "file", has_second_token: bool = False) -> None:
        """``kind`` and ``has_second_token``: of a new ticket, where there is none."""
        if ticket is None:
            ticket = Ticket(len(self.tickets), kind, has_second_token=has_second_token)
            self.tickets.append(ticket)
        self.programs.append(Program(self, len(self.programs), ticket, self.network.authority))

    def come(self, ticket: Ticket) -> Visitor | None:
        """A visitor says a name; it is not in yet."""
        edge = self.edge
        if edge is None or not ticket.host:
            return None
        tunnel = edge.find(ticket.host)
        if tunnel is None:
            self.reach("visitor of an unknown name")
            return None
        protocol = edge.services.make_router().passing_visitor(ticket.host)
        return self._visitor(edge, tunnel, protocol, ticket)

    def come_to_port(self, port: int, which: int) -> Visitor | None:
        """A visitor connects to a TCP port; ``which`` of those who accept gets it. It is not in yet."""
        servers = self.ports.accepting(port)
        if not servers:
            self.reach("visitor of a port where nobody listens")
            return None
        server = servers[which % len(servers)]
        tunnel = server.tunnel
        edge = next(edge for edge in self.edges if edge.services.admission is tunnel._admission)
        ticket = next(
            (each for each in self.tickets if each.host == edge.services.name_directory.host_of(tunnel.name)), None
        )
        if ticket is None:
            return None  # the program has not heard of its name yet
        self.reach("a visitor came to a port")
        protocol: Any = server.factory()
        return self._visitor(edge, tunnel, protocol, ticket, by_port=True)

    def _visitor(
        self, edge: ModelEdge, tunnel: Tunnel, protocol: TcpSplice, ticket: Ticket, *, by_port: bool = False
    ) -> Visitor:
        visitor = Visitor(self.visitors_so_far, edge, tunnel, protocol, ticket, by_port=by_port)
        if any(program.is_released for program in self.programs if program.ticket is ticket):
            visitor.excuse = CLOSED
        if self.is_withdrawn(ticket):
            visitor.excuse = WITHDRAWN
        self.visitors_so_far += 1
        self.visitors.append(visitor)
        self.note(f"{visitor.peer.name} comes for {ticket.host}")
        return visitor

    def enter(self, visitor: Visitor) -> None:
        """Admit a visitor whose handshake is complete."""
        visitor.is_in = True
        visitor.came_at = self.loop.time()
        port = 1 + visitor.number % 65_000
        self._by_port[port] = visitor
        if not visitor.by_port:
            self._look_up_again(visitor)
        backends = visitor.tunnel.backends
        session = backends[0].session if backends else None
        if session is None:
            self.reach("newcomer while nobody has come yet")
        elif session.is_away:
            self.reach("newcomer while the client is away")
        elif session.is_awaiting_resume_state:
            self.reach("newcomer within the round trip of a resume")
        visitor.peer.note = self.note
        self.note(f"{visitor.peer} is in")
        TcpPipe(self.loop, visitor.peer, visitor.splice, ("198.51.100.7", port))
        self._note_pool(visitor)

    def _look_up_again(self, visitor: Visitor) -> None:
        """Note which tunnel has the visitor's name now; where none has, it is the one that has closed."""
        tunnel = visitor.edge.find(visitor.ticket.host)
        if tunnel is None:
            self.reach("a name was given back during a visitor's handshake")
        elif tunnel is not visitor.tunnel:
            self.reach("a name was bound again during a visitor's handshake")
            visitor.tunnel = tunnel

    def _note_pool(self, visitor: Visitor) -> None:
        backends = visitor.tunnel.backends
        if len(backends) < 2:
            return
        self.reach("a visitor of a pool")
        visit = visitor.tunnel.visitors.get(visitor.splice)
        chosen = next((each for each in backends if visit is not None and visit.backend is each), None)
        if chosen is not None and chosen.is_healthy and not all(each.is_healthy for each in backends):
            self.reach("a visitor passes over one of a pool that is away")

    def release(self, program: Program, *, then_bind: bool) -> None:
        """Have a program give its name back: its visitors are reset after a while."""
        sessions = program.sessions()
        for visitor in self.visitors:
            is_anothers = visitor.origin is not None and visitor.client_session not in sessions
            if visitor.ticket is program.ticket and not (program.ticket.is_pool and is_anothers):
                visitor.may_be_reset(CLOSED)
        self.loop.call(functools.partial(program.release, then_bind=then_bind))

    # The operator.

    def is_revoked(self, ticket: Ticket) -> bool:
        """Return True if the token of its programs is revoked."""
        return self.tokens.is_revoked and ticket.token == SECOND_TOKEN

    def is_withdrawn(self, ticket: Ticket) -> bool:
        """Return True if no edge may let a program have the name."""
        return ticket.is_banned or self.is_revoked(ticket)

    def revoke(self) -> None:
        """Revoke the second token."""
        self.tokens.is_revoked = True
        self._withdraw()

    def ban(self, ticket: Ticket) -> None:
        """Withdraw a name."""
        ticket.is_banned = True
        self.claims.ban(ticket.host.partition(".")[0])
        self._withdraw()

    def _withdraw(self) -> None:
        for program in self.programs:
            program.may_fail = program.may_fail or self.is_withdrawn(program.ticket)
        for visitor in self.visitors:
            if self.is_withdrawn(visitor.ticket):
                visitor.may_be_reset(WITHDRAWN)
        for edge in self.edges:
            edge.look()

    def visitor_of(self, dial: Dial) -> Visitor:
        return self._by_port[dial.stream.preface.port]

    def accept(self, dial: Dial) -> None:
        """The local service takes a connection."""
        visitor = self.visitor_of(dial)
        if visitor.origin is not None:
            raise BrokenError("one visitor, two connections", f"{visitor}")
        if dial.program.ticket is not visitor.ticket:
            raise BrokenError("a visitor at somebody else's service", f"{visitor}, {dial.program}")
        if visitor.refused_by not in (None, dial.program):
            self.reach("a visitor that one of a pool refused goes to another")
        if visitor.ticket.is_pool and visitor.excuse in (REFUSED_BY_SERVICE, CLOSED):
            visitor.excuse = CLOSED if dial.program.is_released else ""  # it may be another than before
        visitor.origin = Peer(2 * visitor.number + 1, f"origin {visitor.number}")
        visitor.origin.note = self.note
        self.note(f"{visitor.origin} accepts")
        visitor.origin.partner, visitor.peer.partner = visitor.peer, visitor.origin
        visitor.client_session = dial.stream._session
        splice = dial.origin.splice(dial.stream)
        TcpPipe(self.loop, visitor.origin, splice, ("127.0.0.1", 8000))
        dial.outcome.set_result(splice)

    def refuse(self, dial: Dial) -> None:
        visitor = self.visitor_of(dial)
        visitor.may_be_reset(REFUSED_BY_SERVICE)
        visitor.refused_by = dial.program
        dial.outcome.set_exception(OriginDialError(REFUSED, dial.origin.target))

    # What the product says of its sessions.

    def client_ended(self, client: WatchedClientSession, closed: Closed) -> None:
        """An edge's session is over (before its leases are)."""
        if client.identity is None:
            return
        why = self._client_excuse(client, closed)
        if why is None:
            self.fault_log.found.append((_unexplained(closed), f"at the edge: {closed}"))
            why = "unexplained"
            self._may_fail(client.digest)
        self.dead.setdefault(client.digest, why)
        for lease in client.bindings:
            self.lease_closes(*lease)
        self.note(f"session {client.digest.hex()[:6]} of {self.program_of(client.digest)}: {closed}")
        self.reach(f"session over at the edge: {why}")
        for edge in self.edges:
            for tunnel in edge.services.registry.alive:
                for visitor in self.visitors:
                    visit = tunnel.visitors.get(visitor.splice)
                    backend: Any = None if visit is None else visit.backend
                    if backend is not None and backend.session is client.session:
                        visitor.may_be_reset(why)

    def _client_excuse(self, client: WatchedClientSession, closed: Closed) -> str | None:
        if client.digest in self.dead:
            return self.dead[client.digest]
        edge = next((edge for edge in self.edges if client in edge.all_clients), None)
        if edge is None or edge.state != "serving":
            return "the edge left"
        program = self.program_of(client.digest)
        if program is None:
            return "the client never heard of it"
        if program.state != "running":
            return f"the program was {program.state}"
        if closed.code == SessionCode.SUPERSEDED and self.is_superseded(program):
            return "a newer program has its ticket"
        if self.is_revoked(program.ticket):
            return "its token was revoked"
        return "away for too long" if self._was_away_too_long(closed, client.away_at) else None

    def connection_ended(self, connection: WatchedConnection, closed: Closed) -> None:
        """A client's session is over."""
        if connection.welcome is None:
            return
        digest = hashlib.sha256(connection.welcome.session).digest()
        why = self._excuse_for(connection, closed, digest)
        if why is None:
            self.fault_log.found.append((_unexplained(closed), f"at the client: {closed}, {connection.program}"))
            why = "unexplained"
            self._may_fail(digest)
        self.dead.setdefault(digest, why)
        self.note(f"session {digest.hex()[:6]} of {connection.program}: {closed}")
        self.reach(f"session over at the client: {why}")
        for visitor in self.visitors:
            if visitor.client_session is connection.session or (visitor.client_session is None and visitor.is_in):
                visitor.may_be_reset(why)

    def _excuse_for(self, connection: WatchedConnection, closed: Closed, digest: bytes) -> str | None:
        if digest in self.dead:
            return self.dead[digest]
        program = connection.program
        if program.state != "running":
            return f"the program was {program.state}"
        for edge in self.edges:
            if edge.state != "serving" and any(client.digest == digest for client in edge.all_clients):
                return "the edge left"
        if not connection.was_current:
            return "a dial that was not needed"
        if closed.code == SessionCode.SUPERSEDED and self.is_superseded(program):
            return "a newer program has its ticket"
        if self.is_revoked(program.ticket):
            return "its token was revoked"
        return "away for too long" if self._was_away_too_long(closed, connection.away_at) else None

    def _was_away_too_long(self, closed: Closed, since: float | None) -> bool:
        return closed.cause is CloseCause.TIMEOUT and since is not None and self.loop.time() >= since + HOLD - 1

    def client_binds(self, client: WatchedClientSession, bind: Bind) -> Callable[[], None]:
        """An edge is about to give a name to a program, which takes it from the one before, unless it has been
        told so already. Return what takes that back if the program is refused."""
        program = self.program_of(client.digest)
        if program is None:
            return lambda: None
        ticket = client.open_ticket(bind)
        self.note(f"{program} asks{' again' * getattr(bind, 'again', False)}, ticket {ticket}")
        before = program.turn, program.ticket.taker
        older_before = {each: each.older for each in self.programs if each.ticket is program.ticket}
        program.ticket.taker = program
        is_free = program.ticket.host.partition(".")[0] in self.free_names
        if is_free or not getattr(bind, "again", False):
            # It has not had the name, or asks for it anew after it has given it back: it is the newest. When the
            # newest was away for too long no edge knows of it: the first that comes has the name, and the newest
            # may have it again.
            self._turns += 1
            program.turn = self._turns
            rivals = [each for each in self.programs if each.ticket is program.ticket and each is not program]
            is_newest = not getattr(bind, "again", False)
            program.older = frozenset(each for each in rivals if each.has_held and is_newest)
            for rival in rivals:
                rival.older -= {program}

        def take_back() -> None:
            self.note(f"{program} is refused")
            program.turn, program.ticket.taker = before
            for each, older in older_before.items():
                each.older = older

        return take_back

    def client_holds(self, lease: Lease) -> None:
        """An edge has given a lease."""
        self.free_names.discard(lease.name)
        if lease.tcp_port:
            self.names_of_port.setdefault(lease.tcp_port, set()).add(lease.name)
        if len(lease.tunnel.backends) > 1:
            self.reach("two programs share a name")

    def lease_closes(self, tunnel: Tunnel, backend: Backend | None) -> None:
        """An edge is about to take a backend from a tunnel, because its client gives it back or has gone, or to
        keep the tunnel for nobody any more (None)."""
        if len(tunnel.backends) <= 1:
            self.names_gone.add(tunnel.name)
            is_held = self.edge is not None and self.edge.find_name(tunnel.name) is tunnel
            if is_held and (backend is None or backend in tunnel.backends):
                self.free_names.add(tunnel.name)

    @staticmethod
    def is_superseded(program: Program) -> bool:
        """Return True if a program that is not an older one has taken the name. Those of a pool share it."""
        taker = program.ticket.taker
        if program.ticket.is_pool:
            return False
        return taker is not None and taker is not program and taker not in program.older

    def _may_fail(self, digest: bytes) -> None:
        """Excuse a program's failures that follow from the unexplained end of its session."""
        program = self.program_of(digest)
        if program is not None:
            program.may_fail = True

    def program_of(self, digest: bytes) -> Program | None:
        """Return whose session that is, as far as its client has heard of it."""
        for program in self.programs:
            for connection in program.connections:
                if (
                    connection.welcome is not None
                    and hashlib.sha256(connection.welcome.session).digest() == digest
                ):
                    return program
        return None

    def sessions_of(self, program: Program) -> list[Session]:
        """Return the sessions of a program that edges have."""
        clients = (client for edge in self.edges for client in edge.all_clients if not client.is_over)
        return [client.session for client in clients if self.program_of(client.digest) is program]

    def client_of(self, connection: EdgeConnection) -> WatchedClientSession | None:
        """Return the other side of a call's session."""
        assert connection.welcome is not None
        digest = hashlib.sha256(connection.welcome.session).digest()
        clients = (client for edge in self.edges for client in edge.all_clients)
        return next((client for client in clients if client.digest == digest), None)

    def _exception(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BrokenError):
            self.fault_log.found.append((error.kind, str(error)))
        else:
            self.fault_log.found.append(("a fault inside", f"{context['message']}: {error!r}"))

    @staticmethod
    def host_of(name: str) -> str:
        return f"{name}.{DOMAIN}"


def _unexplained(closed: Closed) -> str:
    if closed.code == SessionCode.SUPERSEDED:
        return LOST_TO_OLDER
    return f"a session ended without a cause{f': {closed.reason}' * bool(closed.reason)}"
