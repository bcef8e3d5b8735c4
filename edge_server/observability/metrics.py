"""Metrics of an edge: names, descriptions, and where the values come from.

Values are read on request, so that nothing here is in the byte path. The number of series does not depend on
visitors or clients: every label has a fixed set of values, all of which are always present.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final, Literal, get_args

from edge_server.certificates.acme.certificate_manager import OrderOutcome
from edge_server.certificates.context_store import validity_of
from edge_server.ingress.error_pages import PAGES
from edge_server.ingress.tls_listener import HandshakeOutcome
from edge_server.observability import logs
from edge_server.tunnels.visitor_log import DURATION_BUCKETS, EndReason, Kind
from quictunnel.shared.version import VERSION
from quictunnel.transport.engine import CloseCause, EngineCounters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.visitor_log import Histogram

PREFIX: Final = "quictunnel_"
"""Prefix of every name."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Description of one metric. Units are in the names: ``seconds``, ``bytes``; others are counts."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Possible values by label; none: a constant of one edge."""


_DIRECTIONS: Final = {"direction": ("in", "out")}
_ENDINGS: Final = {"ending": tuple(ending.label for ending in EndReason)}
_KINDS: Final = {"kind": get_args(Kind)}
_OUTCOMES: Final = {"outcome": tuple(outcome.value for outcome in HandshakeOutcome)}
_CAUSES: Final = {"cause": tuple(cause.name.lower() for cause in CloseCause)}

PAGE_STATUSES: Final = tuple(sorted({page.status[:3] for page in PAGES.values()}))
"""HTTP status codes of the edge's error pages."""

