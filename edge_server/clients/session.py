"""The edge's side of one client's session: authentication, leases, loss of the link and resumption.

A :class:`ClientSession` lives as long as its session. Until its token has been checked, a client may send one
Hello on one stream, within :data:`HELLO_TIMEOUT`; anything else closes the connection.
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
from edge_server.tunnels.bind_policy import MAX_LEASES_PER_SESSION
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
"""Seconds from the end of the QUIC handshake to a valid Hello: a well-behaved client needs one round trip."""
TOKEN_RETRY_DELAY: Final = 1.0
"""Seconds after which an unknown token is checked a second time and then refused: by then the edge has read a
token that was created a moment ago. The delay also slows down guessing of tokens."""
REQUEST_INTERVAL: Final = 0.002
"""Seconds between the start of a request of cost 1 and the next request of the same client; it is multiplied by
the cost of an expensive request. A request takes some tenths of a millisecond, so hundreds of one client do not
delay the others."""


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
    """The session of one client (a transport.session.SessionHandler).

    Ways to end it:

    - :meth:`go_away`: later, because the edge drains; the client dials again first.
    - :meth:`end`: now, with or without a link, with a code and a reason for the client.
    - :meth:`end_superseded`: likewise, and the session cannot be resumed from another link.
    - :meth:`end_without_link`: when no link has come in time, or the session has to make room.

    All of them end in :meth:`session_down`. ``Session.close`` and ``Session.end_if_away`` are the halves of
    :meth:`end`: with a link, and without one."""

    def __init__(
        self,
        context: SessionContext,
        connection: Connection,
        schedule_transmit: Callable[[], None],
        on_closed: Callable[[ClientSession], None],
    ) -> None:
        self.session = Session(Side.EDGE, self, schedule_transmit)
        self.session.link.attach(connection)
        self.identity: Identity | None = None
        self.bindings = Bindings(context.binding, self.session, self.end_superseded)
        self.is_draining = False
        self.since = 0.0
        """Time at which its token was accepted (time.monotonic)."""
        self.software = ""
        """Name and version of the client's software, from its Hello."""
        self.trace: SessionTrace | None = None
        """The operator's trace of this session; None if it is not traced."""
        self._domain_lookup: asyncio.Task[None] | None = None
        """DNS check of the domain in the current request; later requests wait for it."""
        self._requests: deque[Bind | Unbind] = deque()
        """Queued requests."""
        self._is_paced = False
        """True while a request is handled, and until the interval after it has passed."""
        self.digest = b""
        """Digest of the session's secret; set by the session table."""
        self._context = context
        self._is_resumed = False
        self._has_sent_token = False
        self._token_retry: asyncio.TimerHandle | None = None
        """Timer of the second check of an unknown token."""
        self._on_closed = on_closed
        self._deadline = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._too_slow)

    @property
    def peer(self) -> str:
        """Return the client's address."""
        return str(self.session.link.connection.address[0])

    def go_away(self, grace: float) -> None:
        """Announce the end of the session: no new visitors, except those whose TLS handshake has begun."""
        self.is_draining = True
        for lease in self.bindings:
            lease.tunnel.stop_listening()
        if self.session.is_away:
            self.end_without_link("the edge drains")
        elif self.identity is None:
            self.end(SessionCode.GOING_AWAY)
        else:
            self.session.send(GoAway(int(grace)))

    def check_rights(self) -> Identity | None:
        """Apply the current permissions of the client's token; end the session if the token is no longer valid.

        Returns the identity before, if its permissions have changed. The caller then ends the tunnels that the
        token may no longer have (``tunnels.forbidden_tunnels``)."""
        before = self.identity
        if before is None:
            return None
        current = self._context.tokens.current(before)
        if current is None:
            logger.info("the session of client %s is ended: its token is no longer valid", before.key)
            self.end(SessionCode.UNAUTHORIZED, self._context.tokens.end_reason(before.key))
        elif current != before:
            self.identity = current
            self.bindings.apply_permissions_of(current)
            return before
        return None

    def end(self, code: SessionCode, reason: str = "") -> None:
        """End the session now, with or without a link. ``reason``: for the client."""
        self._discard_requests()
        if self.session.is_away:
            self.session.end_if_away(Closed(CloseCause.LOCAL, code, reason))
        else:
            self.session.close(code, reason)

    def end_superseded(self) -> None:
        """End the session for good, because a newer session with the same ticket has taken its name over."""
        self._context.sessions.remember_superseded(self)
        self.end(_superseded_code(self.session.version))

    def end_without_link(self, reason: str) -> None:
        """End the session, which has no link. ``reason``: for the log."""
        self._context.sessions.given_up += 1
        key = self.identity.key if self.identity else ""
        logger.info("the session of client %s is ended without a link: %s", key, reason)
        self.session.end_if_away(Closed(CloseCause.TIMEOUT, 0, ""))

    # From the session (transport.session.SessionHandler).

    def session_up(self) -> None:
        """Do nothing: the handshake is complete, and the client sends its Hello first."""

    def session_message(self, message: AnyMessage) -> None:
        """Handle a message of the client. Raises ProtocolError."""
        match message:
            case Hello():
                self._authenticate(message)
            case Bind() | Unbind():
                self._enqueue(message)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def session_stream(self, stream: Stream) -> None:  # noqa: ARG002 - refused whatever it is
        """Refuse a stream, because only an edge opens them. Raises ProtocolError."""
        raise ProtocolError("only an edge opens streams for visitors")

    def session_streams_available(self) -> None:
        """Do nothing: visitors beyond the client's stream limit are refused at once, so none waits for a
        stream."""

    def session_resumed(self) -> None:
        """Note that the session was resumed on another link."""
        logger.info("client %s resumed its session from %s", self.identity.key if self.identity else "", self.peer)
        self.bindings.session_resumed()

    def session_away(self, closed: Closed) -> bool:
        """Keep the session without a link, or return False to end it."""
        # A client that closed the link before it sent its ResumeState does not know yet that its session was
        # resumed. One that closed it as replaced has given up the link, not the session. One that closed it for
        # good does not return.
        may_return = closed.cause is CloseCause.PEER and closed.code != SessionCode.CLOSED
        was_link_abandoned = may_return and (
            self.session.is_awaiting_resume_state or closed.code == SessionCode.LINK_REPLACED
        )
        is_lost = closed.cause in LOST or was_link_abandoned
        if self.identity is None or self.is_draining or not is_lost or not self._context.sessions.hold:
            return False
        logger.info("client %s from %s lost its connection: %s", self.identity.key, self.peer, closed.cause.value)
        self._context.sessions.link_lost(self)
        return True

    def session_down(self, closed: Closed) -> None:
        """Release everything, because the session is over."""
        self._deadline.cancel()
        self._discard_requests()
        self._context.sessions.remove(self)
        self.bindings.release_all(for_good=closed.cause is CloseCause.PEER)
        if self.identity is not None:
            logger.info("client %s from %s disconnected: %s", self.identity.key, self.peer, closed.cause.value)
        else:
            self._log_stranger(closed)
        self._on_closed(self)

    def _log_stranger(self, closed: Closed) -> None:
        """Log the end of a connection that no token was accepted on.

        A refused token has its own line. Connections of this machine that send none are probes: of a health check,
        of ``quictunnel doctor``, of a client that has connected by another address in the meantime.
        """
        is_expected = self._has_sent_token or self.peer.startswith("127.") or self.peer == "::1"
        logger.log(
            logging.DEBUG if is_expected else logging.INFO,
            "a connection from %s ended without a token: %s",
            self.peer,
            closed.cause.value,
        )

    def _discard_requests(self) -> None:
        """Discard the queued requests, and cancel the DNS check and the second check of the token."""
        self._requests.clear()
        if self._domain_lookup is not None:
            self._domain_lookup.cancel()
        if self._token_retry is not None:
            self._token_retry.cancel()

    # Authentication.

    def _authenticate(self, hello: Hello) -> None:
        """Check the token of a Hello. Addresses with too many failed attempts are refused without a check."""
        self._has_sent_token = True
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
        loop = asyncio.get_running_loop()
        self._token_retry = loop.call_later(TOKEN_RETRY_DELAY, self._check_again, hello, key)

    def _check_again(self, hello: Hello, key: str | None) -> None:
        """Check an unknown token for the second and last time."""
        identity = self._context.tokens.check(hello.token)
        if identity is not None:
            self._context.attempts.withdraw_failure(self.peer, key)
            self._welcome_as(identity, hello)
            return
        reason = self._context.tokens.refusal_reason(hello.token)
        what = f"token {key}: {reason}" if reason else "wrong token" + f" of {key}" * bool(key)
        logger.warning("a client from %s was refused: %s", self.peer, what)
        self.session.close(SessionCode.UNAUTHORIZED, reason)

    def _welcome_as(self, identity: Identity, hello: Hello) -> None:
        """Resume the session that the Hello names, or begin a new one; refuse it if neither is possible."""
        if hello.version < OLDEST_VERSION:
            self.session.close(SessionCode.VERSION)
            return
        self._deadline.cancel()
        sessions = self._context.sessions
        self.session.link.connection.admit()
        other = sessions.find(hello.session) if hello.session else None
        if other is not None and other.may_resume and other.is_of(identity):
            other.resume(self.session.link, hello)
            self._on_closed(self)
            return
        if hello.session and sessions.is_superseded(hello.session, identity.key):
            logger.info("client %s from %s cannot resume: a newer session has its name", identity.key, self.peer)
            self.session.close(_superseded_code(hello.version))
            return
        if not sessions.make_room(identity.key):
            logger.warning(
                "client %s from %s was refused: session limit of its token reached", identity.key, self.peer
            )
            self.session.close(SessionCode.OVERLOADED, sessions.refusal_reason(identity.key))
            return
        self.identity = identity
        self.session.window_pool.memory_share = self._context.memory.share_of(identity.key)
        self.session.peer_window = hello.window
        self.session.version = min(hello.version, PROTOCOL_VERSION)
        self._welcome(sessions.add(self), resumed=False)
        self.since = time.monotonic()
        self.software = hello.software
        logger.info("client %s from %s connected (%s)", identity.key, self.peer, self.software)

    @property
    def may_resume(self) -> bool:
        """Return True if the session may be resumed: this side has not closed it."""
        return not self.is_draining and not self._is_closing

    @property
    def _is_closing(self) -> bool:
        """Return True if this side has closed the session, and its link is not down yet."""
        return self.session.link.is_closing and not self.session.is_away

    def is_of(self, identity: Identity) -> bool:
        """Return True if this client has that identity."""
        return self.identity is not None and self.identity.key == identity.key

    def resume(self, link: Link, hello: Hello) -> None:
        """Resume the session on another link, whose Hello contained the session's secret."""
        self._context.sessions.stop_away_timer(self)
        self._context.sessions.resumed += 1
        self._is_resumed = True
        self.session.resume(link, self)
        self.session.version = min(hello.version, PROTOCOL_VERSION)
        self._welcome(hello.session, resumed=True)
        self.session.send_resume_state()
        if self.trace is not None:
            self.trace.resume()

    def _welcome(self, secret: bytes, *, resumed: bool) -> None:
        assert self.identity is not None, "its token was accepted"
        self.session.send(
            Welcome(
                self.session.version,
                INITIAL_WINDOW,
                MAX_LEASES_PER_SESSION,
                SOFTWARE,
                secret,
                resumed=resumed,
                hold=int(self._context.sessions.hold),
                time=int(time.time()),
                token_ends=min(self.identity.permissions.expires or 0, MAX_TIME),
            )
        )

    # Requests, handled one after the other. The request limit of the identity bounds the queue.

    def _enqueue(self, request: Bind | Unbind) -> None:
        """Queue a request, or end the session if its identity exceeds the request limit."""
        assert self.identity is not None
        if not self._context.requests.try_take(self.identity.key, request_cost(request)):
            logger.warning("client %s from %s exceeds the rate limit for requests", self.identity.key, self.peer)
            self.end(SessionCode.TOO_MANY_REQUESTS)
            return
        self._requests.append(request)
        if not self._is_paced:
            self._serve_next()

    def _serve_next(self) -> None:
        """Handle the next request, if there is one."""
        if self._is_closing:
            self._discard_requests()
        self._is_paced = bool(self._requests)
        if not self._requests:
            return
        request = self._requests.popleft()
        if isinstance(request, Bind) and self._needs_domain_check(request):
            work = self._check_domain(request)
            self._domain_lookup = self._context.supervisor.start(work, "checking where a domain points")
        else:
            self._apply(request)

    def _needs_domain_check(self, bind: Bind) -> bool:
        assert self.identity is not None
        # No DNS query for a domain that is refused anyway, or bound already.
        may = bool(bind.domain) and self.identity.permissions.allows_domain(bind.domain)
        return may and not self.bindings.is_held(bind.lease) and domain_validation_error(bind.domain) is None

    async def _check_domain(self, bind: Bind) -> None:
        assert self.identity is not None
        is_known = self._context.claims.owner(bind.domain) == self.identity.key
        points_here = await self._context.domains.points_here(
            bind.domain, owner=self.identity.key, is_known=is_known
        )
        if not self._is_closing:
            self._apply(bind, points_here=points_here)

    def _apply(self, request: Bind | Unbind, *, points_here: bool = True) -> None:
        """Apply a request, and schedule the next one after the interval."""
        assert self.identity is not None
        asyncio.get_running_loop().call_later(REQUEST_INTERVAL * request_cost(request), self._serve_next)
        try:
            if isinstance(request, Unbind):
                self.bindings.unbind(request.lease)
            else:
                self.bindings.bind(
                    self.identity,
                    request,
                    is_draining=self.is_draining,
                    is_resumed=self._is_resumed,
                    points_here=points_here,
                )
        except ProtocolError as error:
            self._discard_requests()
            self.session.close(SessionCode.PROTOCOL, str(error))

    def _too_slow(self) -> None:
        self.session.close(SessionCode.TOO_SLOW)


def _superseded_code(version: int) -> SessionCode:
    return SessionCode.SUPERSEDED if version >= 2 else SessionCode.LINK_REPLACED
