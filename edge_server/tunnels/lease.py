"""Leases: a public name, and perhaps a TCP port, held by a session now."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.ingress import proxy_protocol
from edge_server.ingress.admission import MAX_WAIT
from edge_server.ingress.ip_filter import IpFilter
from edge_server.ingress.tcp_ports import ACCEPTS_PER_TURN, restore_backlog
from edge_server.tunnels.visitor_log import VisitorConnection
from quictunnel.transport import descriptors
from quictunnel.transport.link import KEEPALIVE
from quictunnel.transport.splice import TcpSplice, TlsSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_server.ingress.admission import Admission
    from edge_server.tunnels.load_balancer import LoadBalancer
    from edge_server.tunnels.options import TunnelOptions
    from edge_server.tunnels.visitor_log import Kind, VisitorLog
    from quictunnel.transport.session import Session
    from quictunnel.transport.splice import Splice
    from quictunnel.transport.throttle import Meter
    from quictunnel.wire.codes import BindCode

logger = logging.getLogger(__name__)

UNKNOWN_PEER: Final = ("", 0)


SILENT: Final = 1.5 * KEEPALIVE
"""Seconds for which nothing was heard of a client, after which others of its pool are preferred to it."""
TROUBLED: Final = 5.0
"""Seconds for which they are after its origin has refused a visitor."""


@dataclass(frozen=True, slots=True)
class Ingress:
    """The way by which a visitor came."""

    tls: bool
    """Over TLS that ended here."""
    authority: str = ""
    """The name that led it here, if one did."""

    @property
    def kind(self) -> Kind:
        """Return the kind of visitor, as it is logged and counted."""
        if self.tls:
            return "tls"
        return "passthrough" if self.authority else "tcp"


BY_PORT: Final = Ingress(tls=False)


@dataclass(slots=True, eq=False)
class Waiting:
    """A visitor for whom the client has no link, and until when it waits. It holds a descriptor; nothing is read
    from it."""

    lease: Lease
    splice: Splice
    way: Ingress
    timer: asyncio.TimerHandle

    def send_away(self) -> None:
        """Refuse the visitor; it waits no longer."""
        self.lease.send_away(self.splice)


class LeaseHolder(Protocol):
    """The bindings of a client, as far as a lease's end concerns them."""

    def lose(self, lease: Lease, code: BindCode) -> None:
        """Take the lease away from the client, which is told why."""

    def supersede(self) -> None:
        """End the client's session: a newer one of the same program has the name."""