METRICS: Final[dict[str, MetricInfo]] = {
    "build_info": MetricInfo(
        "gauge",
        "Always 1. The labels are the versions of this edge, of its QUIC engine and of Python.",
        {"version": (), "engine": (), "engine_version": (), "python": ()},
    ),
    "start_time_seconds": MetricInfo(
        "gauge", "Time at which this edge started to serve, in seconds since 1970-01-01 UTC."
    ),
    "draining": MetricInfo(
        "gauge",
        "1 while this edge accepts no new connections, because it is stopping or another edge has taken over; "
        "else 0.",
    ),
    # Visitors.
    "visitors": MetricInfo(
        "gauge", "Connections of visitors that are open now, after their TLS handshake.", _KINDS
    ),
    "visitors_begun_total": MetricInfo(
        "counter",
        "Visitors admitted to a tunnel. Grows by 1 when a visitor has finished its TLS handshake, or has "
        "connected to a TCP port.",
        _KINDS,
    ),
    "visitors_ended_total": MetricInfo(
        "counter",
        "Admitted visitors whose connection is over, by reason. Grows by 1 at the end of each. done, left: all "
        "delivered; visitor, origin: broken off by that side; refused, stalled, closed, sent_away: see Logs.",
        _ENDINGS,
    ),
    "visitor_bytes_total": MetricInfo(
        "counter",
        "Bytes of visitors' data, without TLS and QUIC. in: from visitors to local services; out: from local "
        "services to visitors. Grows as the bytes pass.",
        _DIRECTIONS,
    ),
    "visit_seconds": MetricInfo(
        "histogram", "Seconds for which a visitor's connection was open. Observed at the end of each connection."
    ),
    "visit_first_byte_seconds": MetricInfo(
        "histogram",
        "Seconds from a visitor's admission to the first byte of the local service. Observed at the end of each "
        "connection that received a byte.",
    ),
    "visitor_places": MetricInfo("gauge", "Largest number of visitors that may be connected at once."),
    "visitors_refused_total": MetricInfo(
        "counter",
        "Visitors refused by a limit. Grows by 1 for each. places: of the edge, a network, a tunnel or a token, "
        "or a ban; waiting: too many wait for a lost client; arrivals: too many new ones a second.",
        {"reason": ("places", "waiting", "arrivals")},
    ),
    "error_pages_total": MetricInfo(
        "counter",
        "Error pages that the edge sent itself. Grows by 1 for each page. 404: no tunnel at this name; 502: the "
        "client did not reach its local service; 503: the tunnel is offline or full.",
        {"status": PAGE_STATUSES},
    ),
    "newcomers_waiting": MetricInfo(
        "gauge",
        "Connections to the TLS port that are in their handshake now, are being refused, or get an error page.",
    ),
    "newcomer_places": MetricInfo(
        "gauge",
        "Largest number of connections that may be in their TLS handshake at once. Beyond it the network with "
        "most of them loses its oldest.",
    ),
    "newcomers_total": MetricInfo(
        "counter",
        "New connections to the TLS port, by result. Grows by 1 at the end of each handshake. welcome: "
        "completed; refused: no tunnel; slow: timed out; left: closed by the visitor; crowded: too many at once.",
        _OUTCOMES,
    ),
    # Clients.
    "sessions": MetricInfo(
        "gauge",
        "Sessions of clients now. connected: with a valid token and a connection; away: has lost its connection "
        "and may resume; stranger: has not sent a valid token yet.",
        {"state": ("connected", "away", "stranger")},
    ),
    "sessions_begun_total": MetricInfo(
        "counter", "Sessions begun. Grows by 1 when a client presents a valid token and resumes no session."
    ),
    "sessions_resumed_total": MetricInfo(
        "counter", "Sessions resumed. Grows by 1 when a client continues its session on another connection."
    ),
    "sessions_given_up_total": MetricInfo(
        "counter",
        "Sessions given up. Grows by 1 when a client that lost its connection has not resumed within --hold, or "
        "must make room.",
    ),
    "sessions_refused_total": MetricInfo(
        "counter", "New sessions refused. Grows by 1 when a token has used up its share of sessions."
    ),
    "tokens_refused_total": MetricInfo(
        "counter",
        "Refused tokens. Grows by 1 for each attempt. wrong: the token is unknown, revoked or expired; ignored: "
        "not checked, after too many wrong ones from the same address.",
        {"reason": ("wrong", "ignored")},
    ),
    "tunnels": MetricInfo(
        "gauge", "Public names in use now, including those kept for a client that has not reconnected yet."
    ),
    # QUIC.
    "quic_connections": MetricInfo("gauge", "QUIC connections with clients that are open now."),
    "quic_connections_closed_total": MetricInfo(
        "counter",
        "Closed QUIC connections. Grows by 1 for each. local, peer: closed by that side; timeout: silence; "
        "reset: forgotten by the peer; handshake: never open; protocol: violated by the peer; internal: fault.",
        _CAUSES,
    ),
    "quic_bytes_total": MetricInfo(
        "counter",
        "Bytes in UDP datagrams of all QUIC connections, headers of QUIC included. Grows as they are received "
        "and sent.",
        _DIRECTIONS,
    ),
    "quic_packets_total": MetricInfo(
        "counter",
        "QUIC packets of all connections. Grows as they are received and sent. An engine may count received "
        "datagrams instead, which hold one packet or more.",
        _DIRECTIONS,
    ),
    "quic_packets_lost_total": MetricInfo(
        "counter", "Sent QUIC packets that were declared lost. Grows by 1 for each; their data is sent again."
    ),
    "quic_bytes_in_flight": MetricInfo(
        "gauge", "Bytes sent to clients and not acknowledged yet, of all connections."
    ),
    "quic_rtt_seconds": MetricInfo(
        "gauge",
        "Round-trip time to clients in seconds, over the connections that are open now; 0 without any.",
        {"of": ("median", "worst")},
    ),
    "quic_handshakes_begun_total": MetricInfo(
        "counter",
        "QUIC handshakes begun. Grows by 1 when a peer whose address is validated starts one.",
    ),
    "quic_handshakes_refused_total": MetricInfo(
        "counter",
        "QUIC handshakes refused. Grows by 1 when all places of peers without a valid token are taken, and the "
        "new peer's network holds the most.",
    ),
    "quic_strangers_replaced_total": MetricInfo(
        "counter",
        "QUIC connections without a valid token that were closed to make room. Grows by 1 for each that a peer "
        "of another network replaces.",
    ),
    "quic_answers_total": MetricInfo(
        "counter",
        "Packets sent to peers without a connection. Grows by 1 for each. retry: asks to prove the address; "
        "version_negotiation: lists versions of QUIC; stateless_reset: ends a forgotten connection.",
        {"answer": ("retry", "version_negotiation", "stateless_reset")},
    ),
    "quic_faults_total": MetricInfo(
        "counter",
        "Faults of this program in a QUIC connection. Grows by 1 for each; a fault ends at most one connection.",
    ),
    "background_faults_total": MetricInfo(
        "counter",
        "Background tasks that failed. Grows by 1 for each; the log has the error, and the task is restarted.",
    ),
    "udp_datagrams_total": MetricInfo(
        "counter", "UDP datagrams of the QUIC port. Grows as they are received and sent.", _DIRECTIONS
    ),
    "udp_datagrams_dropped_total": MetricInfo(
        "counter",
        "Dropped UDP datagrams. Grows by 1 for each. full: the send buffer was full; oversize: larger than the "
        "network allows; refused: no route, or a firewall; unroutable: for no known connection.",
        {"reason": ("full", "oversize", "refused", "unroutable")},
    ),
    # The machine and the certificates.
    "loop_lag_seconds": MetricInfo(
        "gauge",
        "Largest delay in seconds by which the event loop was late in the last minute. Above 0.25 the edge is "
        "overloaded.",
    ),
    "certificate_expiry_timestamp_seconds": MetricInfo(
        "gauge",
        "Time at which the first certificate expires, in seconds since 1970-01-01 UTC. visitors, clients: who "
        "sees it. ACME certificates of unused names are not counted, because they are not renewed.",
        {"seen_by": ("visitors", "clients")},
    ),
    "acme_orders_total": MetricInfo(
        "counter",
        "Finished orders of certificates by ACME. Grows by 1 for each that was obtained or has failed.",
        {"outcome": get_args(OrderOutcome)},
    ),
    "log_records_total": MetricInfo(
        "counter", "Warnings and errors in this edge's log. Grows by 1 for each.", {"level": ("warning", "error")}
    ),
}
"""All metrics by name, without :data:`PREFIX`."""

