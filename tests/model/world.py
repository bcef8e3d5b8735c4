"""The world of one episode: edges, programs, visitors, and the reasons for which a visitor may be reset."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from unittest import mock

import edge_server.server
from quictunnel.origin import REFUSED, OriginRefusedError
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import SessionCode
from tests.model.edge import DOMAIN, HOLD, ModelEdge, WatchedGuest
from tests.model.program import LOST_TO_OLDER, Dial, Program, Ticket, WatchedCall
from tests.model.tcp import BrokenError, Peer, TcpPipe
from tests.simnet.clock import START

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from edge_server.leases import Lease
    from quictunnel.call import Call
    from quictunnel.transport.engine import Closed
    from quictunnel.transport.splice import TcpSplice
    from quictunnel.wire.messages import Bind
    from tests.model.stepped_loop import SteppedLoop

WAIT = 10.0


class Visitor:
    """One visitor, from its ClientHello on."""

    def __init__(self, number: int, edge: ModelEdge, lease: Lease, protocol: TcpSplice, ticket: Ticket) -> None:
        self.number = number
        self.ticket = ticket
        """Of the name for which it comes."""
        self.edge = edge
        self.lease = lease
        self.splice = protocol
        self.peer = Peer(2 * number, f"visitor {number}")
        self.origin: Peer | None = None
        self.is_in = False
        """Its handshake is complete."""
        self.came_at = 0.0
        self.excuse = ""
        """Why it may be reset although neither end has done so."""
        self.client_session: Any = None

    def __repr__(self) -> str:
        return f"{self.peer} with {self.origin}"

    @property
    def ends(self) -> list[Peer]:
        return [peer for peer in (self.peer, self.origin) if peer is not None]

    @property
    def is_over(self) -> bool:
        return all(peer.is_done for peer in self.ends)


class FaultLog(logging.Handler):
    """Notices what the product itself says is wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "broke the protocol" in text:
            reason = text.rpartition(": ")[2]
            self.found.append((f"an honest peer is called hostile: {reason}", text))
        elif record.levelno >= logging.ERROR:
            if record.exc_info:
                error = record.exc_info[1]
                if isinstance(error, BrokenError):
                    self.found.append((error.kind, str(error)))
                    return
                text += f": {logging.Formatter().formatException(record.exc_info)}"
            self.found.append(("a fault inside", text))