class Lease:
    """One name of one session, and the visitors that came for it."""

    def __init__(
        self,
        session: Session | None,
        number: int,
        name: str,
        *,
        owner: str,
        admission: Admission,
        ledger: VisitorLog,
        terms: TunnelOptions,
        generation: int = 1,
        visitors_filter: IpFilter | None = None,
    ) -> None:
        """``visitors_filter``: that of the terms, where it was made already."""
        self.session = session
        """None: the name is kept for a client that has not come yet."""
        self.number = number
        self.name = name
        self.terms = terms
        self.filter = visitors_filter or IpFilter(terms.allow, terms.deny)
        self.owner = owner
        self.generation = generation
        """Generation of the ticket that was given for it."""
        self.program = b""
        """Program of the client that holds it (``messages.BindV2``), if the client said so."""
        self.is_first_ask = False
        """That program had not had it before: it was started later than one that asks again."""
        self.since = time.monotonic()
        self.listener: asyncio.Server | None = None
        self.tcp_port = 0
        self.visitors: dict[Splice, VisitorConnection] = {}
        self.max_visitors: int | None = None
        """Limit of visitors at all leases of its owner together."""
        self.meters: tuple[Meter, Meter] | None = None
        """Meters of what its visitors send and receive, if that is limited."""
        self.pool: LoadBalancer[Lease] | None = None
        """With whom it shares the name, if it does."""
        self.takeovers: tuple[float, ...] = ()
        """Times at which the name last went from one living client to another."""
        self.holdings: LeaseHolder | None = None
        """Bindings of the client that holds it; None while the name is kept for a client."""
        self.came_so_far = 0
        """Visitors that this lease took."""
        self.past_in = self.past_out = 0
        """Bytes of those who have left, from them and to them."""
        self._troubled_until = 0.0
        self._admission = admission
        self._ledger = ledger
        self._socket: socket.socket | None = None
        self._is_open = True
        self._is_stopped = False
        """Nobody is let in through the TCP port any more."""
        self.is_given_up = False
        """True if its client or the operator has ended it; False if its session broke."""
        self.heir: Lease | None = None
        """The lease that took the name over."""
        self._waiting: dict[Splice, Waiting] = {}
        """In the order of coming; bounded by the places that admission has for them."""

    @property
    def newest(self) -> Lease:
        """Return the lease that has the name now, after any take-overs."""
        lease = self
        while lease.heir is not None:
            lease = lease.heir
        return lease

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""
        session = self.session
        if session is None or not session.can_carry:
            return False
        return asyncio.get_running_loop().time() - session.stats().last_heard < SILENT

    @property
    def is_well(self) -> bool:
        """Return True if a visitor would most likely be answered."""
        return self.is_reachable and time.monotonic() >= self._troubled_until

    def tls_visitor(self, authority: str) -> asyncio.Protocol:
        """Return the protocol for a visitor whose TLS handshake is complete."""
        return TlsSplice(lambda splice: self._to_whom_it_goes(splice, Ingress(tls=True, authority=authority)))

    def passing_visitor(self, authority: str) -> TcpSplice:
        """Return the protocol for a visitor whose TLS does not end here."""
        return TcpSplice(lambda splice: self._to_whom_it_goes(splice, Ingress(tls=False, authority=authority)))

    def tcp_visitor(self) -> asyncio.BaseProtocol:
        """Return the protocol for a visitor of the TCP port."""
        return TcpSplice(lambda splice: self._to_whom_it_goes(splice, BY_PORT))

    def _to_whom_it_goes(self, splice: Splice, way: Ingress) -> None:
        lease = self.newest
        if lease.pool is not None:
            lease = lease.pool.choose() or lease
        lease.came(splice, way)

    def hold(self, sock: socket.socket) -> None:
        """Take a listening socket for the TCP port. :meth:`listen` has to follow; it closes the socket if this
        lease was closed meanwhile."""
        descriptors.own(sock)
        self._socket = sock
        self.tcp_port = sock.getsockname()[1]

    async def listen(self) -> None:
        """Accept visitors on the TCP port. Not to be cancelled."""
        assert self._socket is not None
        if not self._is_open or self._is_stopped:
            self._socket.close()
            return
        # A server that is not serving yet is made without a turn of the loop, in which it could be lost.
        self.listener = await asyncio.get_running_loop().create_server(
            self.tcp_visitor, sock=self._socket, backlog=ACCEPTS_PER_TURN, start_serving=False
        )
        await self.listener.start_serving()
        restore_backlog(self.listener, self._socket)

    def keep_socket(self) -> socket.socket | None:
        """Return a second handle of the listening socket, for a lease that takes over; None if there is none.

        The port is never free in between, and visitors in its queue are not lost.
        """
        try:
            return self._socket.dup() if self._socket is not None and self._is_open else None
        except OSError as error:
            # It was closed with its server already, or there is no file for another handle.
            logger.warning("the port of %s could not be kept: %s", self.name, error.strerror or error)
            return None

    def stop_listening(self) -> None:
        """Stop accepting visitors on the TCP port; those in a TLS handshake are still let in."""
        self._is_stopped = True
        descriptors.disown(self._socket)
        if self.listener is not None:
            self.listener.close()

    def close(self) -> None:
        """Close the lease for visitors; those who are in stay, those who wait go to other backends."""
        self._is_open = False
        self.stop_listening()
        other = self.pool.choose(besides={self}) if self.pool is not None else None
        if other is not None and other.is_well:
            other.take_waiting_of(self)
        for splice in tuple(self._waiting):
            self.send_away(splice)

    def end_visitors(self, spared: Callable[[str], bool] = lambda _: False) -> None:
        """Reset those who are in, and those who wait, unless they are spared by their address."""
        for splice, visit in tuple(self.visitors.items()):
            if not spared(visit.host):
                _end_now(splice)

    def end_visit(self, visit: VisitorConnection) -> bool:
        """Reset one visitor. Returns True if it was here."""
        splice = next((splice for splice, who in self.visitors.items() if who is visit), None)
        if splice is not None:
            _end_now(splice)
        return splice is not None

    def take_over(self, ghost: Lease) -> None:
        """Let in those who waited at a lease of the same name, whose client has come here; who is still in a
        handshake there comes here as well."""
        ghost.heir = self
        self.take_waiting_of(ghost)

    def take_waiting_of(self, other: Lease) -> None:
        """Let in those who waited there. They are counted here from now on."""
        waiting = other.part_with_waiting()
        for splice in waiting:
            self._take(splice, other)
        self._let_all_in(waiting)

    def _take(self, splice: Splice, other: Lease) -> None:
        self.visitors[splice] = other.visitors.pop(splice)
        splice.on_gone = self._went

    def part_with_waiting(self) -> dict[Splice, Waiting]:
        """Return the waiting visitors, which are this lease's no more."""
        waiting, self._waiting = self._waiting, {}
        return waiting

    def client_is_back(self) -> None:
        """Let waiting visitors in, in the order of coming, because the client has a link again."""
        self._let_all_in(self.part_with_waiting())

    def came(self, splice: Splice, way: Ingress) -> None:
        """Admit a visitor whose TLS handshake is complete, or refuse it."""
        host, port = _end(splice, "peername")
        if (
            not self._is_open
            or not self.filter.admits(host)
            or (way is BY_PORT and not self._admission.rate_limiter.admit(host, owner=self.owner, lease=self.name))
            or not self._admission.enter(self.owner, self.name, host, self.max_visitors)
        ):
            splice.refuse()
            return
        splice.on_gone = self._went
        self.visitors[splice] = visit = VisitorConnection(
            host, way.kind, lease=self.name, owner=self.owner, port=port
        )
        if way.tls:
            ends = splice.transport.get_extra_info("ssl_object")
            visit.tls, visit.alpn = ends.version() or "", ends.selected_alpn_protocol() or ""
        self._ledger.begin(visit)
        self.came_so_far += 1
        if self.session is not None and self.session.can_carry:
            self._let_in(splice, way)
        else:
            self._have_wait(splice, way, MAX_WAIT)

    def _have_wait(self, splice: Splice, way: Ingress, seconds: float) -> None:
        """Keep a visitor until the client has a link, on which both sides know how they stand."""
        timer = asyncio.get_running_loop().call_later(seconds, self.send_away, splice)
        waiting = self._waiting[splice] = Waiting(self, splice, way, timer)
        loser = self._admission.wait(waiting, self.visitors[splice].host, self.owner, self.name)
        if loser is not None:
            loser.send_away()

    def _let_all_in(self, waiting: dict[Splice, Waiting]) -> None:
        for each in waiting.values():
            self._stops_waiting(each)
        now = asyncio.get_running_loop().time()
        for splice, each in waiting.items():
            if self.session is not None and self.session.can_carry:
                self._let_in(splice, each.way)
            else:  # its link was lost while it asked for the name
                self._have_wait(splice, each.way, max(0.0, each.timer.when() - now))

    def send_away(self, splice: Splice) -> None:
        """Refuse a visitor that waits here."""
        self._stops_waiting(self._waiting.pop(splice))
        splice.refuse()

    def _stops_waiting(self, waiting: Waiting) -> None:
        waiting.timer.cancel()
        self._admission.waiting.leave(waiting)

    def _let_in(self, splice: Splice, way: Ingress, tried: frozenset[Lease] = frozenset()) -> None:
        """``tried``: leases of the pool whose origin has not taken it."""
        assert self.session is not None
        host, port = _end(splice, "peername")
        stream = self.session.open(lease=self.number, tls=way.tls, host=host, port=port)
        if stream is None:
            splice.refuse()
            return
        if self.meters is not None and splice.throttle is None:
            splice.throttle = Throttle(*self.meters)
        if self.pool is not None:
            splice.on_refused = lambda refused, code: self._refused(refused, code, way, tried | {self})
        if self.terms.proxy_protocol and not tried:
            stream.write(self._introduction(splice, way))
        splice.join(stream)
        self.visitors[splice].travels_on(stream, splice)

    def _introduction(self, splice: Splice, way: Ingress) -> bytes:
        tls = None
        if way.tls:
            ends = splice.transport.get_extra_info("ssl_object")
            cipher = ends.cipher()
            tls = proxy_protocol.Tls(
                way.authority,
                ends.version() or "",
                cipher[0] if cipher else "",
                ends.selected_alpn_protocol() or "",
            )
        elif way.authority:
            tls = proxy_protocol.Tls(way.authority)
        return proxy_protocol.header(
            self.terms.proxy_protocol, _end(splice, "peername"), _end(splice, "sockname"), tls
        )

    def _refused(self, splice: Splice, code: StreamCode, way: Ingress, tried: frozenset[Lease]) -> bool:
        """Pass a visitor whose origin has not taken any byte to another lease of the pool. Return False if there
        is none."""
        if code is not StreamCode.UNKNOWN_LEASE:
            self._troubled_until = time.monotonic() + TROUBLED
        other = self.pool.choose(besides=tried) if self.pool is not None else None
        if other is None or not other.is_well:
            return False
        other._take(splice, self)  # noqa: SLF001 - the same class, and the same owner
        other._let_in(splice, way, tried)  # noqa: SLF001 - likewise
        return True

    def _went(self, splice: Splice) -> None:
        waiting = self._waiting.pop(splice, None)
        if waiting is not None:
            self._stops_waiting(waiting)
        visit = self.visitors.pop(splice)
        self._admission.leave(self.owner, self.name, visit.host)
        self.past_in += visit.bytes_in
        self.past_out += visit.bytes_out
        self._ledger.end(visit, splice)


def _end_now(splice: Splice) -> None:
    if splice.stream is None:
        splice.refuse()
    else:
        splice.stream.lose(StreamCode.CLOSING)


def _end(splice: Splice, which: str) -> tuple[str, int]:
    host, port = (splice.transport.get_extra_info(which) or UNKNOWN_PEER)[:2]
    return host, port