PROCESS_METRICS: Final[dict[str, MetricInfo]] = {
    "process_virtual_memory_bytes": MetricInfo("gauge", "Virtual memory size."),
    "process_resident_memory_bytes": MetricInfo("gauge", "Resident memory size."),
    "process_start_time_seconds": MetricInfo(
        "gauge", "Start time of the process, in seconds since 1970-01-01 UTC."
    ),
    "process_cpu_seconds_total": MetricInfo("counter", "User and system CPU time, in seconds."),
    "process_open_fds": MetricInfo("gauge", "Open file descriptors."),
    "process_max_fds": MetricInfo("gauge", "Limit of open file descriptors."),
}
"""Metrics of prometheus-client under their usual names, on Linux."""

Values = tuple[str, ...]
"""Values of a metric's labels, in their order."""


def read_metrics(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    """Yield every counter and gauge by its name without the prefix. On the event loop's thread; takes about two
    microseconds for each session and each visitor."""
    yield from _of_the_program(introspection)
    yield from _of_visitors(introspection)
    yield from _of_clients(introspection)
    yield from _of_quic(introspection)
    yield from _of_certificates(introspection)


def read_histograms(introspection: Introspection) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """Yield every histogram: its name, the count up to each bound, and the sum."""
    visitor_log = introspection.visitor_log
    for name, histogram in (
        ("visit_seconds", visitor_log.durations),
        ("visit_first_byte_seconds", visitor_log.times_to_first_byte),
    ):
        yield name, _cumulative(histogram), histogram.sum


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, DURATION_BUCKETS), "+Inf"]
    counts = histogram.counts
    return [(bound, float(sum(counts[: index + 1]))) for index, bound in enumerate(bounds)]


