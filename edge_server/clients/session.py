"""One client at the edge: greeted, authorised, given leases.

A :class:`ClientSession` lives as long as its session. Before its token has been checked it may say one Hello, on
one stream, within a deadline; everything else ends it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.auth.request_limit import request_cost
from edge_server.tunnels.bind import Bindings
from edge_server.tunnels.bind_policy import MAX_LEASES
from quictunnel.errors import ProtocolError
from quictunnel.shared.version import SOFTWARE
from quictunnel.transport.engine import LOST, CloseCause, Closed
from quictunnel.transport.session import Session
from quictunnel.wire.codes import OLDEST_VERSION, PROTOCOL_VERSION, SessionCode
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.labels import domain_validation_error
from quictunnel.wire.messages import MAX_TIME, AnyMessage, Bind, GoAway, Hello, Unbind, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.failed_attempts import FailedAttempts
    from edge_server.auth.permissions import Identity
    from edge_server.auth.request_limit import RequestLimiter
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.clients.qlog import SessionTrace
    from edge_server.clients.session_table import SessionTable
    from edge_server.resources.memory_budget import MemoryBudget
    from edge_server.tunnels.bind_context import BindContext
    from edge_server.tunnels.domain_check import DomainCheck
    from edge_server.tunnels.ownership import NameOwnership
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.engine import Connection
    from quictunnel.transport.link import Link
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

HELLO_TIMEOUT: Final = 5.0
"""Seconds from the end of the QUIC handshake to a good Hello: one round trip for an honest client."""
SECOND_LOOK: Final = 1.0
"""Seconds after which a wrong token is looked at once more, and then refused: one that was made a moment ago is
known by then. It makes guessing slow as well, whatever was wrong about the guess."""
PACE: Final = 0.002
"""Seconds from a plain request that is served to the next one, and more from one that is more work: each costs
some tenths of a millisecond, and a client that makes hundreds at once is not to hold up everybody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """The parts of an edge that its sessions consult or change, shared by all clients."""

    attempts: FailedAttempts
    binding: BindContext
    claims: NameOwnership
    domains: DomainCheck
    memory: MemoryBudget
    requests: RequestLimiter
    sessions: SessionTable[ClientSession]
    supervisor: Supervisor
    tokens: TokenRegistry


