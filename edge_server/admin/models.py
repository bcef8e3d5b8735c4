"""Read models of an edge at one moment, as plain values: for the page, the API, metrics and dumps.

Reads an :class:`~edge_server.observability.introspection.Introspection` and changes nothing; independent of HTTP.
Everything runs on the event loop's thread. Lists are bounded by ``limit`` and include their total.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edge_server.admin.lists import ListQuery, ListView, Page
from edge_server.admin.state_types import Certificate, Edge, Engine, Link, Session, Tunnel, Visitor
from quictunnel.shared.address import format_address, https_url
from quictunnel.shared.output import escape_unprintable
from quictunnel.shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_server.certificates.context_store import Validity
    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.tunnel import Tunnel as RegisteredTunnel
    from edge_server.tunnels.visitor_log import VisitorConnection

MAX_TEXT: Final = 256
"""Characters of a text that a peer chose; valid ones are shorter."""
CERTIFICATES_CACHE_TIME: Final = 10.0
"""Seconds for which the expiry of the certificates is cached, because their files have to be read."""


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
            domain=introspection.name_directory.domain,
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

    def owner_name(self, key: str) -> str:
        """Return the note of an owner's token as one line of printable characters; empty: none."""
        return escape_unprintable(self._introspection.tokens.name_of_owner(key)[:MAX_TEXT])

    def sessions(self, query: ListQuery, *, only: str = "") -> Page[Session]:
        """Return authenticated sessions, the oldest first. ``only``: of this owner."""
        clients = [client for client in self._authenticated() if only in ("", _owner(client))]
        clients.sort(key=lambda client: client.since)
        view = ListView(
            key=id_of,
            show=self._session,
            texts=lambda client: (
                _owner(client),
                self.owner_name(_owner(client)),
                _address_of(client),
                client.software,
            ),
        )
        return view.page(clients, query)

    def tunnels(self, query: ListQuery, *, only: str = "") -> Page[Tunnel]:
        """Return tunnels, sorted by name. ``only``: of this owner."""
        tunnels = [tunnel for tunnel in self._introspection.registry if only in ("", tunnel.owner)]
        tunnels.sort(key=lambda tunnel: tunnel.name)
        now = self.measure()
        view = ListView(
            key=lambda tunnel: tunnel.name,
            show=lambda tunnel: self._tunnel(tunnel, now),
            texts=self._tunnel_texts,
            columns={
                "name": lambda tunnel: tunnel.name,
                "owner": lambda tunnel: self.owner_name(tunnel.owner) or tunnel.owner,
                "visitors": lambda tunnel: now[tunnel.name].visitors,
                "bytes_in": lambda tunnel: _carried(tunnel, now[tunnel.name])[0],
                "bytes_out": lambda tunnel: _carried(tunnel, now[tunnel.name])[1],
                "rate_in": lambda tunnel: self._meter.rate(tunnel.name)[0],
                "rate_out": lambda tunnel: self._meter.rate(tunnel.name)[1],
                "age": lambda tunnel: -tunnel.since,
            },
        )
        return view.page(tunnels, query)

    def tunnel(self, name: str) -> Tunnel | None:
        """Return one tunnel by its name, or None."""
        found = self._introspection.registry.find(name)
        return None if found is None else self._tunnel(found, self.measure())

    def visitors(self, query: ListQuery, *, only: str = "") -> Page[Visitor]:
        """Return active visitors, the newest first. ``only``: of this tunnel."""
        visitor_log = self._introspection.visitor_log
        view = ListView(
            key=visitor_log.id_of,
            show=self._visitor,
            texts=lambda visit: (
                visit.address,
                visit.tunnel_name,
                visit.owner,
                self.owner_name(visit.owner),
            ),
            columns={
                "address": lambda visit: visit.address,
                "tunnel": lambda visit: visit.tunnel_name,
                "bytes_in": lambda visit: visit.bytes_in,
                "bytes_out": lambda visit: visit.bytes_out,
                "age": lambda visit: -visit.began,
            },
        )
        found = [visit for visit in reversed(visitor_log.active) if only in ("", visit.tunnel_name)]
        if (bound := visitor_log.number_of(query.after)) is not None and not query.sort:
            # Also after a visitor that has left meanwhile.
            skipped = sum(visit.number >= bound for visit in found)
            query = replace(query, after="", offset=skipped)
        return view.page(found, query)

    def certificates(self, query: ListQuery) -> Page[Certificate]:
        """Return the certificates, the most urgent first."""
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
        found.sort(key=_urgency)
        view: ListView[Certificate, Certificate] = ListView(
            key=lambda each: each.names[0], show=lambda each: each, texts=lambda each: each.names
        )
        return view.page(found, query)

    def measure(self) -> dict[str, Totals]:
        """Measure the rates of all tunnels. Return active visitors and their bytes by tunnel."""
        now: defaultdict[str, Totals] = defaultdict(Totals)
        for visit in self._introspection.visitor_log.active:  # ten thousand cost some milliseconds
            sums = now[visit.tunnel_name]
            sums.visitors += 1
            sums.bytes_in += visit.bytes_in
            sums.bytes_out += visit.bytes_out
        self._meter.measure(
            lambda: {tunnel.name: _carried(tunnel, now[tunnel.name]) for tunnel in self._introspection.registry}
        )
        return now

    # Single entries.

    def _authenticated(self) -> list[ClientSession]:
        return [client for client in self._introspection.clients if client.identity is not None]

    def _session(self, client: ClientSession) -> Session:
        session = client.session
        tracing = self._introspection.tracing
        file = tracing.file_of(client)
        return Session(
            id=id_of(client),
            owner=_owner(client),
            owner_name=self.owner_name(_owner(client)),
            address=_address_of(client),
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

    def _tunnel(self, tunnel: RegisteredTunnel, now: dict[str, Totals]) -> Tunnel:
        introspection = self._introspection
        sums = now[tunnel.name]
        bytes_in, bytes_out = _carried(tunnel, sums)
        host = introspection.name_directory.host_of(tunnel.name)
        rate_in, rate_out = self._meter.rate(tunnel.name)
        return Tunnel(
            name=tunnel.name,
            url=https_url(host, introspection.https_port),
            tcp_port=tunnel.tcp_port or None,
            owner=tunnel.owner,
            owner_name=self.owner_name(tunnel.owner),
            members=len(tunnel.backends),
            is_passthrough=tunnel.options.passthrough,
            age=max(0.0, self._clock() - tunnel.since),
            visitors=sums.visitors,
            came=tunnel.total_visitors,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            rate_in=rate_in,
            rate_out=rate_out,
        )

    def _tunnel_texts(self, tunnel: RegisteredTunnel) -> Iterable[str]:
        host = self._introspection.name_directory.host_of(tunnel.name)
        return host, tunnel.owner, self.owner_name(tunnel.owner), f":{tunnel.tcp_port}" if tunnel.tcp_port else ""

    def _visitor(self, visit: VisitorConnection) -> Visitor:
        return Visitor(
            id=self._introspection.visitor_log.id_of(visit),
            address=visit.address,
            port=visit.port,
            tunnel=visit.tunnel_name,
            owner=visit.owner,
            owner_name=self.owner_name(visit.owner),
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


def _address_of(client: ClientSession) -> str:
    host, port = client.session.link.connection.address[:2]
    return format_address(str(host), int(port))


def _urgency(certificate: Certificate) -> tuple[bool, float]:
    """Return a sort key: those whose last order failed first, then those that expire first."""
    return not certificate.last_error, certificate.expires_at or 0.0


def _carried(tunnel: RegisteredTunnel, now: Totals) -> tuple[int, int]:
    return now.bytes_in + tunnel.past_in, now.bytes_out + tunnel.past_out
