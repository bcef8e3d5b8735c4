"""Error pages of the edge: a short HTTP response over TLS, in place of an alert or a reset.

Two kinds of visitors get one: those whose name has no tunnel, and those that a tunnel refuses after their
handshake. Each kind has a bounded number of page slots, in all and per address, and a slot is held for at least
:data:`MIN_HOLD`. So the number of additional handshakes per second is bounded as well, which cost more than an
alert. Whoever finds no slot is refused as without pages.

While its page is sent, a visitor holds one of the listener's places, like everybody else who is refused, and may
lose it to a new visitor.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

from edge_server.resources.peer_network import peer_prefix
from quictunnel.shared.error_page import ErrorPage, NotHttpError, RequestHead, RequestHeadReader, http_response
from quictunnel.transport.lingering_close import LINGER_TIMEOUT, MAX_LINGER_BYTES
from quictunnel.transport.refusal import Refusal
from quictunnel.transport.tcp import reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.ingress.tls_listener import ListenerConnection
    from quictunnel.transport.splice import Splice

MAX_WITHOUT_TUNNEL: Final = 64
"""Visitors at once that get a page because their name has no tunnel. With :data:`MIN_HOLD` this bounds their
handshakes to 64 a second."""
MAX_REFUSED: Final = 256
"""Visitors at once that get a page after their tunnel has refused them."""
MAX_PER_ADDRESS: Final = 8
"""Page slots of one kind for one IPv4 address or one /64: a browser opens at most six connections for a page."""
MIN_HOLD: Final = 1.0
"""Seconds for which a page slot is held at least."""
REQUEST_TIMEOUT: Final = 5.0
"""Seconds from the end of the handshake to a complete head of the request."""

PAGES: Final = {
    Refusal.NO_TUNNEL: ErrorPage(
        "404 Not Found",
        "No tunnel here",
        "there is no open tunnel at this address",
        "Check the address for typing errors. If this is your tunnel, start its program again.",
    ),
    Refusal.OFFLINE: ErrorPage(
        "503 Service Unavailable",
        "This tunnel is offline",
        "the program behind this tunnel has lost its connection and is expected back",
        "Load this page again in a moment. If this is your tunnel, check that its program is running and online.",
        retry_after=10,
    ),
    Refusal.AT_CAPACITY: ErrorPage(
        "503 Service Unavailable",
        "Too many visitors",
        "this tunnel takes no more visitors at the moment",
        "Load this page again in a moment.",
        retry_after=30,
    ),
    Refusal.NO_ANSWER: ErrorPage(
        "502 Bad Gateway",
        "The local service does not answer",
        "the program behind this tunnel cannot reach its local service",
        "If this is your tunnel, check that the local service is running.",
    ),
}
"""Pages by reason."""


class PageSlots:
    """A bounded number of slots for connections that get a page."""

    def __init__(self, limit: int) -> None:
        """``limit``: slots in all."""
        self.limit = limit
        self.used = 0
        self._by_address: Counter[str] = Counter()

    def acquire(self, address: str) -> Callable[[], None] | None:
        """Take a slot for an address. Return the function that gives it back, to be called once; None if there
        is no slot."""
        peer = peer_prefix(address)
        if self.used >= self.limit or self._by_address[peer] >= MAX_PER_ADDRESS:
            return None
        self.used += 1
        self._by_address[peer] += 1
        loop = asyncio.get_running_loop()
        until = loop.time() + MIN_HOLD

        def release() -> None:
            loop.call_at(until, self._release, peer) if loop.time() < until else self._release(peer)

        return release

    def _release(self, peer: str) -> None:
        self.used -= 1
        self._by_address[peer] -= 1
        if not self._by_address[peer]:
            del self._by_address[peer]


class ErrorPages:
    """The error pages of one edge."""

    def __init__(self, *, is_on: bool = True) -> None:
        """``is_on``: False to refuse everybody without a page (``--error-pages off``)."""
        self.is_on = is_on
        self.without_tunnel = PageSlots(MAX_WITHOUT_TUNNEL)
        self.refused = PageSlots(MAX_REFUSED)
        self.sent: Counter[str] = Counter()
        """Pages that were sent so far, by HTTP status code."""
        self.hold_place: Callable[[ListenerConnection, str], None] = lambda _holder, _address: None
        """Takes a place of the listener for a connection from an address."""
        self.release_place: Callable[[ListenerConnection], None] = lambda _holder: None
        """Gives that place back."""

    def for_visitor_without_tunnel(self, address: str) -> PageConnection | None:
        """Return the protocol that sends a visitor, after its handshake, the page for a name without tunnel; None
        if no slot is free, or pages are off.

        Call :meth:`PageConnection.discard` if the handshake fails.
        """
        release = self.without_tunnel.acquire(address) if self.is_on else None
        return None if release is None else PageConnection(self, Refusal.NO_TUNNEL, address, release)

    def answer(self, splice: Splice, refusal: Refusal) -> bool:
        """Send a page to a visitor over TLS whose tunnel refuses it. Return False if it gets none.

        The splice then gives up its transport; it still learns when the connection is closed.
        """
        transport = splice.transport
        tls = transport.get_extra_info("ssl_object")
        if not self.is_on or tls is None or tls.selected_alpn_protocol() == "h2":
            return False
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        release = self.refused.acquire(address)
        if release is None:
            return False
        page = PageConnection(self, refusal, address, release, on_lost=splice.connection_lost)
        received, has_ended = splice.detach()
        transport.set_protocol(page)
        page.connection_made(transport)
        if received:
            page.data_received(received)
        if has_ended and not page.eof_received():
            transport.close()
        if not transport.is_closing():
            transport.resume_reading()
        return True


class PageConnection(asyncio.Protocol):
    """A visitor that gets an error page: its request is read, one response is sent, and the connection ends."""

    __slots__ = (
        "_address",
        "_answered",
        "_on_lost",
        "_pages",
        "_reader",
        "_refusal",
        "_release_slot",
        "_timer",
        "_transport",
        "_unread",
    )

    _timer: asyncio.TimerHandle
    _transport: asyncio.Transport

    def __init__(
        self,
        pages: ErrorPages,
        refusal: Refusal,
        address: str,
        release_slot: Callable[[], None],
        on_lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        """Start before the connection is made.

        Args:
            pages: the edge's pages.
            refusal: the reason that the page gives.
            address: address of the visitor.
            release_slot: gives the page slot back.
            on_lost: called with the error when the connection is closed.
        """
        self._pages = pages
        self._refusal = refusal
        self._address = address
        self._release_slot = release_slot
        self._on_lost = on_lost
        self._reader = RequestHeadReader()
        self._answered = False
        self._unread = MAX_LINGER_BYTES

    def discard(self) -> None:
        """Give the page slot back, because the handshake failed and there is no connection."""
        self._release_slot()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place of the listener, and wait for the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self._time_out)
        self._pages.hold_place(self, self._address)

    def data_received(self, data: bytes) -> None:
        """Answer when the head of the request is known; discard what follows, up to a bound."""
        if self._answered:
            self._unread -= len(data)
            if self._unread < 0:
                self.abort()
            return
        try:
            request = self._reader.feed(data)
        except NotHttpError:
            self.abort()
        else:
            if request is not None:
                self._answer(request)

    def eof_received(self) -> bool:
        """Answer an incomplete request, and let the transport close."""
        if not self._answered and (request := self._reader.known) is not None:
            self._answer(request)
        if not self._answered:
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back the page slot and the place of the listener."""
        self._timer.cancel()
        self._release_slot()
        self._pages.release_place(self)
        if self._on_lost is not None:
            self._on_lost(exc)

    def abort(self) -> None:
        """Reset the connection."""
        reset(self._transport)

    evict = abort

    def _answer(self, request: RequestHead) -> None:
        self._answered = True
        page = PAGES[self._refusal]
        self._pages.sent[page.status[:3]] += 1
        self._transport.write(http_response(page, request))
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_TIMEOUT, self.abort)

    def _time_out(self) -> None:
        request = self._reader.known
        if request is None:
            self.abort()
        else:
            self._answer(request)
