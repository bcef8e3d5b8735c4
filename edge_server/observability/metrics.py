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

METRICS: Final[dict[str, MetricInfo]] = {
    "build_info": MetricInfo(
        "gauge",
        "Always 1. The labels are the versions of this edge.",
        {"version": (), "engine": (), "engine_version": (), "python": ()},
    ),
    "start_time_seconds": MetricInfo(
        "gauge", "Time at which this edge started to serve, in seconds since the epoch."
    ),
    "draining": MetricInfo(
        "gauge", "1 while no new connections are accepted, because the edge stops or a successor took over."
    ),
    # Visitors.
    "visitors": MetricInfo("gauge", "Active visitors.", _KINDS),
    "visitors_begun_total": MetricInfo("counter", "Visitors that were admitted.", _KINDS),
    "visitors_ended_total": MetricInfo("counter", "Visitors whose connection ended, by reason.", _ENDINGS),
    "visitor_bytes_total": MetricInfo(
        "counter", "Bytes of visitors: in is from visitors to origins, out is back.", _DIRECTIONS
    ),
    "visit_seconds": MetricInfo("histogram", "Duration of finished visitor connections."),
    "visit_first_byte_seconds": MetricInfo(
        "histogram",
        "Time from a visitor's admission to the origin's first byte, of finished connections that had one.",
    ),
    "visitor_places": MetricInfo("gauge", "Visitors that may be active at once."),
    "visitors_refused_total": MetricInfo(
        "counter",
        "Visitors rejected by limits. places: number of visitors of the edge, network, tunnel or token, or a ban; "
        "waiting: too many waited for a disconnected client; arrivals: connection rate limit.",
        {"reason": ("places", "waiting", "arrivals")},
    ),
    "newcomers_waiting": MetricInfo("gauge", "TLS connections between accept and the end of their handshake."),
    "newcomer_places": MetricInfo(
        "gauge", "Handshakes that may be in progress at once; beyond that the largest source loses one."
    ),
    "newcomers_total": MetricInfo("counter", "New TLS connections, by result of the handshake.", _OUTCOMES),
    # Clients.
    "sessions": MetricInfo(
        "gauge",
        "Sessions of clients. stranger: not authenticated yet; away: lost its connection and may resume.",
        {"state": ("connected", "away", "stranger")},
    ),
    "sessions_begun_total": MetricInfo("counter", "Sessions that started with a valid token."),
    "sessions_resumed_total": MetricInfo("counter", "Sessions resumed on another connection."),
    "sessions_given_up_total": MetricInfo("counter", "Sessions that lost their connection and did not resume."),
    "sessions_refused_total": MetricInfo(
        "counter", "New sessions rejected because their token had no capacity left."
    ),
    "tokens_refused_total": MetricInfo(
        "counter",
        "Tokens rejected as invalid (wrong), or without a check after too many invalid ones (ignored).",
        {"reason": ("wrong", "ignored")},
    ),
    "tunnels": MetricInfo("gauge", "Public names in use."),
    # QUIC.
    "quic_connections": MetricInfo("gauge", "Open QUIC connections."),
    "quic_connections_closed_total": MetricInfo("counter", "Closed QUIC connections, by cause.", _CAUSES),
    "quic_bytes_total": MetricInfo(
        "counter", "UDP payload of all QUIC connections, added when each one ends.", _DIRECTIONS
    ),
    "quic_packets_total": MetricInfo(
        "counter",
        "QUIC packets sent, and packets or datagrams received, depending on the engine.",
        _DIRECTIONS,
    ),
    "quic_packets_lost_total": MetricInfo("counter", "Packets declared lost; their data was retransmitted."),
    "quic_bytes_in_flight": MetricInfo("gauge", "Bytes sent to clients and not acknowledged yet."),
    "quic_rtt_seconds": MetricInfo(
        "gauge", "Round trip times of the open connections; 0 without any.", {"of": ("median", "worst")}
    ),
    "quic_handshakes_begun_total": MetricInfo(
        "counter", "Handshakes started with clients whose address is validated."
    ),
    "quic_handshakes_refused_total": MetricInfo(
        "counter",
        "Handshakes rejected because the client's network already held the most unauthenticated connections.",
    ),
    "quic_strangers_replaced_total": MetricInfo(
        "counter", "Unauthenticated connections evicted for one of another network."
    ),
    "quic_answers_total": MetricInfo(
        "counter",
        "Stateless packets sent to unknown peers.",
        {"answer": ("retry", "version_negotiation", "stateless_reset")},
    ),
    "quic_faults_total": MetricInfo("counter", "Internal errors that cost at most one connection."),
    "background_faults_total": MetricInfo(
        "counter", "Internal errors in background tasks; the log has the details."
    ),
    "udp_datagrams_total": MetricInfo("counter", "UDP datagrams.", _DIRECTIONS),
    "udp_datagrams_dropped_total": MetricInfo(
        "counter",
        "Datagrams dropped. full: the socket's send buffer was full; oversize: larger than the interface's MTU; "
        "refused: no route or forbidden; unroutable: received for no known connection.",
        {"reason": ("full", "oversize", "refused", "unroutable")},
    ),
    # The machine and the certificates.
    "loop_lag_seconds": MetricInfo("gauge", "Largest delay of the event loop in the last minute."),
    "certificate_expiry_timestamp_seconds": MetricInfo(
        "gauge",
        "Expiry of the first certificate to expire, in seconds since the epoch: for visitors, and for clients. "
        "ACME certificates of unused names expire without renewal and are excluded.",
        {"seen_by": ("visitors", "clients")},
    ),
    "acme_orders_total": MetricInfo("counter", "Finished ACME orders.", {"outcome": get_args(OrderOutcome)}),
    "log_records_total": MetricInfo("counter", "Log records.", {"level": ("warning", "error")}),
}
"""All metrics by name, without :data:`PREFIX`."""

PROCESS_METRICS: Final[dict[str, MetricInfo]] = {
    "process_virtual_memory_bytes": MetricInfo("gauge", "Virtual memory size."),
    "process_resident_memory_bytes": MetricInfo("gauge", "Resident memory size."),
    "process_start_time_seconds": MetricInfo("gauge", "Start time of the process, in seconds since the epoch."),
    "process_cpu_seconds_total": MetricInfo("counter", "User and system CPU time."),
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
