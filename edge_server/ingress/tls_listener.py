"""Where a TLS visitor comes in: its ClientHello is read, its route asked for, its handshake begun or refused.

A :class:`TlsListener` is what ``loop.create_server`` calls for each accepted connection. It decides nothing about
names: ``route`` does, and answers with a :class:`Route` or with the alert that says why not. Nothing here
raises or logs for anything that a stranger sends; :attr:`TlsListener.outcomes` counts it.

Each newcomer has one of a bounded number of places, from accept until its handshake is complete or its socket
closed, whatever it is doing meanwhile: :mod:`edge_server.resources.fair_places` says who loses one when there are
too few.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from edge_server.ingress import plain_http
from edge_server.ingress.client_hello import Alert, ClientHello, ClientHelloReader, HelloError
from edge_server.ingress.lingering_close import LingeringClose
from edge_server.ingress.plain_http import Request, RequestError, RequestReader
from edge_server.ingress.tls_records import Bios, TlsRecords
from edge_server.ingress.tls_transport import TlsTransport
from edge_server.resources.descriptor_budget import MAX_DOORSTEP
from edge_server.resources.fair_places import FairPlaces
from quictunnel.transport import descriptors
from quictunnel.transport.tcp import reset

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from edge_server.resources.descriptor_budget import ShortageLog

CLIENT_HELLO_TIMEOUT: Final = 5.0
"""Seconds from accept to a complete ClientHello: one flight, which honest clients send at once."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake, four flights over the worst of links; it pins some 40 KiB and a socket."""

PATIENCE: Final = 1.0
"""Seconds that everybody has for the whole handshake, however many others come, each from a network of its own:
two flights over a bad link."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a visitor goes: the certificate and ALPN it is met with, and the protocol made for it after the
    handshake. Without a context TLS does not end here, and the protocol gets what came as it is."""

    context: ssl.SSLContext | None
    factory: Callable[[], asyncio.Protocol | Passthrough]
    owner: str = ""
    """The token whose tunnel it is, and the lease: their visitors have a share of the places."""
    lease: str = ""


class Passthrough(Protocol):
    """Takes a visitor over whose first bytes were read already; a buffered protocol that can be told some."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def received(self, data: bytes) -> None: ...


class Overload(enum.Enum):
    """The answer for one who comes while there are too many: a reset, which costs the least."""

    OVERLOADED = enum.auto()


OVERLOADED: Final = Overload.OVERLOADED

Answer = Route | Alert | Overload


@dataclass(frozen=True, slots=True)
class RedirectTarget:
    """Where a visitor who came without TLS is to come instead: ``https://name`` and the port, if it has to be
    said."""

    url: str
    owner: str = ""
    lease: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds for each step; each begins where the one before ended."""

    hello: float = CLIENT_HELLO_TIMEOUT
    handshake: float = HANDSHAKE_TIMEOUT


class HandshakeOutcome(enum.Enum):
    """How a visitor's arrival ended. A fixed set, so that counting strangers is bounded."""

    WELCOME = "handshake complete"
    REFUSED = "no route"
    BAD_HELLO = "malformed ClientHello"
    NOT_TLS = "not TLS"
    PLAIN_HTTP = "HTTP without TLS"
    REDIRECTED = "HTTP without TLS, for a tunnel that there is"
    SLOW = "took too long"
    LEFT = "went away or failed the handshake"
    CROWDED = "too many newcomers"
    BANNED = "from a banned address"


class TlsListener:
    """One listening port's newcomers, on one event loop.

    ``route`` is called once for each well-formed ClientHello, also for one without a name, with the visitor's
    address.
    """

    def __init__(
        self,
        route: Callable[[ClientHello, str], Answer],
        *,
        origin: Callable[[str, str], RedirectTarget | Overload | None] = lambda _name, _host: None,
        loop: asyncio.AbstractEventLoop | None = None,
        deadlines: Deadlines | None = None,
        max_pending: int = MAX_DOORSTEP,
        admits: Callable[[str], bool] = lambda _: True,
        shortage: ShortageLog | None = None,
    ) -> None:
        """``origin``: where a host name is served over TLS, for a visitor from an address; None where it is not.
        ``admits``: whether anybody may come from an address."""
        self.route = route
        self.origin = origin
        self.loop = loop or asyncio.get_running_loop()
        self.deadlines = deadlines or Deadlines()
        self.admits = admits
        self.bios = Bios()
        self.outcomes: Counter[HandshakeOutcome] = Counter()
        self.pending: FairPlaces[PendingConnection | ClosingConnection] = FairPlaces(
            max_pending, patience=PATIENCE, clock=self.loop.time
        )
        """Everybody who is not welcomed and not gone yet; empty when this front is done."""
        self._shortage = shortage

    def __call__(self) -> asyncio.Protocol:
        return PendingConnection(self)

    def enter(self, who: PendingConnection | ClosingConnection, host: str) -> None:
        """Take a place; where there is none, whoever holds the most of them makes room."""
        loser = self.pending.enter(who, host)
        if loser is not None:
            loser.make_room()
            if self._shortage is not None:
                self._shortage.tell("places for TLS handshakes are scarce, one was cut short", self._tell_places)

    def see_out(self, raw: asyncio.Transport, words: bytes) -> None:
        """Take over a visitor whose TLS broke after its handshake, and who is to be told so."""
        ClosingConnection(self, raw, words)

    def abort(self) -> None:
        """Reset every visitor still on the doorstep; those welcomed belong to their protocols."""
        for newcomer in self.pending:
            newcomer.abort()

    def _tell_places(self) -> str:
        network, held = self.pending.largest_network()
        return f"{network} holds {held} of {self.pending.limit}"


