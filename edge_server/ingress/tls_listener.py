"""The TLS listener: reads a visitor's ClientHello, asks for its route, and starts or refuses its handshake.

``loop.create_server`` calls a :class:`TlsListener` for each accepted connection. Names are resolved by ``route``,
which returns a :class:`Route`, or for a refusal an alert or :data:`OVERLOADED`. Nothing that a visitor sends
raises or logs here; :attr:`TlsListener.outcomes` counts the results.

Each new connection holds one of a bounded number of places, from accept until its handshake is complete or its
socket is closed. :mod:`edge_server.resources.fair_places` chooses which one is evicted when there are too few.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from edge_server.ingress import plain_http
from edge_server.ingress.client_hello import Alert, ClientHello, ClientHelloReader, HelloError
from edge_server.ingress.plain_http import Request, RequestError, RequestReader
from edge_server.resources.descriptor_budget import MAX_HANDSHAKES
from edge_server.resources.fair_places import FairPlaces
from quictunnel.transport import descriptors
from quictunnel.transport.lingering_close import LingeringClose
from quictunnel.transport.tcp import reset
from quictunnel.transport.tls_records import Bios, TlsRecords
from quictunnel.transport.tls_transport import TlsTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from edge_server.resources.descriptor_budget import ShortageLog

CLIENT_HELLO_TIMEOUT: Final = 5.0
"""Seconds from accept to a complete ClientHello: one flight, which honest clients send at once."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake, four flights over a very bad link; it holds about 40 KiB and a socket."""

PROTECTED_TIME: Final = 1.0
"""Seconds for which a new connection is protected from eviction by others for the same token (or, like it, still
without one), if it is the only one of its network (a /24, a /48): two flights over a bad link."""


@dataclass(frozen=True, slots=True)
class Route:
    """The destination of a visitor: certificate and ALPN for the handshake, and the protocol that is created after
    it. Without a context TLS is passed through, and the protocol gets the bytes as they came."""

    context: ssl.SSLContext | None
    factory: Callable[[], asyncio.Protocol | Passthrough]
    owner: str = ""
    """Key of the token whose tunnel it is; together with the tunnel it determines the share of the places."""
    tunnel_name: str = ""
    leads_to_tunnel: bool = True
    """False if the protocol only says that there is no tunnel; the visitor is then counted as refused."""
    on_failed: Callable[[], None] = lambda: None
    """Called if the handshake fails."""


class ListenerConnection(Protocol):
    """A connection that holds one of the listener's places."""

    def evict(self) -> None:
        """Reset the connection, because its place was evicted."""

    def abort(self) -> None:
        """Reset the connection."""


class Passthrough(Protocol):
    """A protocol that takes over a visitor after its first bytes were read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with a paused transport."""

    def received(self, data: bytes) -> None:
        """Take the bytes that were read before."""


class Overload(enum.Enum):
    """The refusal while there are too many visitors: a reset, which costs the least."""

    OVERLOADED = enum.auto()


OVERLOADED: Final = Overload.OVERLOADED

RouteResult = Route | Alert | Overload


