"""QUIC connection of a client to an edge, from the first datagram to its end.

Finds the edge, greets it, and tells its owner what comes. ``manager`` dials again after a loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import (
    AuthError,
    ConfigError,
    EdgeUnavailableError,
    Error,
    ProtocolError,
)
from quictunnel.shared import unpatched
from quictunnel.shared.address import format_address
from quictunnel.shared.event_loop import in_thread
from quictunnel.shared.version import SOFTWARE
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import CloseCause, Closed, EngineSettings
from quictunnel.transport.engines import create_engine
from quictunnel.transport.qlog import tracer_of
from quictunnel.transport.session import Session
from quictunnel.transport.udp import UdpSocket, wildcard
from quictunnel.wire.codes import ALPN, OLDEST_VERSION, PROTOCOL_VERSION, SESSION_SENTENCES, SessionCode
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import AnyMessage, GoAway, Hello, Welcome

if TYPE_CHECKING:
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.transport.engine import Address
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

GOODBYE: Final = 0.5
"""Seconds in which a closed connection may still repeat its goodbye."""
TCP_PROBE_TIMEOUT: Final = 1.0
"""Seconds to find out whether the host of a silent edge answers at all."""

# TLS alerts about a certificate that was not accepted (RFC 8446 section 6.2), as QUIC carries them (RFC 9001
# section 4.8: 0x100 plus the alert).
_CERTIFICATE_ALERTS: Final = range(0x100 + 42, 0x100 + 49)
_NO_ALPN: Final = 0x100 + 120


class EdgeIdentityError(ConfigError):
    """Another server than the configured edge answers. The first dial gives up for it; a client that was
    connected before dials again, because somebody may be in between for a while, or a certificate late."""


class ConnectionEvents(Protocol):
    """The owner of a dialled session."""

    @property
    def is_closed(self) -> bool:
        """True if no other call follows, so that a session whose secret was shown ends."""

    def connection_message(self, connection: EdgeConnection, message: AnyMessage) -> None:
        """Take in a message after the greeting that is not about streams. May raise ProtocolError."""

    def connection_stream(self, stream: Stream) -> None:
        """Serve a visitor. May raise ProtocolError."""

    def connection_secret(self, connection: EdgeConnection) -> bytes | None:
        """Return the secret of a session that lost its link, now that the handshake is done.

        Empty for a new session; None if another connection is ahead of this one."""

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Note that the edge did not greet."""

    def connection_resumed(self, connection: EdgeConnection) -> Session:
        """Return the session whose secret was shown: the edge goes on with it, on this connection's link."""

    def connection_usable(self, connection: EdgeConnection) -> None:
        """Note that both sides know where the session goes on; before or after ``greet`` returns."""

    def connection_away(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Return True to keep the session, whose link was lost, for another connection."""

    def connection_ended(self, connection: EdgeConnection, error: Error) -> None:
        """Note that the session is over; only after :meth:`EdgeConnection.adopt`."""


class EdgeConnection:
    """QUIC connection to one address of an edge. Raises OSError or an Error when it cannot start; nothing
    stays open then."""

    def __init__(self, config: ClientConfig, events: ConnectionEvents, address: Address) -> None:
        self._config = config
        self._events = events
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._adopted = False
        """Its owner relies on it, and is told of its end."""
        self.welcome: Welcome | None = None
        """The greeting of the edge."""
        self.over = asyncio.Event()
        """The link is down."""
        self.is_usable = False
        """The session may be used: it is new, or both sides know where it goes on."""
        self.address = address
        """Of the edge."""
        self.grace: int | None = None
        """Seconds that visitors have to finish, if the edge has said that it leaves."""
        self._answers = 0
        """Packets that the edge had acknowledged when it was asked for an answer."""
        self._end: Error | None = None
        self._has_shown = False
        """True once the secret of a session was shown: the edge may resume it although its answer is lost."""
        udp = UdpSocket.bind(wildcard(address))
        try:
            settings = EngineSettings(
                is_server=False,
                alpn=ALPN,
                authority=config.ca,
                largest_datagram=udp.largest_datagram,
                congestion=config.congestion,
            )
            engine = create_engine(settings, config.engine)
            self.engine = engine.name
            self._endpoint = Endpoint(engine, udp)
            if config.qlog is not None:
                self._endpoint.trace(tracer_of(config.qlog))
            self.session = Session(Side.CLIENT, self, self._endpoint.wake)
            self._link = self.session.link
            connection = self._endpoint.connect(address, config.address[0], self.session.link)
            self.session.link.attach(connection)
        except BaseException:
            udp.close()
            raise

    async def greet(self) -> None:
        """Wait for the edge's Welcome. Raises AuthError, ConfigError or EdgeUnavailableError; the connection is
        hung up then, as it is when this is cancelled. :meth:`adopt` or :meth:`close` has to follow."""
        try:
            await self._answer
            if self._end is not None:
                raise self._end  # in the same breath as the Welcome
        except BaseException:
            await self.close()
            raise

    def adopt(self) -> None:
        """Use this connection from now on. Raises the Error with which it has ended since the greeting; a session
        that it was to go on with is still there then."""
        if self._end is not None:
            raise self._end
        self._adopted = True

    @property
    def was_heard(self) -> bool:
        """Return True if the edge has sent anything at all."""
        return self.session.stats().bytes_received > 0

    async def close(self) -> None:
        """End the session now, unless it has gone on with another connection, and close the socket.

        A session that was to continue on this connection, which was not adopted, waits for another one if one may
        follow."""
        if self.session.link is self._link:
            if self._has_shown and self._events.is_closed:
                code = SessionCode.CLOSED
            elif self.is_resumed and not self._adopted:
                code = SessionCode.REPLACED
            else:
                code = SessionCode.DONE
            self.session.close(code)
        await self._endpoint.close(GOODBYE)

    @property
    def silence(self) -> float:
        """Seconds for which the edge has owed an answer."""
        return self._link.silence

    def ask(self) -> None:
        """Have the edge say something."""
        if not self._link.is_down:
            self._answers = self._link.stats().packets_acked
            self._link.connection.ping()
            self._link.wake()

    @property
    def has_answered(self) -> bool:
        """Return True if the edge has answered since :meth:`ask`."""
        return self._link.stats().packets_acked > self._answers

    def doubt(self, silence: float) -> None:
        """Count the link as silent for so many seconds until it answers: something happened that it may not
        survive."""
        self._link.silence = max(self._link.silence, silence)
        self.ask()

    def rebind(self) -> None:
        """Go on from another socket, with another connection ID. Where there is none to be had, from the old
        one."""
        try:
            udp = UdpSocket.bind(wildcard(self.address))
        except OSError as error:
            logger.warning("no socket for the connection to move to: %s", error.strerror or error)
            return
        self.ask()
        self._endpoint.rebind(udp)

    @property
    def is_resumed(self) -> bool:
        """Return True if a session that was there before goes on."""
        return self.welcome is not None and self.welcome.resumed

    # From the session (transport.session.SessionEvents).

    def session_up(self) -> None:
        """Greet the edge."""
        secret = self._events.connection_secret(self)
        if secret is None:
            self.session.close(SessionCode.DONE)
            return
        self._has_shown = bool(secret)
        self.session.say(
            Hello(
                version=PROTOCOL_VERSION,
                token=self._config.token.reveal(),
                window=INITIAL_WINDOW,
                software=SOFTWARE,
                session=secret,
            )
        )

    def session_message(self, message: AnyMessage) -> None:
        """Take in the Welcome; pass on what follows."""
        if isinstance(message, Welcome):
            if not OLDEST_VERSION <= message.version <= PROTOCOL_VERSION:
                raise ProtocolError(f"the edge wants to speak version {message.version}")
            self.welcome = message
            if message.resumed:
                # Now and not when the greeting is noticed: how the edge stands follows in the same breath.
                link, self.session = self.session.link, self._events.connection_resumed(self)
                self.session.resume(link, self)
                self.session.send_resume_state()
            else:
                self.session.peer_window = message.window
                self.is_usable = True
            self.session.version = message.version
            if not self._answer.done():
                self._answer.set_result(None)
        else:
            if isinstance(message, GoAway):
                self.grace = message.grace
            self._events.connection_message(self, message)

    def session_stream(self, stream: Stream) -> None:
        """Pass on a visitor."""
        self._events.connection_stream(stream)

    def session_streams_available(self) -> None:
        """A client opens no streams."""

    def session_resumed(self) -> None:
        """Tell the owner that the session may be used."""
        self.is_usable = True
        self._events.connection_usable(self)

    def session_away(self, closed: Closed) -> bool:
        """Return True if the session, whose link is lost, waits for another."""
        self.over.set()
        if self._adopted:
            return self._events.connection_away(self, closed)
        if self.is_resumed:
            # It was away before, and goes on waiting, whatever this link ended for: the next one will tell.
            self._fail(EdgeUnavailableError(f"The connection to the edge was lost again: {closed.cause.value}."))
            return True
        return False

    def session_down(self, closed: Closed) -> None:
        """Tell the owner how the session ended."""
        self.over.set()
        error = self._explain(closed)
        if self._adopted:
            self._events.connection_ended(self, error)
        else:
            self._fail(error)

    def _explain(self, closed: Closed) -> Error:
        return explain(closed, self._config.edge, welcome=self.welcome)

    def _fail(self, error: Error) -> None:
        self._end = error
        if not self._answer.done():
            self._answer.set_exception(error)


def explain(closed: Closed, edge: str, *, welcome: Welcome | None) -> Error:
    """Return why a session ended, as the error that a caller should see.

    ``welcome``: how the edge had greeted, if it had.
    """
    if closed.cause is CloseCause.PEER and closed.code in frozenset(SessionCode):
        code = SessionCode(closed.code)
        sentence = SESSION_SENTENCES[code]
        if code is SessionCode.UNAUTHORIZED:
            return AuthError(refusal_of_token(edge, was_welcome=welcome is not None))
        # An edge of version 1 has one word for a newer link of the session and for a newer session.
        is_superseded = code is SessionCode.REPLACED and welcome is not None and welcome.version < 2
        if is_superseded or code in (SessionCode.SUPERSEDED, SessionCode.ENDED):
            # Dialling again would take the name back, and so on for ever; or undo what the operator has done.
            return Error(f"{sentence} (edge at {edge}; this client gives its tunnels up)")
        if code in (SessionCode.VERSION, SessionCode.BANNED):
            return ConfigError(f"{sentence} (edge at {edge})")
        return EdgeUnavailableError(f"{sentence} (edge at {edge}; the client dials again by itself)")
    if closed.code in _CERTIFICATE_ALERTS and closed.cause in (CloseCause.HANDSHAKE, CloseCause.PROTOCOL):
        return EdgeIdentityError(
            f"The certificate of the edge at {edge} was not accepted. Set QUICTUNNEL_CA to the file with the "
            "authority that issued it (a development edge writes it as ca.pem into its state directory)."
        )
    if closed.code == _NO_ALPN:
        return EdgeIdentityError(
            f"What answers at {edge} is a QUIC server but no edge that speaks {ALPN}; check QUICTUNNEL_EDGE."
        )
    return EdgeUnavailableError(f"The connection to the edge at {edge} ended: {closed.cause.value}.")


def refusal_of_token(edge: str, *, was_welcome: bool) -> str:
    """Return what happened to a token, and what to do. The edge tells nobody which of the reasons it was."""
    if was_welcome:
        return (
            f"The edge at {edge} does not accept the token any more: it has been revoked or has expired. "
            "Ask the edge's operator for another one, and set QUICTUNNEL_TOKEN to it."
        )
    return (
        f"The edge at {edge} refused the token: it is not a token of this edge, or it has been revoked or has "
        "expired. Set QUICTUNNEL_TOKEN to a token of this edge; that of a development edge is in client.env in "
        "its state directory."
    )


async def resolve(config: ClientConfig) -> list[Address]:
    """The addresses of the edge. Raises EdgeUnavailableError when its name has none."""
    host, port = config.address
    ask = partial(unpatched.getaddrinfo, host, port, kind=socket.SOCK_DGRAM, protocol=socket.IPPROTO_UDP)
    try:
        found = await in_thread(ask)
    except OSError as error:
        raise EdgeUnavailableError(
            f"The name of the edge, {host}, could not be resolved ({error.strerror or error}); "
            "check QUICTUNNEL_EDGE and this machine's DNS."
        ) from error
    addresses: list[Address] = []
    for _, _, _, _, address in found:
        if address not in addresses:
            addresses.append(address)
    return addresses


async def silence(config: ClientConfig, seconds: float) -> EdgeUnavailableError:
    """The error for an edge from which nothing came: says whether UDP looks blocked."""
    host, port = config.address
    edge = format_address(host, port)
    verdict = "nothing on that host answers, not even to TCP: is the address right and the edge running?"
    # Whether the host refuses or accepts, it is there.
    with contextlib.suppress(OSError, TimeoutError):
        try:
            async with asyncio.timeout(TCP_PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except ConnectionRefusedError:
            pass
        verdict = (
            "the host itself answers, so either no edge is running on this port (`python -m edge_server` starts "
            "one) or UDP looks blocked on the way."
        )
    return EdgeUnavailableError(f"No answer from the edge at {edge} over UDP within {seconds:.0f} s; {verdict}")
