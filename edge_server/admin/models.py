"""What an edge looks like at one moment, as plain values: for the page, the API, figures and dumps.

Looks at a :class:`~edge_server.observability.introspection.Introspection` and changes nothing; knows nothing of
HTTP. Everything is called on the loop's thread. Lists are bounded by whoever asks (``limit``), and say how many
there are.
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
from quictunnel.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_server.certificates.context_store import Validity
    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.visitor_log import VisitorConnection

T = TypeVar("T")

MAX_PAGE: Final = 500
"""Entries of a list in one answer: some 200 KiB."""
MAX_TEXT: Final = 256
"""Characters of a word that a peer chose; those that are allowed are shorter."""
CERTIFICATES_FOR: Final = 10.0
"""Seconds for which it is remembered when certificates end; to find it out they are read."""

Moment = Annotated[float, Meta(description="Seconds since the epoch.")]
Seconds = Annotated[float, Meta(description="Seconds.", ge=0)]
Count = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(description="Bytes.", ge=0)]
Rate = Annotated[float, Meta(description="Bytes a second, since the last look.", ge=0)]


class Engine(msgspec.Struct, frozen=True):
    """A QUIC engine."""

    name: str
    version: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """The edge as a whole."""

    version: str
    engine: Engine
    process: Annotated[int, Meta(description="Its process number.")]
    started_at: Moment
    uptime: Seconds
    domain: Annotated[str, Meta(description="Tunnels are names below it.")]
    https_port: Count
    quic: Annotated[str, Meta(description="host:port for clients.")]
    is_draining: Annotated[bool, Meta(description="It takes nobody any more, and ends with its last visitor.")]
    certificate_expires_at: Annotated[Moment | None, Meta(description="The first to end of those for visitors.")]
    loop_lag: Annotated[Seconds, Meta(description="How late its event loop was, at worst, in the last minute.")]
    sessions: Count
    sessions_away: Annotated[int, Meta(description="Of these, without a link now.", ge=0)]
    strangers: Annotated[int, Meta(description="Clients that have not shown a token yet.", ge=0)]
    tunnels: Count
    visitors: Count
    visitors_cap: Annotated[int, Meta(description="As many as may be in at once.", ge=0)]
    visitors_came: Annotated[int, Meta(description="Since it was started.", ge=0)]
    visitors_refused: Annotated[int, Meta(description="For whom there was no place.", ge=0)]
    bytes_in: Annotated[int, Meta(description="Bytes from visitors to origins, since it was started.", ge=0)]
    bytes_out: Annotated[int, Meta(description="Bytes from origins to visitors.", ge=0)]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The QUIC connection that carries a session, as this edge's side knows it."""

    rtt: Seconds
    packets_sent: Count
    packets_lost: Count
    loss: Annotated[float | None, Meta(description="Lost of those sent, 0 to 1; null before any was sent.")]
    bytes_in_flight: Bytes
    congestion_window: Bytes
    datagram_size: Bytes
    bytes_sent: Bytes
    bytes_received: Bytes
    silent_for: Annotated[Seconds, Meta(description="Since an authentic packet of the client came.")]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One client."""

    id: str
    owner: Annotated[str, Meta(description="The key of its token, which is no secret.")]
    address: Annotated[str, Meta(description="host:port from which it was last heard.")]
    software: Annotated[str, Meta(description="What it calls itself.")]
    engine: Annotated[str, Meta(description="The QUIC engine of this side.")]
    age: Seconds
    is_away: Annotated[bool, Meta(description="Its link is lost; it may come back.")]
    link: Annotated[Link | None, Meta(description="null while it is away.")]
    streams: Annotated[int, Meta(description="Visitors that it carries.", ge=0)]
    tunnels: Annotated[list[str], Meta(description="Names that it holds.")]
    is_traced: Annotated[bool, Meta(description="On request; true as well while it is away.")]
    qlog: Annotated[
        str | None,
        Meta(description="The file to which its link is traced now, on request or by ``--qlog``; null: none."),
    ]


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """One public name."""

    name: str
    url: str
    tcp_port: Annotated[int | None, Meta(description="Its public TCP port, if it has one.")]
    owner: str
    members: Annotated[int, Meta(description="Clients that share it; 0: kept for one that has to come.", ge=0)]
    is_passthrough: Annotated[bool, Meta(description="TLS ends at the origin.")]
    age: Seconds
    visitors: Count
    came: Annotated[int, Meta(description="Visitors since its clients hold it.", ge=0)]
    bytes_in: Annotated[int, Meta(description="From visitors, since its clients hold it.", ge=0)]
    bytes_out: Annotated[int, Meta(description="To visitors.", ge=0)]
    rate_in: Rate
    rate_out: Rate


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """One public connection that is open."""

    id: str
    address: str
    port: int
    tunnel: str
    owner: str
    kind: Annotated[str, Meta(description="tls, tcp or passthrough.")]
    tls: Annotated[str, Meta(description="The version of TLS that ends here; empty for none.")]
    age: Seconds
    is_waiting: Annotated[bool, Meta(description="For a client that has to come back.")]
    bytes_in: Bytes
    bytes_out: Bytes


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Part of a list."""

    items: list[T]
    total: Annotated[int, Meta(description="Entries of the whole list.", ge=0)]
    next: Annotated[str | None, Meta(description="The ``after`` with which the following come; null: none.")]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One that visitors are met with, or are to be."""

    names: Annotated[list[str], Meta(description="What it is for; the first is what it is called.")]
    by_acme: Annotated[
        bool, Meta(description="The edge gets it by itself. Else it is the operator's, or made here.")
    ]
    expires_at: Annotated[Moment | None, Meta(description="None: there is none yet.")]
    renew_at: Moment | None = None
    next_try: Annotated[Moment | None, Meta(description="When something is tried next; none: nothing is.")] = None
    is_ordering: bool = False
    failures: Annotated[int, Meta(description="Tries in a row that failed.", ge=0)] = 0
    last_error: Annotated[str, Meta(description="Of the last try; empty when it was well.")] = ""


class Sums:
    """Visitors and bytes of one tunnel."""

    __slots__ = ("bytes_in", "bytes_out", "visitors")

    def __init__(self) -> None:
        self.visitors = self.bytes_in = self.bytes_out = 0


class View:
    """See the module."""

    def __init__(
        self,
        scene: Introspection,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._scene = scene
        self._clock = clock
        self._wall = wall
        self._meter = Meter(clock)
        self._seen_certificates: tuple[float, list[Validity]] | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._wall()

    def edge(self) -> Edge:
        """The whole in figures."""
        scene = self._scene
        ledger = scene.ledger
        engine = scene.endpoint.engine
        sessions = self._guests()
        return Edge(
            version=VERSION,
            engine=Engine(engine.name, engine.version),
            process=os.getpid(),
            started_at=scene.started_at,
            uptime=max(0.0, self._wall() - scene.started_at),
            domain=scene.names.domain,
            https_port=scene.https_port,
            quic=format_address(*scene.endpoint.local_address[:2]),
            is_draining=scene.is_draining(),
            certificate_expires_at=min((validity.until for validity in self._validities()), default=None),
            loop_lag=scene.lag.worst,
            sessions=len(sessions),
            sessions_away=sum(guest.session.is_away for guest in sessions),
            strangers=len(scene.guests) - len(sessions),
            tunnels=len(scene.registry),
            visitors=len(ledger.now),
            visitors_cap=scene.admission.cap,
            visitors_came=ledger.came.total(),
            visitors_refused=scene.admission.refused,
            bytes_in=ledger.bytes_in,
            bytes_out=ledger.bytes_out,
        )

    def sessions(self, limit: int, after: str = "", *, only: str = "") -> Page[Session]:
        """Clients with a good token, the oldest first. ``only``: of this owner."""
        guests = [guest for guest in self._guests() if only in ("", _owner(guest))]
        guests.sort(key=lambda guest: guest.since)
        return _page(guests, id_of, self._session, limit, after)

    def tunnels(self, limit: int, after: str = "", *, only: str = "") -> Page[Tunnel]:
        """Names that are held, in their order. ``only``: of this owner."""
        leases = [lease for lease in self._scene.registry if only in ("", lease.owner)]
        leases.sort(key=lambda lease: lease.name)
        now = self.look()
        return _page(leases, lambda lease: lease.name, lambda lease: self._tunnel(lease, now), limit, after)

    def visitors(self, limit: int, after: str = "", *, only: str = "") -> Page[Visitor]:
        """Those who are in, the newest first. ``only``: of this tunnel."""
        ledger = self._scene.ledger
        found: Iterable[VisitorConnection] = (visit for visit in reversed(ledger.now) if only in ("", visit.lease))
        if (bound := ledger.number_of(after)) is not None:
            found = (visit for visit in found if visit.number < bound)
        chosen = list(itertools.islice(found, limit + 1))
        items = [self._visitor(visit) for visit in chosen[:limit]]
        total = len(ledger.now) if not only else sum(visit.lease == only for visit in ledger.now)
        return Page(items, total, items[-1].id if len(chosen) > limit else None)

    def certificates(self, limit: int, after: str = "") -> Page[Certificate]:
        """Those of ACME, by name, and then others."""
        acme = self._scene.certificates.acme
        standings = acme.standings if acme is not None else []
        found = [
            Certificate(
                names=list(standing.names),
                by_acme=True,
                expires_at=standing.not_after,
                renew_at=standing.renew_at,
                next_try=standing.next_try,
                is_ordering=standing.is_ordering,
                failures=standing.failures,
                last_error=standing.last_error,
            )
            for standing in standings
        ]
        known = {frozenset(standing.names) for standing in standings}
        found += [
            Certificate(names=sorted(validity.names), by_acme=False, expires_at=validity.until)
            for validity in self._validities()
            if validity.names not in known
        ]
        return _page(found, lambda each: each.names[0], lambda each: each, limit, after)

    def look(self) -> dict[str, Sums]:
        """Measure the rates of all tunnels; visitors who are in and their bytes, by tunnel."""
        now: defaultdict[str, Sums] = defaultdict(Sums)
        for visit in self._scene.ledger.now:  # ten thousand cost some milliseconds
            sums = now[visit.lease]
            sums.visitors += 1
            sums.bytes_in += visit.bytes_in
            sums.bytes_out += visit.bytes_out
        self._meter.look(lambda: {lease.name: _carried(lease, now[lease.name]) for lease in self._scene.registry})
        return now

    # One of each.

    def _guests(self) -> list[ClientSession]:
        return [guest for guest in self._scene.guests if guest.identity is not None]

    def _session(self, guest: ClientSession) -> Session:
        session = guest.session
        host, port = session.link.connection.address[:2]
        tracing = self._scene.tracing
        file = tracing.file_of(guest)
        return Session(
            id=id_of(guest),
            owner=_owner(guest),
            address=format_address(str(host), int(port)),
            software=guest.software[:MAX_TEXT],
            engine=self._scene.endpoint.engine.name,
            age=max(0.0, self._clock() - guest.since),
            is_away=session.is_away,
            link=None if session.is_away else self._link(guest),
            streams=session.streams,
            tunnels=[lease.name for lease in guest.holdings],
            is_traced=tracing.is_asked_for(guest),
            qlog=str(file) if file is not None else None,
        )

    def _link(self, guest: ClientSession) -> Link:
        stats = guest.session.stats()
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

    def _tunnel(self, lease: Lease, now: dict[str, Sums]) -> Tunnel:
        scene = self._scene
        members = _members(lease)
        sums = now[lease.name]
        bytes_in, bytes_out = _carried(lease, sums)
        host = scene.names.host_of(lease.name)
        rate_in, rate_out = self._meter.rate(lease.name)
        return Tunnel(
            name=lease.name,
            url=f"https://{host}" + (f":{scene.https_port}" if scene.https_port != 443 else ""),
            tcp_port=lease.tcp_port or None,
            owner=lease.owner,
            members=sum(member.session is not None for member in members),
            is_passthrough=lease.terms.passthrough,
            age=max(0.0, self._clock() - min(member.since for member in members)),
            visitors=sums.visitors,
            came=sum(member.came_so_far for member in members),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            rate_in=rate_in,
            rate_out=rate_out,
        )

    def _visitor(self, visit: VisitorConnection) -> Visitor:
        return Visitor(
            id=self._scene.ledger.name_of(visit),
            address=visit.host,
            port=visit.port,
            tunnel=visit.lease,
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
        if self._seen_certificates is None or now >= self._seen_certificates[0] + CERTIFICATES_FOR:
            self._seen_certificates = now, self._scene.certificates.validities()
        return self._seen_certificates[1]


class Meter:
    """Bytes a second of each tunnel, between two looks that are a second apart or more."""

    APART: Final = 0.9
    """Seconds; whoever looks more often sees the rate of before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._seen: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def look(self, carried: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """``carried``: bytes in and out of each tunnel so far. No more is remembered than there are tunnels."""
        at = self._clock()
        passed = at - self._at
        if passed < self.APART:
            return
        fresh = carried()
        self._rates = {
            name: (max(0, in_ - before[0]) / passed, max(0, out - before[1]) / passed)
            for name, (in_, out) in fresh.items()
            for before in (self._seen.get(name, (0, 0)),)
        }
        self._at, self._seen = at, fresh

    def rate(self, name: str) -> tuple[float, float]:
        """In and out."""
        return self._rates.get(name, (0.0, 0.0))


def id_of(guest: ClientSession) -> str:
    """What a session is called: the beginning of a digest, from which its secret cannot be found."""
    return guest.digest[:8].hex()


def _owner(guest: ClientSession) -> str:
    return guest.identity.key if guest.identity is not None else ""


def _members(lease: Lease) -> list[Lease]:
    return lease.pool.members if lease.pool is not None else [lease]


def _carried(lease: Lease, now: Sums) -> tuple[int, int]:
    members = _members(lease)
    return (
        now.bytes_in + sum(member.past_in for member in members),
        now.bytes_out + sum(member.past_out for member in members),
    )


K = TypeVar("K")


def _page(entries: list[K], key: Callable[[K], str], show: Callable[[K], T], limit: int, after: str) -> Page[T]:
    """Those behind the one whose key is ``after``; from the beginning if there is none such any more."""
    start = 0
    if after:
        start = next((number for number, entry in enumerate(entries, 1) if key(entry) == after), 0)
    part = list(itertools.islice(entries, start, start + limit))
    has_more = len(entries) > start + limit
    return Page([show(entry) for entry in part], len(entries), key(part[-1]) if has_more else None)
