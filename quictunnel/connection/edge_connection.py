"""QUIC connection of a client to an edge, from the first datagram to its end.

Opens the connection, exchanges Hello and Welcome, and passes messages and streams on to its owner, the connection
manager, which dials again after a loss.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.connection.connection_errors import explain, with_source
from quictunnel.connection.edge_identity import certificate_error
from quictunnel.errors import EdgeUnavailableError, Error, ProtocolError
from quictunnel.shared import unpatched
from quictunnel.shared.event_loop import in_thread
from quictunnel.shared.version import SOFTWARE
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import Closed, EngineSettings
from quictunnel.transport.engines import create_engine
from quictunnel.transport.qlog import tracer_of
from quictunnel.transport.session import Session
from quictunnel.transport.udp import UdpSocket, wildcard
from quictunnel.wire.codes import ALPN, OLDEST_VERSION, PROTOCOL_VERSION, SessionCode
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import AnyMessage, GoAway, Hello, Welcome

if TYPE_CHECKING:
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address, Engine
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 0.5
"""Seconds in which the closing packets of a connection may still be retransmitted."""


class EdgeConnectionOwner(Protocol):
    """Interface through which a connection passes on what happens: the connection manager implements it."""

    @property
    def is_closed(self) -> bool:
        """True if no other connection follows, so that a session whose secret was sent ends."""

    def connection_message(self, connection: EdgeConnection, message: AnyMessage) -> None:
        """Handle a message after the Welcome that is not about streams. May raise ProtocolError."""

    def connection_stream(self, stream: Stream) -> None:
        """Serve a visitor. May raise ProtocolError."""

    def start_resuming(self, connection: EdgeConnection) -> bytes | None:
        """Reserve the saved session, whose link is lost or suspect, for this connection, and return its secret.

        Called when the handshake is complete. Empty for a new session; None if another connection has claimed the
        secret."""

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Handle a connection that ended, or was closed, before it was activated."""

    def session_to_resume(self, connection: EdgeConnection) -> Session:
        """Return the session whose secret this connection has sent: the edge resumes it on this link. Raises
        ProtocolError if there is none."""

    def connection_usable(self, connection: EdgeConnection) -> None:
        """Handle that the session may be used: a new one at once, a resumed one when both sides know where each
        stream continues. May be called before ``greet`` returns."""

    def connection_away(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Return True to keep the session, whose link was lost, for another connection."""

    def connection_ended(self, connection: EdgeConnection, error: Error) -> None:
        """Handle the end of the session; called only after :meth:`EdgeConnection.activate`."""


class EdgeConnection:
    """QUIC connection to one address of an edge.

    Raises OSError or an Error when it cannot start; nothing stays open then."""

    def __init__(self, config: ClientConfig, owner: EdgeConnectionOwner, address: Address) -> None:
        self._config = config
        self._owner = owner
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the Welcome has arrived or the connection has failed."""
        self._is_active = False
        """True if the owner uses this connection and is to be notified of its end."""
        self.welcome: Welcome | None = None
        """The edge's answer to Hello."""
        self.link_lost = asyncio.Event()
        """Set when the link is down."""
        self.is_usable = False
        """True if the session can be used: it is new, or both sides know where each stream continues."""
        self.address = address
        """Address of the edge."""
        self.grace: int | None = None
        """Seconds that visitors have to finish, if the edge has sent GoAway."""
        self._acked_before_ping = 0
        """Packets that the edge had acknowledged when the last ping was sent."""
        self._end: Error | None = None
        self._has_sent_secret = False
        """True once the secret of a session was sent: the edge may resume it although its answer is lost."""
        udp = UdpSocket.bind(wildcard(address))
        try:
            engine = _client_engine(config, udp.largest_datagram)
            self.engine = engine.name
            self._endpoint = Endpoint(engine, udp)
            if config.qlog is not None:
                self._endpoint.trace(tracer_of(config.qlog))
            self.session = Session(Side.CLIENT, self, self._endpoint.schedule_transmit)
            self._link = self.session.link
            connection = self._endpoint.connect(address, config.address[0], self.session.link)
            self.session.link.attach(connection)
        except BaseException:
            udp.close()
            raise

    async def greet(self) -> None:
        """Wait for the edge's Welcome. Call :meth:`activate` or :meth:`close` afterwards.

        Raises AuthError, ConfigError or EdgeUnavailableError. The connection is closed then, and when this is
        cancelled."""
        try:
            await self._greeted
            if self._end is not None:
                raise self._end  # it ended in the same batch of packets as the Welcome
        except BaseException:
            await self.close()
            raise

    def activate(self) -> None:
        """Use this connection from now on. Raises the Error with which it has ended since the Welcome; a session
        that it was to resume is kept then."""
        if self._end is not None:
            raise self._end
        self._is_active = True

    @property
    def has_received(self) -> bool:
        """True if the edge has sent anything at all."""
        return self.session.stats().bytes_received > 0

    async def close(self) -> None:
        """End the session now, unless it has moved to another connection, and close the socket.

        A session that this connection was to resume waits for another one, if this one was never activated and
        another may follow."""
        if self.session.link is self._link:
            # CLOSED ends the session as well, LINK_REPLACED only this link; DONE says that nothing is left to do.
            if self._has_sent_secret and self._owner.is_closed:
                code = SessionCode.CLOSED
            elif self.is_resumed and not self._is_active:
                code = SessionCode.LINK_REPLACED
            else:
                code = SessionCode.DONE
            self.session.close(code)
        await self._endpoint.close(CLOSE_TIMEOUT)

    @property
    def unanswered_for(self) -> float:
        """Seconds since the edge should have acknowledged a packet; 0 if none is outstanding."""
        return self._link.unanswered_for

    def ping(self) -> None:
        """Send a packet that the edge has to acknowledge."""
        if not self._link.is_down:
            self._acked_before_ping = self._link.stats().packets_acked
            self._link.connection.ping()
            self._link.schedule_transmit()

    @property
    def has_answered(self) -> bool:
        """True if the edge has acknowledged a packet since :meth:`ping`."""
        return self._link.stats().packets_acked > self._acked_before_ping

    def mark_suspect(self, seconds: float) -> None:
        """Treat the link as if the edge had not answered for ``seconds`` already, until it answers: the suspension
        of this machine may have ended it."""
        self._link.unanswered_for = max(self._link.unanswered_for, seconds)
        self.ping()

    def rebind(self) -> None:
        """Continue on another UDP socket, with another connection ID. Keep the old one if none can be opened."""
        try:
            udp = UdpSocket.bind(wildcard(self.address))
        except OSError as error:
            logger.warning(
                "cannot open another UDP socket for the connection to the edge, keeping the old one: %s",
                error.strerror or error,
            )
            return
        self.ping()
        self._endpoint.rebind(udp)

    @property
    def is_resumed(self) -> bool:
        """True if this connection resumes an earlier session."""
        return self.welcome is not None and self.welcome.resumed

    # Called by the session (transport.session.SessionHandler).

    def session_up(self) -> None:
        """Send Hello."""
        secret = self._owner.start_resuming(self)
        if secret is None:
            self.session.close(SessionCode.DONE)
            return
        self._has_sent_secret = bool(secret)
        self.session.send(
            Hello(
                version=PROTOCOL_VERSION,
                token=self._config.token.reveal(),
                window=INITIAL_WINDOW,
                software=SOFTWARE,
                session=secret,
            )
        )

    def session_message(self, message: AnyMessage) -> None:
        """Handle the Welcome; pass on what follows."""
        if isinstance(message, Welcome):
            if not OLDEST_VERSION <= message.version <= PROTOCOL_VERSION:
                raise ProtocolError(
                    f"the edge chose protocol version {message.version}; this client supports {OLDEST_VERSION} to "
                    f"{PROTOCOL_VERSION}"
                )
            self.welcome = message
            if message.resumed:
                # At once, not when ``greet`` returns: the edge's ResumeState follows in the same batch of packets.
                link, self.session = self.session.link, self._owner.session_to_resume(self)
                self.session.resume(link, self)
                self.session.send_resume_state()
            else:
                self.session.peer_window = message.window
                self.is_usable = True
            self.session.version = message.version
            if not self._greeted.done():
                self._greeted.set_result(None)
        else:
            if isinstance(message, GoAway):
                self.grace = message.grace
            self._owner.connection_message(self, message)

    def session_stream(self, stream: Stream) -> None:
        """Pass on a visitor."""
        self._owner.connection_stream(stream)

    def session_streams_available(self) -> None:
        """Do nothing: a client opens no streams."""

    def session_resumed(self) -> None:
        """Notify the owner that the session can be used."""
        self.is_usable = True
        self._owner.connection_usable(self)

    def session_away(self, closed: Closed) -> bool:
        """Return True if the session, whose link is lost, waits for another."""
        self.link_lost.set()
        if self._is_active:
            return self._owner.connection_away(self, closed)
        if self.is_resumed:
            # It had no link before, and keeps waiting for the next one, whatever this link ended for.
            self._fail(EdgeUnavailableError(f"The connection to the edge was lost again: {closed.cause.value}."))
            return True
        return False

    def session_down(self, closed: Closed) -> None:
        """Notify the owner how the session ended."""
        self.link_lost.set()
        error = self._explain(closed)
        if self._is_active:
            self._owner.connection_ended(self, error)
        else:
            self._fail(error)

    def _explain(self, closed: Closed) -> Error:
        untrusted = certificate_error(closed, self._config)
        error = untrusted or explain(closed, self._config.edge, welcome=self.welcome)
        return with_source(error, self._config.source)

    def _fail(self, error: Error) -> None:
        self._end = error
        if not self._greeted.done():
            self._greeted.set_exception(error)


def _client_engine(config: ClientConfig, largest_datagram: int) -> Engine:
    """Return a QUIC engine for one connection to the edge.

    Args:
        config: the client's configuration.
        largest_datagram: bytes of the largest datagram that the socket can send.
    """
    settings = EngineSettings(
        is_server=False,
        alpn=ALPN,
        authority=config.ca,
        pin=config.pin,
        largest_datagram=largest_datagram,
        congestion=config.congestion,
    )
    return create_engine(settings, config.engine)


async def resolve(config: ClientConfig) -> list[Address]:
    """Return the addresses of the edge. Raises EdgeUnavailableError if its name has none."""
    host, port = config.address
    query = partial(unpatched.getaddrinfo, host, port, kind=socket.SOCK_DGRAM, protocol=socket.IPPROTO_UDP)
    try:
        found = await in_thread(query)
    except OSError as error:
        raise EdgeUnavailableError(
            f"The name of the edge, {host}, could not be resolved ({error.strerror or error}).",
            advice="Check the address of the edge (QUICTUNNEL_EDGE, --edge) and this machine's DNS.",
        ) from error
    addresses: list[Address] = []
    for _, _, _, _, address in found:
        if address not in addresses:
            addresses.append(address)
    return addresses
