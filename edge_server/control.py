"""One client at the edge: greeted, authorised, given leases.

A :class:`Guest` lives as long as its session. Before its token has been checked it may say one Hello, on one
stream, within a deadline; everything else ends it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.leases import Lease
from edge_server.tickets import Ticket
from quictunnel.errors import ProtocolError
from quictunnel.transport.engine import LOST, CloseCause, Closed
from quictunnel.transport.session import Session
from quictunnel.version import SOFTWARE
from quictunnel.wire.codes import PROTOCOL_VERSION, BindCode, SessionCode
from quictunnel.wire.control import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import AnyMessage, Bind, BindRefused, Bound, GoAway, Hello, Unbind, Unbound, Welcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_server.admission import Admission
    from edge_server.certificates import Certificates
    from edge_server.expected import Expected
    from edge_server.leases import Registry
    from edge_server.ports import Ports
    from edge_server.rights.attempts import Attempts
    from edge_server.rights.identity import Identity
    from edge_server.rights.tokens import Tokens
    from edge_server.sessions import Sessions
    from edge_server.tickets import Sealer
    from quictunnel.transport.engine import Connection
    from quictunnel.transport.link import Link
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

HELLO_TIMEOUT: Final = 5.0
"""Seconds from the end of the QUIC handshake to a good Hello: one round trip for an honest client."""
MAX_LEASES: Final = 100
"""Leases of one session; a container with more services than this is several containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What all guests of one edge share."""

    admission: Admission
    attempts: Attempts
    certificates: Certificates
    domain: str
    expected: Expected
    https_port: int
    ports: Ports
    registry: Registry
    sealer: Sealer
    sessions: Sessions
    tcp_host: str
    tokens: Tokens


class Guest:
    """See the module (a transport.session.SessionEvents)."""

    def __init__(
        self, house: House, connection: Connection, wake: Callable[[], None], on_gone: Callable[[Guest], None]
    ) -> None:
        self.session = Session(Side.EDGE, self, wake)
        self.session.link.attach(connection)
        self.identity: Identity | None = None
        self.leases: dict[int, Lease] = {}
        self.is_leaving = False
        self.digest = b""
        """Of the session's secret; see ``sessions``."""
        self._house = house
        self._is_resumed = False
        self._on_gone = on_gone
        self._binds: set[asyncio.Task[None]] = set()
        self._deadline = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._too_slow)

    @property
    def peer(self) -> str:
        return str(self.session.link.connection.address[0])

    def go_away(self, grace: float) -> None:
        """Announce the end: no new visitors from now on, except those who are at the door already."""
        self.is_leaving = True
        for lease in self.leases.values():
            lease.stop_listening()
        if self.session.is_away:
            self.give_up()
        elif self.identity is None:
            self.session.close(SessionCode.GOING_AWAY)
        else:
            self.session.say(GoAway(int(grace)))

    def check_rights(self) -> None:
        """Tokens have changed, or time has passed: hold to what this client may do now, or end it."""
        if self.identity is None:
            return
        current = self._house.tokens.current(self.identity)
        if current is None:
            logger.info("client %s is ended: its token is not good any more", self.identity.key)
            if self.session.is_away:
                self.session.end(Closed(CloseCause.LOCAL, SessionCode.UNAUTHORIZED, ""))
            else:
                self.session.close(SessionCode.UNAUTHORIZED)
        elif current != self.identity:
            self.identity = current
            for lease in self.leases.values():
                lease.max_visitors = current.rights.visitors

    def give_up(self) -> None:
        """The session was without a link for too long."""
        logger.info("client %s did not come back", self.identity.key if self.identity else "")
        self.session.end(Closed(CloseCause.TIMEOUT, 0, ""))

    # From the session (transport.session.SessionEvents).

    def session_up(self) -> None:
        """The handshake is done; the Hello is the client's to say."""

    def session_message(self, message: AnyMessage) -> None:
        match message:
            case Hello():
                self._greet(message)
            case Bind():
                self._bind(message)
            case Unbind(lease=number):
                self._unbind(number)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def session_stream(self, stream: Stream) -> None:  # noqa: ARG002 - refused whatever it is
        raise ProtocolError("only an edge opens streams for visitors")

    def session_streams_available(self) -> None:
        """Visitors are refused at once when the client allows no more streams; none waits."""

    def session_resumed(self) -> None:
        logger.info("client %s goes on from %s", self.identity.key if self.identity else "", self.peer)
        for lease in self.leases.values():
            lease.client_is_back()

    def session_away(self, closed: Closed) -> bool:
        # A client that closed a link before it said how it stands does not know that its session is there.
        is_left = closed.cause is CloseCause.PEER and self.session.is_awaiting_standing
        is_lost = closed.cause in LOST or is_left
        if self.identity is None or self.is_leaving or not is_lost or not self._house.sessions.hold:
            return False
        logger.info("client %s from %s is away: %s", self.identity.key, self.peer, closed.cause.value)
        self._house.sessions.leave(self)
        return True

    def session_down(self, closed: Closed) -> None:
        self._deadline.cancel()
        self._house.sessions.remove(self)
        for number in tuple(self.leases):
            self._release(number)
        if self.identity is not None:
            logger.info("client %s from %s left: %s", self.identity.key, self.peer, closed.cause.value)
        else:
            logger.info("a client from %s left without a good token: %s", self.peer, closed.cause.value)
        self._on_gone(self)

    # The dialogue.

    def _greet(self, hello: Hello) -> None:
        identity = self._recognise(hello.token)
        if identity is None:
            self.session.close(SessionCode.UNAUTHORIZED)
            return
        if hello.version < PROTOCOL_VERSION:
            self.session.close(SessionCode.VERSION)
            return
        self._deadline.cancel()
        sessions = self._house.sessions
        self.session.link.connection.admit()
        other = sessions.find(hello.session) if hello.session else None
        if other is not None and not other.is_leaving and other.is_of(identity):
            other.go_on(self.session.link, hello.session)
            self._on_gone(self)
            return
        self.identity = identity
        self.session.peer_window = hello.window
        self._welcome(sessions.add(self), resumed=False)
        software = "".join(character for character in hello.software if character.isprintable())
        logger.info("client %s from %s is here (%s)", identity.key, self.peer, software)

    def _recognise(self, token: str) -> Identity | None:
        """Whose token that is. Of addresses that have shown too many wrong ones it is not looked at."""
        tokens, attempts = self._house.tokens, self._house.attempts
        key = tokens.is_known(token)
        if not attempts.may_try(self.peer, key):
            logger.warning("a client from %s was refused: too many wrong tokens", self.peer)
            return None
        identity = tokens.check(token)
        if identity is None:
            attempts.was_wrong(self.peer, key)
            logger.warning("a client from %s was refused: wrong token%s", self.peer, f" of {key}" if key else "")
        return identity

    def is_of(self, identity: Identity) -> bool:
        """Whether this is a client of that identity."""
        return self.identity is not None and self.identity.key == identity.key

    def go_on(self, link: Link, secret: bytes) -> None:
        """The client is back on another link, whose greeting showed the secret."""
        self._house.sessions.come_back(self)
        self._is_resumed = True
        self.session.resume(link, self)
        self._welcome(secret, resumed=True)
        self.session.stand()

    def _welcome(self, secret: bytes, *, resumed: bool) -> None:
        hold = int(self._house.sessions.hold)
        self.session.say(
            Welcome(PROTOCOL_VERSION, INITIAL_WINDOW, MAX_LEASES, SOFTWARE, secret, resumed=resumed, hold=hold)
        )

    def _too_slow(self) -> None:
        self.session.close(SessionCode.TOO_SLOW)

    def _bind(self, bind: Bind) -> None:
        held = self.leases.get(bind.lease)
        if held is not None:
            # Asked again, because the answer was lost with a link.
            if not self._is_resumed:
                raise ProtocolError("a lease number was used twice")
            self._confirm(held)
            return
        assert self.identity is not None
        house = self._house
        code = self._objection(bind, self.identity)
        if code is not None:
            self.session.say(BindRefused(bind.lease, code))
            return
        ticket = house.sealer.open(bind.ticket, self.identity.key) if bind.ticket else None
        name = house.registry.fresh_name() if ticket is None else ticket.name
        ghost = house.registry.find(name)
        code = self._objection_to(name, ghost, ticket, bind)
        if code is not None:
            self.session.say(BindRefused(bind.lease, code))
            return
        rights = self.identity.rights
        sock = self._evict(ghost) if ghost is not None else None
        lease = Lease(
            self.session,
            bind.lease,
            name,
            h2=bind.h2,
            owner=self.identity.key,
            admission=house.admission,
            # By what was shown and not by what is held: a client that dies each time before it has kept the answer
            # would else fall behind and be locked out.
            generation=1 + (ticket.generation if ticket else 0),
        )
        lease.max_visitors = rights.visitors
        if bind.unencrypted:
            sock = self._public_socket(sock, 0 if ticket is None else ticket.port, rights.tcp_ports)
            if sock is not None:
                self._listen(lease, sock)
        elif sock is not None:
            sock.close()  # asked for again without its port
        if bind.unencrypted and sock is None:
            self.session.say(BindRefused(bind.lease, BindCode.NO_PORT))
        else:
            self.leases[bind.lease] = lease
            house.registry.add(lease)
            self._confirm(lease)
            if ghost is not None:
                lease.take_over(ghost)
        if ghost is not None:
            self._dismiss(ghost)

    def _objection(self, bind: Bind, identity: Identity) -> BindCode | None:
        if self.is_leaving:
            return BindCode.CLOSING
        if bind.h2 and bind.unencrypted:
            return BindCode.INVALID
        if bind.unencrypted and not identity.rights.allows_ports:
            return BindCode.FORBIDDEN
        if len(self.leases) >= MAX_LEASES:
            return BindCode.TOO_MANY
        return None

    def _objection_to(self, name: str, ghost: Lease | None, ticket: Ticket | None, bind: Bind) -> BindCode | None:
        """As above, once it is known which name it would be and who has it now."""
        assert self.identity is not None
        house, key = self._house, self.identity.key
        if bind.h2 and not house.certificates.h2_allowed(f"{name}.{house.domain}"):
            return BindCode.H2_FORBIDDEN
        if ghost is not None and ticket is not None and ghost.is_newer_than(ticket.generation):
            logger.info("client %s showed an old ticket of %s", key, name)
            return BindCode.STALE
        others = house.registry.held_by(key) - (ghost is not None)
        return None if self.identity.rights.allows_tunnel_beside(others) else BindCode.TOO_MANY

    def _public_socket(
        self, kept: socket.socket | None, wanted: int, allowed: range | None
    ) -> socket.socket | None:
        """That of the lease before, unless its port is not allowed any more; else another one."""
        if kept is not None and (allowed is None or kept.getsockname()[1] in allowed):
            return kept
        if kept is not None:
            kept.close()
        return self._house.ports.bind(wanted, allowed)

    def _listen(self, lease: Lease, sock: socket.socket) -> None:
        lease.hold(sock)
        task = asyncio.create_task(lease.listen())
        self._binds.add(task)
        task.add_done_callback(self._binds.discard)

    def _evict(self, ghost: Lease) -> socket.socket | None:
        """The owner is back while its old session still looks alive here, or for the first time since this edge
        took over: the new one wins at once, and gets the listening socket as it is."""
        if ghost.session is self.session:
            raise ProtocolError("one ticket was used for two leases")
        sock = ghost.keep_socket()
        ghost.stop_listening()
        ghost.tcp_port = 0  # its port is not free: it has moved on
        self._house.registry.remove(ghost)
        return sock

    def _dismiss(self, ghost: Lease) -> None:
        ghost.close()
        session = ghost.session
        if session is None:
            self._house.expected.claim(ghost)
            return
        logger.info("client %s took %s over from its older session", ghost.owner, ghost.name)
        if session.is_away:
            session.end(Closed(CloseCause.LOCAL, SessionCode.REPLACED, ""))
        else:
            session.close(SessionCode.REPLACED)

    def _confirm(self, lease: Lease) -> None:
        house = self._house
        host = f"{lease.name}.{house.domain}"
        self.session.say(
            Bound(
                lease=lease.number,
                host=host,
                port=house.https_port,
                unencrypted_host=house.tcp_host if lease.tcp_port else "",
                unencrypted_port=lease.tcp_port,
                ticket=house.sealer.seal(Ticket(lease.name, lease.tcp_port, lease.owner, lease.generation)),
            )
        )
        logger.info(
            "client %s holds %s%s", lease.owner, host, f" and port {lease.tcp_port}" * bool(lease.tcp_port)
        )

    def _unbind(self, number: int) -> None:
        # The client may be giving up a lease that was refused, or is confirmed at this very moment.
        if number in self.leases:
            self._release(number)
        self.session.say(Unbound(number))

    def _release(self, number: int) -> None:
        lease = self.leases.pop(number)
        lease.close()
        self._house.registry.remove(lease)
        if lease.tcp_port:
            self._house.ports.release(lease.tcp_port)
        logger.info("%s.%s is free", lease.name, self._house.domain)