@dataclass(frozen=True, slots=True)
class RedirectTarget:
    """The base URL to which a visitor without TLS is redirected: ``https://name``, with the port unless it is
    443."""

    url: str
    owner: str = ""
    tunnel_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds for each step; each starts where the previous one ended."""

    hello: float = CLIENT_HELLO_TIMEOUT
    handshake: float = HANDSHAKE_TIMEOUT


class HandshakeOutcome(enum.Enum):
    """Result of a new TLS connection. A fixed set, so that the counters are bounded.

    The value is the label in metrics. Some labels are older than the names here, and stay because dashboards and
    alerts select them.
    """

    ACCEPTED = "welcome"
    """The handshake is complete, or TLS is passed through."""
    REFUSED = "refused"
    """An alert or an error page: no tunnel serves the visitor."""
    BAD_HELLO = "bad_hello"
    """The ClientHello is malformed."""
    NOT_TLS = "not_tls"
    PLAIN_HTTP = "plain_http"
    """HTTP without TLS."""
    REDIRECTED = "redirected"
    """HTTP without TLS, for an existing tunnel."""
    TIMED_OUT = "slow"
    VISITOR_CLOSED = "left"
    """The visitor disconnected or failed the handshake, or the edge stopped."""
    OVERLOADED = "crowded"
    """Refused at the rate limit, or evicted at capacity."""
    BANNED = "banned"
    """From a banned address."""


class TlsListener:
    """The pending connections of one listening port, on one event loop.

    ``route`` is called once for each well-formed ClientHello, with or without a name, and with the visitor's
    address.
    """

    def __init__(
        self,
        route: Callable[[ClientHello, str], RouteResult],
        *,
        redirect_target: Callable[[str, str], RedirectTarget | Overload | None] = lambda _name, _address: None,
        loop: asyncio.AbstractEventLoop | None = None,
        deadlines: Deadlines | None = None,
        max_pending: int = MAX_HANDSHAKES,
        is_banned: Callable[[str], bool] = lambda _: False,
        shortage: ShortageLog | None = None,
    ) -> None:
        """Start without connections.

        Args:
            route: resolves a ClientHello and an address.
            redirect_target: resolves the host name and the address of a visitor without TLS; None where the name
                is not served.
            loop: by default the running one.
            deadlines: of the handshake.
            max_pending: connections in their handshake at once.
            is_banned: returns True for an address from which no visitor is admitted.
            shortage: logs evictions.
        """
        self.route = route
        self.redirect_target = redirect_target
        self.loop = loop or asyncio.get_running_loop()
        self.deadlines = deadlines or Deadlines()
        self.is_banned = is_banned
        self.shared_bios = Bios()
        self.outcomes: Counter[HandshakeOutcome] = Counter()
        self.pending: FairPlaces[ListenerConnection] = FairPlaces(
            max_pending, protected_for=PROTECTED_TIME, clock=self.loop.time
        )
        """Connections before the end of their handshake, and those that are being closed or get an error page;
        empty once the listener is idle."""
        self._shortage = shortage

    def __call__(self) -> asyncio.Protocol:
        """Return a protocol for one accepted connection."""
        return PendingConnection(self)

    def acquire(self, connection: ListenerConnection, address: str) -> None:
        """Take a place; if there is none, evict a connection of the network or token that has the most: perhaps
        the new one itself."""
        evicted = self.pending.acquire(connection, address)
        if evicted is not None:
            evicted.evict()
            if self._shortage is not None:
                self._shortage.report(
                    "TLS handshake capacity is exhausted, one handshake was aborted", self._describe_places
                )

    def close_with_alert(self, raw: asyncio.Transport, alert: bytes) -> None:
        """Take over a visitor whose TLS failed after its handshake: send the alert and close."""
        ClosingConnection(self, raw, alert)

    def abort(self) -> None:
        """Reset all connections that hold a place, also those that are being closed or get an error page. Visitors
        of a tunnel hold none: they belong to their protocols."""
        for connection in self.pending:
            connection.abort()

    def _describe_places(self) -> str:
        network, count = self.pending.largest_network()
        return f"{network} holds {count} of {self.pending.limit}"


class ClosingConnection:
    """A visitor past its handshake, whose socket stays open until the visitor has read an alert."""

    __slots__ = ("_listener", "_raw")

    def __init__(self, listener: TlsListener, raw: asyncio.Transport, alert: bytes) -> None:
        """Take a place in ``listener`` and send ``alert``."""
        self._listener = listener
        self._raw = raw
        LingeringClose(raw, alert, loop=listener.loop, on_closed=self._on_closed)
        listener.acquire(self, peer_address(raw))

    def evict(self) -> None:
        """Reset the connection, because its place was evicted."""
        reset(self._raw)

    abort = evict

    def _on_closed(self) -> None:
        self._listener.pending.release(self)


class PendingConnection(asyncio.Protocol):
    """A visitor from accept to the end of its handshake."""

    __slots__ = ("_address", "_hello", "_listener", "_outcome", "_raw", "_reader", "_request", "_route", "_timer")

    _raw: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, listener: TlsListener) -> None:
        """Start before the connection is made."""
        self._listener = listener
        self._reader = ClientHelloReader()
        self._hello: ClientHello | None = None
        self._request: RequestReader | None = None
        """Parser for a visitor that does not speak TLS."""
        self._outcome = HandshakeOutcome.VISITOR_CLOSED
        self._route: Route | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place and start the deadline; reset a banned address."""
        # uvloop's transports are asyncio's by behaviour, not by class.
        transport = cast("asyncio.Transport", transport)
        listener = self._listener
        self._raw = transport
        self._address = peer_address(transport)
        descriptors.set_close_on_fork(transport.get_extra_info("socket"))
        self._timer = listener.loop.call_later(listener.deadlines.hello, self._on_timeout)
        if listener.is_banned(self._address):
            self._outcome = HandshakeOutcome.BANNED
            reset(transport)
        else:
            listener.acquire(self, self._address)

    def data_received(self, data: bytes) -> None:
        """Parse the ClientHello or the plain HTTP request."""
        if self._raw.is_closing():
            return  # the connection was reset after these bytes had been read
        if self._request is not None:
            self._read_request(self._request, data)
            return
        try:
            outcome = self._reader.feed(data)
        except HelloError as error:
            if error.alert is None:
                self._outcome = HandshakeOutcome.NOT_TLS
                reset(self._raw)
            else:
                self._refuse(HandshakeOutcome.BAD_HELLO, _alert_record(error.alert))
            return
        if outcome is None:
            return
        if isinstance(outcome, ClientHello):
            self._hello = outcome
            self._timer.cancel()
            self._apply_route(self._listener.route(outcome, self._address))
        else:
            self._request = RequestReader()
            self._read_request(self._request, self._reader.received)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Give the place back."""
        descriptors.clear_close_on_fork(self._raw.get_extra_info("socket"))
        self._leave_listener()

    def abort(self) -> None:
        """Reset the connection."""
        reset(self._raw)

    def evict(self) -> None:
        """Reset the connection, because the edge is overloaded: at its rate limit, or its place was evicted."""
        self._outcome = HandshakeOutcome.OVERLOADED
        reset(self._raw)

    def _read_request(self, reader: RequestReader, data: bytes | bytearray) -> None:
        try:
            request = reader.feed(data)
        except RequestError:
            self._refuse(HandshakeOutcome.PLAIN_HTTP, plain_http.BAD_REQUEST)
            return
        if request is not None:
            self._redirect(request)

    def _redirect(self, request: Request) -> None:
        target = self._listener.redirect_target(request.host, self._address)
        if target is None:
            self._refuse(HandshakeOutcome.PLAIN_HTTP, plain_http.BAD_REQUEST)
        elif isinstance(target, Overload):
            self.evict()
        else:
            self._listener.pending.assign(self, owner=target.owner, tunnel_name=target.tunnel_name)
            self._refuse(
                HandshakeOutcome.REDIRECTED, plain_http.redirect(target.url, request), may_be_uploading=True
            )

    def _apply_route(self, answer: RouteResult) -> None:
        if isinstance(answer, Alert):
            self._refuse(HandshakeOutcome.REFUSED, _alert_record(answer))
            return
        if answer is OVERLOADED:
            self.evict()
            return
        listener = self._listener
        assert self._hello is not None
        listener.pending.assign(self, owner=answer.owner, tunnel_name=answer.tunnel_name)
        self._route = answer
        if answer.context is None:
            self._pass_through(cast("Passthrough", answer.factory()))
            return
        tls = TlsTransport(
            self._raw,
            TlsRecords(answer.context, listener.shared_bios),
            cast("Callable[[], asyncio.Protocol]", answer.factory),
            loop=listener.loop,
            server_name=self._hello.server_name,
            on_handshake_done=self._handshake_done,
            close_with_alert=listener.close_with_alert,
        )
        self._timer = listener.loop.call_later(listener.deadlines.handshake, self._on_timeout)
        tls.begin(self._reader.received)

    def _pass_through(self, protocol: Passthrough) -> None:
        # Paused, because uvloop chooses how it reads when reading starts.
        self._raw.pause_reading()
        self._raw.set_protocol(cast("asyncio.BaseProtocol", protocol))
        self._handshake_done(complete=True)
        protocol.connection_made(self._raw)
        self._raw.resume_reading()
        protocol.received(bytes(self._reader.received))

    def _handshake_done(self, complete: bool) -> None:
        assert self._route is not None, "a handshake has a route"
        if not complete:
            self._route.on_failed()
        elif self._route.leads_to_tunnel:
            self._outcome = HandshakeOutcome.ACCEPTED
        else:
            self._outcome = HandshakeOutcome.REFUSED
        self._leave_listener()

    def _refuse(self, outcome: HandshakeOutcome, response: bytes, *, may_be_uploading: bool = False) -> None:
        self._outcome = outcome
        self._timer.cancel()
        LingeringClose(
            self._raw,
            response,
            loop=self._listener.loop,
            on_closed=self._leave_listener,
            may_be_uploading=may_be_uploading,
        )

    def _on_timeout(self) -> None:
        self._outcome = HandshakeOutcome.TIMED_OUT
        reset(self._raw)

    def _leave_listener(self) -> None:
        self._timer.cancel()
        self._listener.pending.release(self)
        self._listener.outcomes[self._outcome] += 1


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the address of the peer; empty if it has disconnected already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def _alert_record(alert: Alert) -> bytes:
    """Return a fatal alert in plaintext, as it is before any key (RFC 8446 sections 5.1 and 6)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