class ClientSession:
    """The session of one client (a transport.session.SessionEvents)."""

    def __init__(
        self,
        context: SessionContext,
        connection: Connection,
        wake: Callable[[], None],
        on_gone: Callable[[ClientSession], None],
    ) -> None:
        self.session = Session(Side.EDGE, self, wake)
        self.session.link.attach(connection)
        self.identity: Identity | None = None
        self.holdings = Bindings(context.binding, self.session, self.superseded)
        self.is_leaving = False
        self.since = 0.0
        """Time at which its token was found good (time.monotonic)."""
        self.software = ""
        """The name that the client gives itself."""
        self.trace: SessionTrace | None = None
        """Trace of it that an operator asked for."""
        self._looking: asyncio.Task[None] | None = None
        """Look-up of a domain; later requests wait for it."""
        self._requests: deque[Bind | Unbind] = deque()
        """Requests that wait for their turn."""
        self._has_had_its_turn = False
        """Too lately for another."""
        self.digest = b""
        """Digest of the session's secret; set by the session table."""
        self._context = context
        self._is_resumed = False
        self._second_look: asyncio.TimerHandle | None = None
        """At a token that was not good when it came."""
        self._on_gone = on_gone
        self._deadline = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._too_slow)

    @property
    def peer(self) -> str:
        """Return the client's address."""
        return str(self.session.link.connection.address[0])

    def go_away(self, grace: float) -> None:
        """Announce the end: no new visitors from now on, except those who are at the door already."""
        self.is_leaving = True
        for lease in self.holdings:
            lease.tunnel.stop_listening()
        if self.session.is_away:
            self.give_up()
        elif self.identity is None:
            self.end(SessionCode.GOING_AWAY)
        else:
            self.session.send(GoAway(int(grace)))

    def check_rights(self) -> None:
        """Tokens have changed, or time has passed: hold to what this client may do now, or end it."""
        if self.identity is None:
            return
        current = self._context.tokens.current(self.identity)
        if current is None:
            logger.info("the session of client %s is ended: its token is no longer valid", self.identity.key)
            self.end(SessionCode.UNAUTHORIZED)
        elif current != self.identity:
            self.identity = current
            self.holdings.have_rights_of(current)

    def end(self, code: SessionCode) -> None:
        """End the session now, with or without a link."""
        self._stop_waiting()
        if self.session.is_away:
            self.session.end(Closed(CloseCause.LOCAL, code, ""))
        else:
            self.session.close(code)

    def superseded(self) -> None:
        """End the session: the same program, started again, has taken the name. It does not come back."""
        self._context.sessions.supersede(self)
        self.end(_superseded_code(self.session.version))

    def give_up(self) -> None:
        """The session was without a link for too long."""
        self._context.sessions.given_up += 1
        logger.info("client %s did not reconnect in time", self.identity.key if self.identity else "")
        self.session.end(Closed(CloseCause.TIMEOUT, 0, ""))

    # From the session (transport.session.SessionEvents).

    def session_up(self) -> None:
        """The handshake is done; the Hello is the client's to say."""

    def session_message(self, message: AnyMessage) -> None:
        """Handle a message of the client. Raises ProtocolError."""
        match message:
            case Hello():
                self._greet(message)
            case Bind() | Unbind():
                self._asked(message)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def session_stream(self, stream: Stream) -> None:  # noqa: ARG002 - refused whatever it is
        """Refuse a stream, because only an edge opens them. Raises ProtocolError."""
        raise ProtocolError("only an edge opens streams for visitors")

    def session_streams_available(self) -> None:
        """Visitors are refused at once when the client allows no more streams; none waits."""

    def session_resumed(self) -> None:
        """Note that the session goes on with another link."""
        logger.info("client %s resumed its session from %s", self.identity.key if self.identity else "", self.peer)
        self.holdings.client_is_back()

    def session_away(self, closed: Closed) -> bool:
        """Keep the session without a link, or return False to end it."""
        # A client that closed a link before it said how it stands does not know that its session is there; one
        # that says that the link was replaced has given up the link alone. Who is closed for good does not return.
        may_return = closed.cause is CloseCause.PEER and closed.code != SessionCode.CLOSED
        is_left = may_return and (self.session.is_awaiting_resume_state or closed.code == SessionCode.REPLACED)
        is_lost = closed.cause in LOST or is_left
        if self.identity is None or self.is_leaving or not is_lost or not self._context.sessions.hold:
            return False
        logger.info("client %s from %s lost its connection: %s", self.identity.key, self.peer, closed.cause.value)
        self._context.sessions.leave(self)
        return True

    def session_down(self, closed: Closed) -> None:
        """Release everything, because the session is over."""
        self._deadline.cancel()
        self._stop_waiting()
        self._context.sessions.remove(self)
        self.holdings.release_all(for_good=closed.cause is CloseCause.PEER)
        if self.identity is not None:
            logger.info("client %s from %s disconnected: %s", self.identity.key, self.peer, closed.cause.value)
        else:
            logger.info("a client from %s disconnected without a valid token: %s", self.peer, closed.cause.value)
        self._on_gone(self)

    def _stop_waiting(self) -> None:
        """Nothing that it said is answered any more."""
        self._requests.clear()
        if self._looking is not None:
            self._looking.cancel()
        if self._second_look is not None:
            self._second_look.cancel()

    # The dialogue.

    def _greet(self, hello: Hello) -> None:
        """Find out whose token that is. Of addresses that have shown too many wrong ones it is not looked at."""
        tokens, attempts = self._context.tokens, self._context.attempts
        key = tokens.known_key(hello.token)
        if not attempts.can_try(self.peer, key):
            logger.warning("a client from %s was refused: too many wrong tokens", self.peer)
            self.session.close(SessionCode.UNAUTHORIZED)
            return
        identity = tokens.check(hello.token)
        if identity is not None:
            self._welcome_as(identity, hello)
            return
        attempts.record_failure(self.peer, key)
        self._second_look = asyncio.get_running_loop().call_later(SECOND_LOOK, self._look_again, hello, key)

    def _look_again(self, hello: Hello, key: str | None) -> None:
        identity = self._context.tokens.check(hello.token)
        if identity is not None:
            self._context.attempts.withdraw_failure(self.peer, key)
            self._welcome_as(identity, hello)
            return
        logger.warning("a client from %s was refused: wrong token%s", self.peer, f" of {key}" if key else "")
        self.session.close(SessionCode.UNAUTHORIZED)

    def _welcome_as(self, identity: Identity, hello: Hello) -> None:
        if hello.version < OLDEST_VERSION:
            self.session.close(SessionCode.VERSION)
            return
        self._deadline.cancel()
        sessions = self._context.sessions
        self.session.link.connection.admit()
        other = sessions.find(hello.session) if hello.session else None
        if other is not None and other.may_go_on and other.is_of(identity):
            other.go_on(self.session.link, hello)
            self._on_gone(self)
            return
        if hello.session and sessions.is_superseded(hello.session, identity.key):
            logger.info("client %s from %s cannot resume: a newer session has its name", identity.key, self.peer)
            self.session.close(_superseded_code(hello.version))
            return
        if not sessions.make_room(identity.key):
            logger.warning(
                "client %s from %s was refused: no session is left for its token", identity.key, self.peer
            )
            self.session.close(SessionCode.OVERLOADED)
            return
        self.identity = identity
        self.session.pool.memory = self._context.memory.share_of(identity.key)
        self.session.peer_window = hello.window
        self.session.version = min(hello.version, PROTOCOL_VERSION)
        self._welcome(sessions.add(self), resumed=False)
        self.since = time.monotonic()
        self.software = hello.software
        logger.info("client %s from %s connected (%s)", identity.key, self.peer, self.software)

    @property
    def may_go_on(self) -> bool:
        """Return True if the session may be resumed: this side has not closed it."""
        return not self.is_leaving and not self._is_closing

    @property
    def _is_closing(self) -> bool:
        """Return True if this side has closed the session, and its link is not down yet."""
        return self.session.link.is_closing and not self.session.is_away

    def is_of(self, identity: Identity) -> bool:
        """Return True if this client has that identity."""
        return self.identity is not None and self.identity.key == identity.key

    def go_on(self, link: Link, hello: Hello) -> None:
        """Resume the session on another link, whose Hello showed the session's secret."""
        self._context.sessions.come_back(self)
        self._context.sessions.resumed += 1
        self._is_resumed = True
        self.session.resume(link, self)
        self.session.version = min(hello.version, PROTOCOL_VERSION)
        self._welcome(hello.session, resumed=True)
        self.session.send_resume_state()
        if self.trace is not None:
            self.trace.go_on()

    def _welcome(self, secret: bytes, *, resumed: bool) -> None:
        assert self.identity is not None, "it was greeted for its token"
        self.session.send(
            Welcome(
                self.session.version,
                INITIAL_WINDOW,
                MAX_LEASES,
                SOFTWARE,
                secret,
                resumed=resumed,
                hold=int(self._context.sessions.hold),
                time=int(time.time()),
                token_ends=min(self.identity.rights.expires or 0, MAX_TIME),
            )
        )

    # What it asks for, one after the other. No more wait than the identity may ask for at once.

    def _asked(self, request: Bind | Unbind) -> None:
        assert self.identity is not None
        if not self._context.requests.try_take(self.identity.key, request_cost(request)):
            logger.warning("client %s from %s exceeds the rate limit for requests", self.identity.key, self.peer)
            self.end(SessionCode.TOO_MANY_REQUESTS)
            return
        self._requests.append(request)
        if not self._has_had_its_turn:
            self._serve()

    def _serve(self) -> None:
        if self._is_closing:
            self._stop_waiting()
        self._has_had_its_turn = bool(self._requests)
        if not self._requests:
            return
        request = self._requests.popleft()
        if isinstance(request, Bind) and self._is_to_be_looked_up(request):
            work = self._look_up(request)
            self._looking = self._context.supervisor.start(work, "looking up where a domain points")
        else:
            self._do(request)

    def _is_to_be_looked_up(self, bind: Bind) -> bool:
        assert self.identity is not None
        # What is refused anyway, or held already, is nobody's to ask a resolver about.
        may = bool(bind.domain) and self.identity.rights.allows_domain(bind.domain)
        return may and not self.holdings.is_held(bind.lease) and domain_validation_error(bind.domain) is None

    async def _look_up(self, bind: Bind) -> None:
        assert self.identity is not None
        is_known = self._context.claims.owner(bind.domain) == self.identity.key
        points_here = await self._context.domains.point_here(
            bind.domain, owner=self.identity.key, is_known=is_known
        )
        if not self._is_closing:
            self._do(bind, points_here=points_here)

    def _do(self, request: Bind | Unbind, *, points_here: bool = True) -> None:
        """One request; the next after a pause."""
        assert self.identity is not None
        asyncio.get_running_loop().call_later(PACE * request_cost(request), self._serve)
        try:
            if isinstance(request, Unbind):
                self.holdings.unbind(request.lease)
            else:
                self.holdings.bind(
                    self.identity,
                    request,
                    is_leaving=self.is_leaving,
                    is_resumed=self._is_resumed,
                    points_here=points_here,
                )
        except ProtocolError as error:
            self._stop_waiting()
            self.session.close(SessionCode.PROTOCOL, str(error))

    def _too_slow(self) -> None:
        self.session.close(SessionCode.TOO_SLOW)


def _superseded_code(version: int) -> SessionCode:
    return SessionCode.SUPERSEDED if version >= 2 else SessionCode.REPLACED