class World:
    """One edge after the other, programs, visitors; everything that happens is decided by the rules."""

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
        """Make the product's code use this world."""
        loggers = [logging.getLogger(name) for name in ("quictunnel", "edge_server")]
        before = [(logger.level, logger.propagate) for logger in loggers]
        with self.network.in_force(), mock.patch.object(edge_server.server, "Guest", WatchedGuest):
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
        """Add a line to the story of this world."""
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
        self.note(f"edge {edge.number} serves, names {[name.name for name in names]}")
        self.loop.create_task(edge.expect())

    def start_program(self, ticket: Ticket | None) -> None:
        if ticket is None:
            number = len(self.tickets)
            ticket = Ticket(number, None if number % 2 == 0 else f"shop-{number}")
            self.tickets.append(ticket)
        self.programs.append(Program(self, len(self.programs), ticket, self.network.authority))

    def come(self, ticket: Ticket) -> Visitor | None:
        """A visitor says a name; it is not in yet."""
        edge = self.edge
        if edge is None or not ticket.host:
            return None
        lease = edge.find(ticket.host)
        if lease is None:
            self.reach("visitor of an unknown name")
            return None
        visitor = Visitor(self.visitors_so_far, edge, lease, lease.passing_visitor(ticket.host), ticket)
        if any(program.is_released for program in self.programs if program.ticket is ticket):
            visitor.excuse = "the tunnel was closed"
        self.visitors_so_far += 1
        self.visitors.append(visitor)
        self.note(f"{visitor.peer.name} comes for {ticket.host}")
        return visitor

    def enter(self, visitor: Visitor) -> None:
        """Its handshake is complete."""
        visitor.is_in = True
        visitor.came_at = self.loop.time()
        port = 1 + visitor.number % 65_000
        self._by_port[port] = visitor
        session = visitor.lease.newest.session
        if session is None:
            self.reach("newcomer while nobody has come yet")
        elif session.is_away:
            self.reach("newcomer while the client is away")
        elif session.is_awaiting_standing:
            self.reach("newcomer within the round trip of a resume")
        visitor.peer.note = self.note
        self.note(f"{visitor.peer} is in")
        TcpPipe(self.loop, visitor.peer, visitor.splice, ("198.51.100.7", port))

    def release(self, program: Program, *, then_bind: bool) -> None:
        """Have a program give its name back: its visitors are reset after a while."""
        for visitor in self.visitors:
            if visitor.ticket is program.ticket:
                visitor.excuse = visitor.excuse or "the tunnel was closed"
        self.loop.call(functools.partial(program.release, then_bind=then_bind))

    def visitor_of(self, dial: Dial) -> Visitor:
        return self._by_port[dial.stream.preface.port]

    def accept(self, dial: Dial) -> None:
        """The local service takes a connection."""
        visitor = self.visitor_of(dial)
        if visitor.origin is not None:
            raise BrokenError("one visitor, two connections", f"{visitor}")
        visitor.origin = Peer(2 * visitor.number + 1, f"origin {visitor.number}")
        visitor.origin.note = self.note
        self.note(f"{visitor.origin} accepts")
        visitor.origin.partner, visitor.peer.partner = visitor.peer, visitor.origin
        visitor.client_session = dial.stream._session
        splice = dial.origin.splice(dial.stream)
        TcpPipe(self.loop, visitor.origin, splice, ("127.0.0.1", 8000))
        dial.outcome.set_result(splice)

    def refuse(self, dial: Dial) -> None:
        self.visitor_of(dial).excuse = "refused by the local service"
        dial.outcome.set_exception(OriginRefusedError(REFUSED))

    # What the product says of its sessions.

    def guest_ended(self, guest: WatchedGuest, closed: Closed) -> None:
        """An edge's session is over (before its leases are)."""
        if guest.identity is None:
            return
        why = self._guest_excuse(guest, closed)
        if why is None:
            self.fault_log.found.append((_unexplained(closed), f"at the edge: {closed}"))
            why = "unexplained"
            self._may_fail(guest.digest)
        self.dead.setdefault(guest.digest, why)
        self.note(f"session {guest.digest.hex()[:6]} of {self.program_of(guest.digest)}: {closed}")
        self.reach(f"session over at the edge: {why}")
        for edge in self.edges:
            for lease in edge._registry.alive:
                if lease.session is guest.session:
                    for visitor in self.visitors:
                        if visitor.splice in lease.visitors:
                            visitor.excuse = visitor.excuse or why

    def _guest_excuse(self, guest: WatchedGuest, closed: Closed) -> str | None:
        if guest.digest in self.dead:
            return self.dead[guest.digest]
        edge = next((edge for edge in self.edges if guest in edge.guests_ever), None)
        if edge is None or edge.state != "serving":
            return "the edge left"
        program = self.program_of(guest.digest)
        if program is None:
            return "the client never heard of it"
        if program.state != "running":
            return f"the program was {program.state}"
        if closed.code == SessionCode.SUPERSEDED and self.is_superseded(program):
            return "a newer program has its ticket"
        return "away for too long" if self._was_away_too_long(closed, guest.away_at) else None

    def call_ended(self, call: WatchedCall, closed: Closed) -> None:
        """A client's session is over."""
        if call.welcome is None:
            return
        digest = hashlib.sha256(call.welcome.session).digest()
        why = self._call_excuse(call, closed, digest)
        if why is None:
            self.fault_log.found.append((_unexplained(closed), f"at the client: {closed}, {call.program}"))
            why = "unexplained"
            self._may_fail(digest)
        self.dead.setdefault(digest, why)
        self.note(f"session {digest.hex()[:6]} of {call.program}: {closed}")
        self.reach(f"session over at the client: {why}")
        for visitor in self.visitors:
            if visitor.client_session is call.session or (visitor.client_session is None and visitor.is_in):
                visitor.excuse = visitor.excuse or why

    def _call_excuse(self, call: WatchedCall, closed: Closed, digest: bytes) -> str | None:
        if digest in self.dead:
            return self.dead[digest]
        program = call.program
        if program.state != "running":
            return f"the program was {program.state}"
        for edge in self.edges:
            if edge.state != "serving" and any(guest.digest == digest for guest in edge.guests_ever):
                return "the edge left"
        if not call.was_current:
            return "a dial that was not needed"
        if closed.code == SessionCode.SUPERSEDED and self.is_superseded(program):
            return "a newer program has its ticket"
        return "away for too long" if self._was_away_too_long(closed, call.away_at) else None

    def _was_away_too_long(self, closed: Closed, since: float | None) -> bool:
        return closed.cause is CloseCause.TIMEOUT and since is not None and self.loop.time() >= since + HOLD - 1

    def guest_asks(self, guest: WatchedGuest, bind: Bind) -> Callable[[], None]:
        """An edge is about to give a name to a program, which takes it from the one before, unless it has been
        told so already. Return what takes that back if the program is refused."""
        program = self.program_of(guest.digest)
        if program is None:
            return lambda: None
        ticket = guest.open_ticket(bind)
        self.note(f"{program} asks{' again' * getattr(bind, 'again', False)}, ticket {ticket}")
        before = program.turn, program.ticket.taker
        program.ticket.taker = program
        if not getattr(bind, "again", False):
            # It has not had the name, or asks for it anew after it has given it back: it is the newest.
            self._turns += 1
            program.turn = self._turns
            rivals = [each for each in self.programs if each.ticket is program.ticket and each is not program]
            program.older = frozenset(each for each in rivals if each.has_held)
            for rival in rivals:
                rival.older -= {program}

        def take_back() -> None:
            self.note(f"{program} is refused")
            program.turn, program.ticket.taker = before

        return take_back

    @staticmethod
    def is_superseded(program: Program) -> bool:
        """Return True if a program that is not an older one has taken the name."""
        taker = program.ticket.taker
        return taker is not None and taker is not program and taker not in program.older

    def _may_fail(self, digest: bytes) -> None:
        """What follows from the unexplained end of a session is not a fault of its own."""
        program = self.program_of(digest)
        if program is not None:
            program.may_fail = True

    def program_of(self, digest: bytes) -> Program | None:
        """Return whose session that is, as far as its client has heard of it."""
        for program in self.programs:
            for call in program.calls:
                if call.welcome is not None and hashlib.sha256(call.welcome.session).digest() == digest:
                    return program
        return None

    def guest_of(self, call: Call) -> WatchedGuest | None:
        """Return the other side of a call's session."""
        assert call.welcome is not None
        digest = hashlib.sha256(call.welcome.session).digest()
        guests = (guest for edge in self.edges for guest in edge.guests_ever)
        return next((guest for guest in guests if guest.digest == digest), None)

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