class ClosingConnection:
    """A visitor who was in, and whose socket is open until it has read the last words."""

    __slots__ = ("_front", "_raw")

    def __init__(self, front: TlsListener, raw: asyncio.Transport, words: bytes) -> None:
        self._front = front
        self._raw = raw
        LingeringClose(raw, words, loop=front.loop, on_gone=self._gone)
        front.enter(self, host_of(raw))

    def make_room(self) -> None:
        reset(self._raw)

    abort = make_room

    def _gone(self) -> None:
        self._front.pending.leave(self)


class PendingConnection(asyncio.Protocol):
    """One visitor from accept to the end of its handshake."""

    __slots__ = ("_front", "_hello", "_host", "_outcome", "_raw", "_reader", "_request", "_timer")

    _raw: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, front: TlsListener) -> None:
        self._front = front
        self._reader = ClientHelloReader()
        self._hello: ClientHello | None = None
        self._request: RequestReader | None = None
        """Of one who does not speak TLS."""
        self._outcome = HandshakeOutcome.LEFT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        transport = cast("asyncio.Transport", transport)
        front = self._front
        self._raw = transport
        self._host = host_of(transport)
        descriptors.own(transport.get_extra_info("socket"))
        self._timer = front.loop.call_later(front.deadlines.hello, self._too_slow)
        if front.admits(self._host):
            front.enter(self, self._host)
        else:
            self._outcome = HandshakeOutcome.BANNED
            reset(transport)

    def data_received(self, data: bytes) -> None:
        if self._raw.is_closing():
            return  # it was sent away, and this had been read before
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
            self._follow(self._front.route(outcome, self._host))
        else:
            self._request = RequestReader()
            self._read_request(self._request, self._reader.received)

    def connection_lost(self, _exc: Exception | None) -> None:
        descriptors.disown(self._raw.get_extra_info("socket"))
        self._gone()

    def abort(self) -> None:
        reset(self._raw)

    def make_room(self) -> None:
        """Too many have come."""
        self._outcome = HandshakeOutcome.CROWDED
        reset(self._raw)

    def _read_request(self, reader: RequestReader, data: bytes | bytearray) -> None:
        try:
            request = reader.feed(data)
        except RequestError:
            self._refuse(HandshakeOutcome.PLAIN_HTTP, plain_http.BAD_REQUEST)
            return
        if request is not None:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        origin = self._front.origin(request.host, self._host)
        if origin is None:
            self._refuse(HandshakeOutcome.PLAIN_HTTP, plain_http.BAD_REQUEST)
        elif isinstance(origin, Overload):
            self.make_room()
        else:
            self._front.pending.assign(self, owner=origin.owner, lease=origin.lease)
            self._refuse(HandshakeOutcome.REDIRECTED, plain_http.redirect(origin.url, request), is_upload=True)

    def _follow(self, answer: Answer) -> None:
        if isinstance(answer, Alert):
            self._refuse(HandshakeOutcome.REFUSED, _alert_record(answer))
            return
        if answer is OVERLOADED:
            self.make_room()
            return
        front = self._front
        assert self._hello is not None
        front.pending.assign(self, owner=answer.owner, lease=answer.lease)
        if answer.context is None:
            self._pass_on(cast("Passthrough", answer.factory()))
            return
        tls = TlsTransport(
            self._raw,
            TlsRecords(answer.context, front.bios),
            cast("Callable[[], asyncio.Protocol]", answer.factory),
            loop=front.loop,
            server_name=self._hello.server_name,
            on_shaken=self._shaken,
            see_out=front.see_out,
        )
        self._timer = front.loop.call_later(front.deadlines.handshake, self._too_slow)
        tls.begin(self._reader.received)

    def _pass_on(self, protocol: Passthrough) -> None:
        # Paused, because uvloop chooses how it reads when reading starts.
        self._raw.pause_reading()
        self._raw.set_protocol(cast("asyncio.BaseProtocol", protocol))
        self._shaken(complete=True)
        protocol.connection_made(self._raw)
        self._raw.resume_reading()
        protocol.received(bytes(self._reader.received))

    def _shaken(self, complete: bool) -> None:
        if complete:
            self._outcome = HandshakeOutcome.WELCOME
        self._gone()

    def _refuse(self, outcome: HandshakeOutcome, words: bytes, *, is_upload: bool = False) -> None:
        self._outcome = outcome
        self._timer.cancel()
        LingeringClose(self._raw, words, loop=self._front.loop, on_gone=self._gone, is_upload=is_upload)

    def _too_slow(self) -> None:
        self._outcome = HandshakeOutcome.SLOW
        reset(self._raw)

    def _gone(self) -> None:
        self._timer.cancel()
        self._front.pending.leave(self)
        self._front.outcomes[self._outcome] += 1


def host_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of the other end; empty when it has gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def _alert_record(alert: Alert) -> bytes:
    """A fatal alert in the clear, which is what it is before any key (RFC 8446 sections 5.1 and 6)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
