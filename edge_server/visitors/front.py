"""Where a TLS visitor comes in: its ClientHello is read, its route asked for, its handshake begun or refused.

A :class:`Front` is what ``loop.create_server`` calls for each accepted connection. It decides nothing about
names: ``route`` does, and answers with a :class:`Route` or with the alert that says why not. Nothing here
raises or logs for anything that a stranger sends; :attr:`Front.outcomes` counts it.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from edge_server.visitors.farewell import Farewell, reset
from edge_server.visitors.records import Bios, Records
from edge_server.visitors.sni import Alert, ClientHelloReader, Hello, HelloError
from edge_server.visitors.tls import TlsTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

CLIENT_HELLO_TIMEOUT: Final = 5.0
"""Seconds from accept to a complete ClientHello: one flight, which honest clients send at once."""

ROUTE_TIMEOUT: Final = 10.0
"""Seconds that a route may take to be found, that is, a visitor may wait for a session that is away."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake, four flights over the worst of links; it pins some 40 KiB and a socket."""

MAX_PENDING: Final = 4096
"""Visitors between accept and the end of their handshake. Each holds a socket, up to 16 KiB of ClientHello
and then some 40 KiB of handshake; a flood is cut at about 160 MiB, and 400 newcomers a second with the
slowest of handshakes still fit. When there are so many, the one that has owed its ClientHello for longest
makes room; where nobody has for long, the newcomer is reset."""

PATIENCE: Final = 1.0
"""Seconds that everybody has for the ClientHello, however many others come: two flights over a bad link."""

_HTTPS_PLEASE: Final = b"This port speaks TLS: use https:// instead of http://\n"
_PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_HTTPS_PLEASE), _HTTPS_PLEASE)
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a visitor goes: the certificate and ALPN it is met with, and the protocol made for it after the
    handshake. Without a context TLS does not end here, and the protocol gets what came as it is."""

    context: ssl.SSLContext | None
    factory: Callable[[], asyncio.Protocol | Passing]


class Passing(Protocol):
    """Takes a visitor over whose first bytes were read already; a buffered protocol that can be told some."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def received(self, data: bytes) -> None: ...


class Crowd(enum.Enum):
    """The answer for one who comes while there are too many: a reset, which costs the least."""

    CROWD = enum.auto()


CROWD: Final = Crowd.CROWD

Answer = Route | Alert | Crowd


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds for each step; each begins where the one before ended."""

    hello: float = CLIENT_HELLO_TIMEOUT
    route: float = ROUTE_TIMEOUT
    handshake: float = HANDSHAKE_TIMEOUT


class Outcome(enum.Enum):
    """How a visitor's arrival ended. A fixed set, so that counting strangers is bounded."""

    WELCOME = "handshake complete"
    REFUSED = "no route"
    BAD_HELLO = "malformed ClientHello"
    NOT_TLS = "not TLS"
    PLAIN_HTTP = "HTTP without TLS"
    SLOW = "took too long"
    LEFT = "went away or failed the handshake"
    CROWDED = "too many newcomers"
    BANNED = "from a banned address"