def _of_the_program(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    engine = introspection.endpoint.engine
    yield "build_info", {(VERSION, engine.name, engine.version, platform.python_version()): 1}
    yield "start_time_seconds", {(): introspection.started_at}
    yield "draining", {(): introspection.is_draining()}
    yield "loop_lag_seconds", {(): introspection.lag.worst}
    yield "log_records_total", {(level,): logs.written[level] for level in ("warning", "error")}


def _of_visitors(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    visitor_log, admission, listener = (
        introspection.visitor_log,
        introspection.admission,
        introspection.tls_listener,
    )
    now = dict.fromkeys(get_args(Kind), 0)
    for visit in visitor_log.active:
        now[visit.kind] += 1
    yield "visitors", {(kind,): number for kind, number in now.items()}
    yield "visitors_begun_total", {(kind,): visitor_log.admitted_total[kind] for kind in get_args(Kind)}
    yield "visitors_ended_total", {(reason.label,): visitor_log.ended_total[reason] for reason in EndReason}
    yield "visitor_bytes_total", {("in",): visitor_log.bytes_in, ("out",): visitor_log.bytes_out}
    yield "visitor_places", {(): admission.cap}
    yield (
        "visitors_refused_total",
        {
            ("places",): admission.refused,
            ("waiting",): admission.waiting.evictions,
            ("arrivals",): admission.rate_limiter.refused,
        },
    )
    sent = introspection.error_pages.sent
    yield "error_pages_total", {(status,): sent[status] for status in PAGE_STATUSES}
    yield "newcomers_waiting", {(): len(listener.pending)}
    yield "newcomer_places", {(): listener.pending.limit}
    yield "newcomers_total", {(outcome.value,): listener.outcomes[outcome] for outcome in HandshakeOutcome}


def _of_clients(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    sessions, attempts = introspection.sessions, introspection.attempts
    unauthenticated = sum(client.identity is None for client in introspection.clients)
    yield (
        "sessions",
        {
            ("connected",): len(introspection.clients) - unauthenticated - sessions.away,
            ("away",): sessions.away,
            ("stranger",): unauthenticated,
        },
    )
    yield "sessions_begun_total", {(): sessions.begun}
    yield "sessions_resumed_total", {(): sessions.resumed}
    yield "sessions_given_up_total", {(): sessions.given_up}
    yield "sessions_refused_total", {(): sessions.refused}
    yield "tokens_refused_total", {("wrong",): attempts.wrong, ("ignored",): attempts.refused}
    yield "tunnels", {(): len(introspection.registry)}


def _of_quic(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    endpoint, udp = introspection.endpoint, introspection.udp.counters
    engine: EngineCounters = endpoint.engine.counters
    known = [connection.stats() for connection in endpoint.connections]
    traffic = endpoint.traffic()
    trips = [stats.rtt for stats in known]
    yield "quic_connections", {(): len(known)}
    yield (
        "quic_connections_closed_total",
        {(cause.name.lower(),): engine.by_cause.get(cause, 0) for cause in CloseCause},
    )
    yield "quic_bytes_total", {("in",): traffic.bytes_received, ("out",): traffic.bytes_sent}
    yield "quic_packets_total", {("in",): traffic.packets_received, ("out",): traffic.packets_sent}
    yield "quic_packets_lost_total", {(): traffic.packets_lost}
    yield "quic_bytes_in_flight", {(): sum(stats.bytes_in_flight for stats in known)}
    yield "quic_rtt_seconds", {("median",): median(trips or [0.0]), ("worst",): max(trips, default=0.0)}
    yield "quic_handshakes_begun_total", {(): engine.handshakes_begun}
    yield "quic_handshakes_refused_total", {(): engine.half_open_refused}
    yield "quic_strangers_replaced_total", {(): engine.unadmitted_evicted}
    yield (
        "quic_answers_total",
        {
            ("retry",): engine.retries_sent,
            ("version_negotiation",): engine.version_negotiations_sent,
            ("stateless_reset",): engine.resets_sent,
        },
    )
    yield "background_faults_total", {(): introspection.supervisor.failures}
    yield "quic_faults_total", {(): endpoint.faults + engine.by_cause.get(CloseCause.INTERNAL, 0)}
    yield "udp_datagrams_total", {("in",): udp.received, ("out",): udp.sent}
    yield (
        "udp_datagrams_dropped_total",
        {
            ("full",): udp.dropped_full,
            ("oversize",): udp.dropped_oversize,
            ("refused",): udp.dropped_refused,
            ("unroutable",): engine.datagrams_dropped,
        },
    )


def _of_certificates(introspection: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    acme = introspection.certificates.acme
    ends = [validity.until for validity in introspection.certificates.validities()]
    yield (
        "certificate_expiry_timestamp_seconds",
        {
            ("visitors",): min(ends, default=0.0),
            ("clients",): validity_of(introspection.identity.read_bytes()).until,
        },
    )
    yield (
        "acme_orders_total",
        {(outcome,): 0 if acme is None else acme.manager.outcomes[outcome] for outcome in get_args(OrderOutcome)},
    )
