"""Read models of an edge at one moment, as plain values: for the page, the API, metrics and dumps.

Reads an :class:`~edge_server.observability.introspection.Introspection` and changes nothing; independent of HTTP.
Everything runs on the event loop's thread. Lists are bounded by ``limit`` and include their total.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from quictunnel.shared.address import format_address
from quictunnel.shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_server.certificates.context_store import Validity
    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.tunnel import Tunnel as RegisteredTunnel
    from edge_server.tunnels.visitor_log import VisitorConnection

T = TypeVar("T")

MAX_PAGE: Final = 500
"""Entries of a list in one response: about 200 KiB."""
MAX_TEXT: Final = 256
"""Characters of a text that a peer chose; valid ones are shorter."""
CERTIFICATES_CACHE_TIME: Final = 10.0
"""Seconds for which the expiry of the certificates is cached, because their files have to be read."""

Timestamp = Annotated[float, Meta(description="Seconds since the epoch.")]
Seconds = Annotated[float, Meta(description="Seconds.", ge=0)]
Count = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(description="Bytes.", ge=0)]
Rate = Annotated[float, Meta(description="Bytes a second, since the previous measurement.", ge=0)]


class Engine(msgspec.Struct, frozen=True):
    """A QUIC engine."""

    name: str
    version: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """The edge as a whole."""

    version: str
    engine: Engine
    process: Annotated[int, Meta(description="Process ID.")]
    started_at: Timestamp
    uptime: Seconds
    domain: Annotated[str, Meta(description="Domain of the tunnels' names.")]
    https_port: Count
    quic: Annotated[str, Meta(description="host:port for clients.")]
    is_draining: Annotated[bool, Meta(description="It accepts no connections, and ends with its last visitor.")]
    certificate_expires_at: Annotated[
        Timestamp | None, Meta(description="First expiry of the certificates for visitors.")
    ]
    loop_lag: Annotated[Seconds, Meta(description="Largest delay of its event loop in the last minute.")]
    sessions: Count
    sessions_away: Annotated[int, Meta(description="Sessions without a link now.", ge=0)]
    strangers: Annotated[int, Meta(description="Clients that have not authenticated yet.", ge=0)]
    tunnels: Count
    visitors: Count
    visitors_cap: Annotated[int, Meta(description="Maximum of active visitors.", ge=0)]
    visitors_came: Annotated[int, Meta(description="Visitors admitted since the start.", ge=0)]
    visitors_refused: Annotated[int, Meta(description="Visitors rejected at capacity.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors to origins, since the start.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes from origins to visitors.", ge=0)]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The QUIC connection that carries a session, as this edge's side knows it."""

    rtt: Seconds
    packets_sent: Count
    packets_lost: Count
    loss: Annotated[float | None, Meta(description="Fraction of packets lost, 0 to 1; null before any was sent.")]
    bytes_in_flight: Bytes
    congestion_window: Bytes
    datagram_size: Bytes
    bytes_sent: Bytes
    bytes_received: Bytes
    silent_for: Annotated[Seconds, Meta(description="Time since the last authentic packet of the client.")]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The session of one client."""

    id: str
    owner: Annotated[str, Meta(description="Key of its token, which is public.")]
    address: Annotated[str, Meta(description="host:port of its last packet.")]
    software: Annotated[str, Meta(description="Software name and version that the client sent.")]
    engine: Annotated[str, Meta(description="The QUIC engine of this side.")]
    age: Seconds
    is_away: Annotated[bool, Meta(description="Its link is lost; it may resume.")]
    link: Annotated[Link | None, Meta(description="null while it is disconnected.")]
    streams: Annotated[int, Meta(description="Its visitors.", ge=0)]
    tunnels: Annotated[list[str], Meta(description="Names of its tunnels.")]
    is_traced: Annotated[bool, Meta(description="Traced on request; also true while it is disconnected.")]
    qlog: Annotated[
        str | None,
        Meta(description="Trace file of its current link, on request or by ``--qlog``; null: none."),
    ]


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """A public name."""

    name: str
    url: str
    tcp_port: Annotated[int | None, Meta(description="Its public TCP port, if it has one.")]
    owner: str
    members: Annotated[
        int, Meta(description="Clients that share it; 0: reserved for one that may reconnect.", ge=0)
    ]
    is_passthrough: Annotated[bool, Meta(description="TLS ends at the origin.")]
    age: Seconds
    visitors: Count
    came: Annotated[int, Meta(description="Visitors since its clients bound it.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors, since its clients bound it.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes to visitors.", ge=0)]
    rate_in: Rate
    rate_out: Rate


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """An open public connection."""

    id: str
    address: str
    port: int
    tunnel: str
    owner: str
    kind: Annotated[str, Meta(description="tls, tcp or passthrough.")]
    tls: Annotated[str, Meta(description="TLS version, if TLS ends at the edge; else empty.")]
    age: Seconds
    is_waiting: Annotated[bool, Meta(description="Waits for a client that is disconnected.")]
    bytes_in: Bytes
    bytes_out: Bytes


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a list."""

    items: list[T]
    total: Annotated[int, Meta(description="Entries of the whole list.", ge=0)]
    next: Annotated[str | None, Meta(description="The ``after`` of the next page; null: none.")]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate for visitors, existing or ordered."""

    names: Annotated[list[str], Meta(description="Its host names; the first is its identifier.")]
    by_acme: Annotated[
        bool, Meta(description="Issued by ACME. Otherwise from the operator's files or the development CA.")
    ]
    expires_at: Annotated[Timestamp | None, Meta(description="null: not issued yet.")]
    renew_at: Timestamp | None = None
    next_try: Annotated[Timestamp | None, Meta(description="Time of the next try; null: none.")] = None
    is_ordering: bool = False
    failures: Annotated[int, Meta(description="Consecutive failures.", ge=0)] = 0
    last_error: Annotated[str, Meta(description="Error of the last try; empty after a success.")] = ""


class Totals:
    """Visitors and bytes of one tunnel."""

    __slots__ = ("bytes_in", "bytes_out", "visitors")

    def __init__(self) -> None:
        """Start at zero."""
        self.visitors = self.bytes_in = self.bytes_out = 0


class ReadModels:
    """The read models of one edge."""

    def __init__(
        self,
        introspection: Introspection,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``clock``: monotonic seconds; ``wall``: seconds since the epoch."""
        self._introspection = introspection
        self._clock = clock
        self._wall = wall
        self._meter = RateMeter(clock)
        self._cached_validities: tuple[float, list[Validity]] | None = None

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self._wall()

    def edge(self) -> Edge:
        """Return the state of the edge as a whole."""
        introspection = self._introspection
        visitor_log = introspection.visitor_log
        engine = introspection.endpoint.engine
        sessions = self._authenticated()
        return Edge(
            version=VERSION,
            engine=Engine(engine.name, engine.version),
            process=os.getpid(),
            started_at=introspection.started_at,
            uptime=max(0.0, self._wall() - introspection.started_at),
            domain=introspection.names.domain,
            https_port=introspection.https_port,
            quic=format_address(*introspection.endpoint.local_address[:2]),
            is_draining=introspection.is_draining(),
            certificate_expires_at=min((validity.until for validity in self._validities()), default=None),
            loop_lag=introspection.lag.worst,
            sessions=len(sessions),
            sessions_away=sum(client.session.is_away for client in sessions),
            strangers=len(introspection.clients) - len(sessions),
            tunnels=len(introspection.registry),
            visitors=len(visitor_log.active),
            visitors_cap=introspection.admission.cap,
            visitors_came=visitor_log.admitted_total.total(),
            visitors_refused=introspection.admission.refused,
            bytes_in=visitor_log.bytes_in,
            bytes_out=visitor_log.bytes_out,
        )

    def sessions(self, limit: int, after: str = "", *, only: str = "") -> Page[Session]:
        """Return authenticated sessions, the oldest first. ``only``: of this owner."""
        clients = [client for client in self._authenticated() if only in ("", _owner(client))]
        clients.sort(key=lambda client: client.since)
        return _page(clients, id_of, self._session, limit, after)

    def tunnels(self, limit: int, after: str = "", *, only: str = "") -> Page[Tunnel]:
        """Return tunnels, sorted by name. ``only``: of this owner."""
        held = [tunnel for tunnel in self._introspection.registry if only in ("", tunnel.owner)]
        held.sort(key=lambda tunnel: tunnel.name)
        now = self.measure()
        return _page(held, lambda tunnel: tunnel.name, lambda tunnel: self._tunnel(tunnel, now), limit, after)

    def visitors(self, limit: int, after: str = "", *, only: str = "") -> Page[Visitor]:
        """Return active visitors, the newest first. ``only``: of this tunnel."""
        visitor_log = self._introspection.visitor_log
        found: Iterable[VisitorConnection] = (
            visit for visit in reversed(visitor_log.active) if only in ("", visit.tunnel_name)
        )
        if (bound := visitor_log.number_of(after)) is not None:
            found = (visit for visit in found if visit.number < bound)
        chosen = list(itertools.islice(found, limit + 1))
        items = [self._visitor(visit) for visit in chosen[:limit]]
        active = visitor_log.active
        total = len(active) if not only else sum(visit.tunnel_name == only for visit in active)
        return Page(items, total, items[-1].id if len(chosen) > limit else None)

    def certificates(self, limit: int, after: str = "") -> Page[Certificate]:
        """Return the certificates of ACME by name, and then all others."""
        acme = self._introspection.certificates.acme
        statuses = acme.statuses if acme is not None else []
        found = [
            Certificate(
                names=list(status.names),
                by_acme=True,
                expires_at=status.not_after,
                renew_at=status.renew_at,
                next_try=status.next_try,
                is_ordering=status.is_ordering,
                failures=status.failures,
                last_error=status.last_error,
            )
            for status in statuses
        ]
        known = {frozenset(status.names) for status in statuses}
        found += [
            Certificate(names=sorted(validity.names), by_acme=False, expires_at=validity.until)
            for validity in self._validities()
            if validity.names not in known
        ]
        return _page(found, lambda each: each.names[0], lambda each: each, limit, after)

    def measure(self) -> dict[str, Totals]:
        """Measure the rates of all tunnels. Return active visitors and their bytes by tunnel."""
        now: defaultdict[str, Totals] = defaultdict(Totals)
        for visit in self._introspection.visitor_log.active:  # ten thousand cost some milliseconds
            sums = now[visit.tunnel_name]
            sums.visitors += 1
            sums.bytes_in += visit.bytes_in
            sums.bytes_out += visit.bytes_out
        self._meter.measure(
            lambda: {held.name: _carried(held, now[held.name]) for held in self._introspection.registry}
        )
        return now

    # Single entries.

    def _authenticated(self) -> list[ClientSession]:
        return [client for client in self._introspection.clients if client.identity is not None]

    def _session(self, client: ClientSession) -> Session:
        session = client.session
        host, port = session.link.connection.address[:2]
        tracing = self._introspection.tracing
        file = tracing.file_of(client)
        return Session(
            id=id_of(client),
            owner=_owner(client),
            address=format_address(str(host), int(port)),
            software=client.software[:MAX_TEXT],
            engine=self._introspection.endpoint.engine.name,
            age=max(0.0, self._clock() - client.since),
            is_away=session.is_away,
            link=None if session.is_away else self._link(client),
            streams=session.stream_count,
            tunnels=[lease.name for lease in client.bindings],
            is_traced=tracing.is_chosen(client),
            qlog=str(file) if file is not None else None,
        )

    def _link(self, client: ClientSession) -> Link:
        stats = client.session.stats()
        return Link(
            rtt=max(0.0, stats.rtt),
            packets_sent=stats.packets_sent,
            packets_lost=stats.packets_lost,
            loss=stats.packets_lost / stats.packets_sent if stats.packets_sent else None,
            bytes_in_flight=max(0, stats.bytes_in_flight),
            congestion_window=stats.congestion_window,
            datagram_size=stats.datagram_size,
            bytes_sent=stats.bytes_sent,
            bytes_received=stats.bytes_received,
            silent_for=max(0.0, self._clock() - stats.last_heard),
        )

    def _tunnel(self, held: RegisteredTunnel, now: dict[str, Totals]) -> Tunnel:
        introspection = self._introspection
        sums = now[held.name]
        bytes_in, bytes_out = _carried(held, sums)
        host = introspection.names.host_of(held.name)
        rate_in, rate_out = self._meter.rate(held.name)
        return Tunnel(
            name=held.name,
            url=f"https://{host}" + (f":{introspection.https_port}" if introspection.https_port != 443 else ""),
            tcp_port=held.tcp_port or None,
            owner=held.owner,
            members=len(held.backends),
            is_passthrough=held.options.passthrough,
            age=max(0.0, self._clock() - held.since),
            visitors=sums.visitors,
            came=held.total_visitors,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            rate_in=rate_in,
            rate_out=rate_out,
        )

    def _visitor(self, visit: VisitorConnection) -> Visitor:
        return Visitor(
            id=self._introspection.visitor_log.id_of(visit),
            address=visit.address,
            port=visit.port,
            tunnel=visit.tunnel_name,
            owner=visit.owner,
            kind=visit.kind,
            tls=visit.tls,
            age=max(0.0, self._clock() - visit.began),
            is_waiting=visit.stream is None,
            bytes_in=visit.bytes_in,
            bytes_out=visit.bytes_out,
        )

    def _validities(self) -> list[Validity]:
        now = self._clock()
        if self._cached_validities is None or now >= self._cached_validities[0] + CERTIFICATES_CACHE_TIME:
            self._cached_validities = now, self._introspection.certificates.validities()
        return self._cached_validities[1]