class Front:
    """One listening port's newcomers, on one event loop.

    ``route`` is called once for each well-formed ClientHello, also for one without a name, with the visitor's
    address. It may return a future that nobody else owns: it is awaited with the visitor's socket paused, and
    cancelled when the deadline passes.
    """

    def __init__(
        self,
        route: Callable[[Hello, str], Answer | asyncio.Future[Answer]],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        deadlines: Deadlines | None = None,
        max_pending: int = MAX_PENDING,
        admits: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """``admits``: whether anybody may come from an address."""
        self.route = route
        self.loop = loop or asyncio.get_running_loop()
        self.deadlines = deadlines or Deadlines()
        self.max_pending = max_pending
        self.admits = admits
        self.bios = Bios()
        self.outcomes: Counter[Outcome] = Counter()
        self.pending: set[Newcomer] = set()
        """Everybody who is not welcomed and not gone yet; empty when this front is done."""
        self.silent: dict[Newcomer, float] = {}
        """Those of them who owe their ClientHello, and since when; the oldest first."""

    def __call__(self) -> asyncio.Protocol:
        return Newcomer(self)

    def abort(self) -> None:
        """Reset every visitor still on the doorstep; those welcomed belong to their protocols."""
        for newcomer in tuple(self.pending):
            newcomer.abort()


class Newcomer(asyncio.Protocol):
    """One visitor from accept to the end of its handshake."""

    __slots__ = ("_front", "_future", "_hello", "_outcome", "_raw", "_reader", "_timer")

    _raw: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, front: Front) -> None:
        self._front = front
        self._reader = ClientHelloReader()
        self._hello: Hello | None = None
        self._future: asyncio.Future[Answer] | None = None
        self._outcome = Outcome.LEFT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        transport = cast("asyncio.Transport", transport)
        front = self._front
        self._raw = transport
        self._timer = front.loop.call_later(front.deadlines.hello, self._too_slow)
        crowded = len(front.pending) >= front.max_pending
        front.pending.add(self)
        front.silent[self] = now = front.loop.time()
        if not front.admits(_host_of(transport)):
            self._outcome = Outcome.BANNED
            reset(transport)
        elif crowded:
            oldest, since = next(iter(front.silent.items()))
            (oldest if since <= now - PATIENCE else self).make_room()

    def data_received(self, data: bytes) -> None:
        if self._hello is not None:
            # Read before the pause took hold; the handshake will want it.
            self._reader.received += data
            return
        try:
            outcome = self._reader.feed(data)
        except HelloError as error:
            if error.alert is None:
                self._outcome = Outcome.NOT_TLS
                reset(self._raw)
            else:
                self._refuse(Outcome.BAD_HELLO, _alert_record(error.alert))
            return
        if outcome is None:
            return
        if isinstance(outcome, Hello):
            self._hello = outcome
            self._front.silent.pop(self, None)
            self._timer.cancel()
            self._find_route(outcome)
        else:
            self._refuse(Outcome.PLAIN_HTTP, _PLAIN_HTTP_ANSWER)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._future is not None:
            self._future.cancel()
        self._gone()

    def abort(self) -> None:
        reset(self._raw)

    def make_room(self) -> None:
        """Too many have come."""
        self._outcome = Outcome.CROWDED
        self._front.silent.pop(self, None)  # its end comes a moment later; nobody else is to find it here
        reset(self._raw)

    def _find_route(self, hello: Hello) -> None:
        front = self._front
        answer = front.route(hello, _host_of(self._raw))
        if not isinstance(answer, asyncio.Future):
            self._follow(answer)
            return
        # What it sends meanwhile stays in the kernel, whose buffer is bounded.
        self._raw.pause_reading()
        self._future = answer
        self._timer = front.loop.call_later(front.deadlines.route, self._no_route)
        answer.add_done_callback(self._routed)

    def _routed(self, future: asyncio.Future[Answer]) -> None:
        error = None if future.cancelled() else future.exception()
        if self._future is None or self._raw.is_closing():
            return  # the deadline was first, or the visitor left
        self._future = None
        self._timer.cancel()
        if future.cancelled():
            self._follow(Alert.UNRECOGNIZED_NAME)
        elif error is not None:
            context = {"message": "finding a visitor's route failed", "exception": error}
            self._front.loop.call_exception_handler(context)
            self._follow(Alert.INTERNAL_ERROR)
        else:
            self._follow(future.result())

    def _no_route(self) -> None:
        future, self._future = self._future, None
        assert future is not None
        future.cancel()
        # The answer for a name that does not exist: an absent one is nobody's business either.
        self._follow(Alert.UNRECOGNIZED_NAME)

    def _follow(self, answer: Answer) -> None:
        if isinstance(answer, Alert):
            self._refuse(Outcome.REFUSED, _alert_record(answer))
            return
        if answer is CROWD:
            self.make_room()
            return
        front = self._front
        assert self._hello is not None
        if answer.context is None:
            self._pass_on(cast("Passing", answer.factory()))
            return
        tls = TlsTransport(
            self._raw,
            Records(answer.context, front.bios),
            cast("Callable[[], asyncio.Protocol]", answer.factory),
            loop=front.loop,
            server_name=self._hello.server_name,
            on_shaken=self._shaken,
        )
        self._raw.resume_reading()
        self._timer = front.loop.call_later(front.deadlines.handshake, self._too_slow)
        tls.begin(self._reader.received)

    def _pass_on(self, protocol: Passing) -> None:
        # Paused, because uvloop chooses how it reads when reading starts.
        self._raw.pause_reading()
        self._raw.set_protocol(cast("asyncio.BaseProtocol", protocol))
        self._shaken(complete=True)
        protocol.connection_made(self._raw)
        self._raw.resume_reading()
        protocol.received(bytes(self._reader.received))

    def _shaken(self, complete: bool) -> None:
        if complete:
            self._outcome = Outcome.WELCOME
        self._gone()

    def _refuse(self, outcome: Outcome, words: bytes) -> None:
        self._outcome = outcome
        self._front.silent.pop(self, None)
        self._timer.cancel()
        Farewell(self._raw, words, loop=self._front.loop, on_gone=self._gone)

    def _too_slow(self) -> None:
        self._outcome = Outcome.SLOW
        reset(self._raw)

    def _gone(self) -> None:
        self._timer.cancel()
        self._front.silent.pop(self, None)
        self._front.pending.discard(self)
        self._front.outcomes[self._outcome] += 1


def _host_of(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")  # None when it has gone already
    return str(peer[0]) if peer else ""


def _alert_record(alert: Alert) -> bytes:
    """A fatal alert in the clear, which is what it is before any key (RFC 8446 sections 5.1 and 6)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
