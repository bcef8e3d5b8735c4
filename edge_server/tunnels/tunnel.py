"""Tunnels: public names that are in use, with their clients and visitors.

A tunnel has one backend, several that share it as a pool, or none while it is kept for a client that has not
reconnected yet. Visitors belong to the tunnel: it counts them, and queues them while its client has no link. The
load balancer chooses the backend of a visitor when the visitor is admitted, when it leaves the queue, and, in a
pool, when its backend refuses it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from edge_server.ingress.admission import MAX_WAIT
from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.backend import TicketRecord, address_of, proxy_header
from edge_server.tunnels.load_balancer import LoadBalancer
from edge_server.tunnels.visitor_log import BY_PORT, VisitorConnection
from edge_server.tunnels.waiting_visitors import WaitingVisitors
from quictunnel.transport.refusal import Refusal
from quictunnel.transport.splice import TcpSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from edge_server.ingress.admission import Admission
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.options import TunnelOptions
    from edge_server.tunnels.public_port import PublicPort
    from edge_server.tunnels.visitor_log import EntryPoint, VisitorLog
    from quictunnel.transport.splice import Splice
    from quictunnel.transport.throttle import RateLimiter
    from quictunnel.wire.codes import BindCode


class Tunnel:
    """A public name in use, with its backends and its visitors."""

    def __init__(
        self,
        name: str,
        *,
        owner: str,
        options: TunnelOptions,
        admission: Admission,
        visitor_log: VisitorLog,
        visitor_filter: IpFilter | None = None,
        kept_for: TicketRecord | None = None,
    ) -> None:
        """Begin without a client.

        Args:
            name: a label below the edge's domain, or a custom domain.
            owner: key of the token that holds it.
            options: the options that its client requested.
            admission: limits the visitors.
            visitor_log: records the visitors.
            visitor_filter: the filter of the options, if the caller has created it already.
            kept_for: the ticket of the client for which the tunnel is kept.
        """
        self.name = name
        self.owner = owner
        self.options = options
        self.filter = visitor_filter or IpFilter(options.allow, options.deny)
        self.since = time.monotonic()
        """Time at which it was opened (time.monotonic)."""
        self.is_pool = False
        """True if several clients may serve it together."""
        self.balancer: LoadBalancer[Backend] = LoadBalancer()
        self.port: PublicPort | None = None
        self.takeovers: tuple[float, ...] = ()
        """Times of the latest takeovers, by clients without a ticket, of the name of a connected client
        (time.monotonic)."""
        self.visitors: dict[Splice, VisitorConnection] = {}
        """Admitted visitors, including those in the queue."""
        self.waiting = WaitingVisitors(admission)
        self.owner_max_visitors: int | None = None
        """Limit of visitors at all tunnels of its owner together."""
        self.bandwidth_limiters: tuple[RateLimiter, RateLimiter] | None = None
        """Rate limiters of the bytes from and to its visitors; None if there is no limit."""
        self.total_visitors = 0
        """Visitors that were admitted so far."""
        self.past_in = self.past_out = 0
        """Bytes from and to finished visitors."""
        self.is_open = True
        """True while visitors are admitted."""
        self.is_withdrawn = False
        """True if the operator has withdrawn the name while it was kept for a client."""
        self._kept_for = kept_for or TicketRecord()
        self._admission = admission
        self._visitor_log = visitor_log

    @property
    def backends(self) -> list[Backend]:
        """Return the clients that serve it, oldest first."""
        return self.balancer.backends

    @property
    def ticket_record(self) -> TicketRecord:
        """Return the ticket of its client (of a pool: the oldest one), or of the client for which it is kept."""
        return self.backends[0].ticket_record if self.backends else self._kept_for

    @property
    def tcp_port(self) -> int:
        """Return the number of its TCP port; 0 for none."""
        return 0 if self.port is None else self.port.number

    def change_to(self, options: TunnelOptions, visitor_filter: IpFilter, *, is_pool: bool) -> None:
        """Change the options for new visitors and, when they are served, for queued ones."""
        self.options, self.filter, self.is_pool = options, visitor_filter, is_pool

    # The end of the tunnel and of its TCP port.

    def stop_listening(self) -> None:
        """Stop accepting visitors on the TCP port. TLS visitors are still admitted."""
        if self.port is not None:
            self.port.stop()

    def duplicate_socket(self) -> socket.socket | None:
        """Return a second handle of the listening socket of its TCP port; None if it has none or is closed."""
        return self.port.duplicate() if self.port is not None and self.is_open else None

    def close(self) -> None:
        """Admit no more visitors, and refuse the queued ones. Active visitors stay."""
        self.is_open = False
        self.stop_listening()
        self.waiting.reject_all()

    def end_visitors(self, is_exempt: Callable[[str], bool] = lambda _: False) -> None:
        """Reset all visitors, queued ones included. ``is_exempt``: returns True for addresses that may stay."""
        for splice, visit in tuple(self.visitors.items()):
            if not is_exempt(visit.address):
                _end_now(splice)

    def revoke_leases(self, code: BindCode, reason: str = "") -> None:
        """End the leases of all clients that serve it. ``reason``: a clause for them; empty: the code's."""
        for backend in tuple(self.backends):
            backend.bindings.revoke(backend, code, reason)

    def end_visitors_of(self, backend: Backend) -> None:
        """Reset the visitors that this backend serves."""
        for splice, visit in tuple(self.visitors.items()):
            if visit.backend is backend:
                _end_now(splice)

    def end_visit(self, visit: VisitorConnection) -> bool:
        """Reset one visitor. Returns False if it is no visitor of this tunnel."""
        splice = next((splice for splice, other in self.visitors.items() if other is visit), None)
        if splice is not None:
            _end_now(splice)
        return splice is not None

    # Visitors.

    def tcp_visitor(self) -> asyncio.BaseProtocol:
        """Return the protocol for a visitor of the TCP port."""
        return TcpSplice(lambda splice: self.admit(splice, BY_PORT))

    def admit(self, splice: Splice, entry_point: EntryPoint) -> None:
        """Admit or refuse a visitor: of TLS after its handshake, of TLS passthrough, or of the TCP port.

        The filter is applied here although the router has already applied it: the options may have changed during
        the handshake, and visitors of the TCP port do not pass the router.
        """
        address, port = address_of(splice, "peername")
        if not self.is_open or not self.filter.admits(address):
            splice.refuse(Refusal.NO_TUNNEL)
            return
        if (
            entry_point is BY_PORT
            and not self._admission.rate_limiter.admit(address, owner=self.owner, tunnel_name=self.name)
        ) or not self._admission.acquire(self.owner, self.name, address, self.owner_max_visitors):
            splice.refuse(None if self._admission.is_banned(address) else Refusal.AT_CAPACITY)
            return
        splice.on_closed = self._visitor_ended
        visit = VisitorConnection(address, port, entry_point.kind, tunnel_name=self.name, owner=self.owner)
        self.visitors[splice] = visit
        if entry_point.is_tls_terminated:
            tls = splice.transport.get_extra_info("ssl_object")
            visit.tls, visit.alpn = tls.version() or "", tls.selected_alpn_protocol() or ""
        self._visitor_log.begin(visit)
        self.total_visitors += 1
        backend = self.balancer.choose()
        if backend is not None:
            backend.total_visitors += 1
        self._serve_or_queue(splice, entry_point, backend, MAX_WAIT)

    def serve_waiting(self) -> None:
        """Serve the queued visitors, oldest first: a client has bound the name, its session has a link again, or
        another client of the pool has left. A client that took the name over may deny visitors whom the one
        before allowed."""
        for splice, entry_point, remaining in self.waiting.take_all():
            if self.filter.admits(self.visitors[splice].address):
                self._serve_or_queue(splice, entry_point, self.balancer.choose(), remaining)
            else:
                splice.refuse(Refusal.NO_TUNNEL)

    def _serve_or_queue(
        self, splice: Splice, entry_point: EntryPoint, backend: Backend | None, seconds: float
    ) -> None:
        """Serve a visitor, or queue it for ``seconds`` until the session is ready: it has a link and is
        resumed."""
        if backend is not None and backend.session.is_ready:
            self._open_stream_for(splice, entry_point, backend)
        else:
            self.waiting.add(splice, entry_point, self.visitors[splice], seconds)

    def _open_stream_for(
        self, splice: Splice, entry_point: EntryPoint, backend: Backend, tried: frozenset[Backend] = frozenset()
    ) -> None:
        """Open a stream for a visitor and join both. ``tried``: backends that have refused this visitor."""
        visit = self.visitors[splice]
        stream = backend.open(visit.address, visit.port, tls=entry_point.is_tls_terminated)
        if stream is None:
            splice.refuse(Refusal.AT_CAPACITY)
            return
        visit.set_backend(backend)
        if self.bandwidth_limiters is not None and splice.throttle is None:
            splice.throttle = Throttle(*self.bandwidth_limiters)
        if self.is_pool:
            splice.on_stream_refused = lambda refused, code: self._refused(
                refused, code, entry_point, tried | {backend}
            )
        if self.options.proxy_protocol and not tried:
            stream.write(proxy_header(splice, entry_point, self.options.proxy_protocol))
        splice.join(stream)
        visit.set_stream(stream, splice)

    def _refused(
        self, splice: Splice, code: StreamCode, entry_point: EntryPoint, tried: frozenset[Backend]
    ) -> bool:
        """Pass a refused visitor on to another backend, as long as its origin has received no byte.

        Returns False if no other backend is well.
        """
        refusing = self.visitors[splice].backend
        if code is not StreamCode.UNKNOWN_LEASE and refusing is not None:
            refusing.note_refusal()
        other = self.balancer.choose(besides=tried)
        if other is None or not other.is_healthy:
            return False
        self._open_stream_for(splice, entry_point, other, tried)
        return True

    def _visitor_ended(self, splice: Splice) -> None:
        self.waiting.discard(splice)
        visit = self.visitors.pop(splice)
        visit.set_backend(None)
        self._admission.release(self.owner, self.name, visit.address)
        self.past_in += visit.bytes_in
        self.past_out += visit.bytes_out
        self._visitor_log.end(visit, splice)


class Lease(NamedTuple):
    """A client's lease: the tunnel, and the client as its backend."""

    tunnel: Tunnel
    backend: Backend

    @property
    def name(self) -> str:
        """Return the name of the tunnel."""
        return self.tunnel.name

    @property
    def tcp_port(self) -> int:
        """Return the number of the TCP port; 0 for none."""
        return self.tunnel.tcp_port

    @property
    def number(self) -> int:
        """Return the number of the lease in its session."""
        return self.backend.number


def _end_now(splice: Splice) -> None:
    if splice.stream is None:
        splice.refuse()
    else:
        splice.stream.fail(StreamCode.CLOSING)