class RateMeter:
    """Bytes a second of each tunnel, between two measurements."""

    MIN_INTERVAL: Final = 0.9
    """Seconds between measurements; more frequent calls get the previous rate."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds."""
        self._clock = clock
        self._at = clock()
        self._previous: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def measure(self, carried: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """Measure, unless the last measurement is recent. ``carried`` returns the bytes in and out of each tunnel
        so far. Only existing tunnels are remembered."""
        at = self._clock()
        passed = at - self._at
        if passed < self.MIN_INTERVAL:
            return
        fresh = carried()
        self._rates = {
            name: (max(0, in_ - before[0]) / passed, max(0, out - before[1]) / passed)
            for name, (in_, out) in fresh.items()
            for before in (self._previous.get(name, (0, 0)),)
        }
        self._at, self._previous = at, fresh

    def rate(self, name: str) -> tuple[float, float]:
        """Return bytes a second, in and out."""
        return self._rates.get(name, (0.0, 0.0))


def id_of(client: ClientSession) -> str:
    """Return the public ID of a session: the beginning of a digest, from which its secret cannot be derived."""
    return client.digest[:8].hex()


def _owner(client: ClientSession) -> str:
    return client.identity.key if client.identity is not None else ""


def _carried(held: RegisteredTunnel, now: Totals) -> tuple[int, int]:
    return now.bytes_in + held.past_in, now.bytes_out + held.past_out


K = TypeVar("K")


def _page(entries: list[K], key: Callable[[K], str], show: Callable[[K], T], limit: int, after: str) -> Page[T]:
    """Return the entries after the one whose key is ``after``; from the beginning if it does not exist any
    more."""
    start = 0
    if after:
        start = next((number for number, entry in enumerate(entries, 1) if key(entry) == after), 0)
    part = list(itertools.islice(entries, start, start + limit))
    has_more = len(entries) > start + limit
    return Page([show(entry) for entry in part], len(entries), key(part[-1]) if has_more else None)
