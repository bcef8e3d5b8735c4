"""The figures of an edge: what they are called, what they mean, and where they are read.

Read when somebody asks and not before, so nothing of this is on the way of a byte. Their number does not depend on
anything that a visitor or a client can say: every label has a fixed set of values, all of which are always there.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final, Literal, get_args

from edge_server.certificates.acme.renewal import Outcome as OrderOutcome
from edge_server.certificates.context_store import validity_of
from edge_server.ingress.tls_listener import HandshakeOutcome
from edge_server.observability import logs
from edge_server.tunnels.visitor_log import SECONDS, EndReason, Kind
from quictunnel.transport.engine import CloseCause, EngineCounters
from quictunnel.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.visitor_log import Histogram

PREFIX: Final = "quictunnel_"


@dataclass(frozen=True, slots=True)
class Figure:
    """One of them. Units are in the names: ``seconds``, ``bytes``; others are counts."""

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The values that each may have; without any: those of one edge, which do not change."""


_DIRECTIONS: Final = {"direction": ("in", "out")}
_ENDINGS: Final = {"ending": tuple(ending.name.lower() for ending in EndReason)}
_KINDS: Final = {"kind": get_args(Kind)}
_OUTCOMES: Final = {"outcome": tuple(outcome.name.lower() for outcome in HandshakeOutcome)}
_CAUSES: Final = {"cause": tuple(cause.name.lower() for cause in CloseCause)}

FIGURES: Final[dict[str, Figure]] = {
    "build_info": Figure(
        "gauge",
        "1. What runs.",
        {"version": (), "engine": (), "engine_version": (), "python": ()},
    ),
    "start_time_seconds": Figure("gauge", "When this edge began to serve, since the epoch."),
    "draining": Figure("gauge", "1 while nobody is taken any more, because it stops or a successor took over."),
    # Visitors.
    "visitors": Figure("gauge", "Visitors that are in now.", _KINDS),
    "visitors_begun_total": Figure("counter", "Visitors that came in.", _KINDS),
    "visitors_ended_total": Figure("counter", "Visitors that left, by why.", _ENDINGS),
    "visitor_bytes_total": Figure(
        "counter", "Bytes of visitors: in is from them to the origins, out is back.", _DIRECTIONS
    ),
    "visit_seconds": Figure("histogram", "How long those stayed who left."),
    "visit_first_byte_seconds": Figure(
        "histogram", "From a visitor's coming in to the first byte of the origin; of those who left and had one."
    ),
    "visitor_places": Figure("gauge", "Visitors that may be in at once."),
    "visitors_refused_total": Figure(
        "counter",
        "Visitors sent away although their name exists: places: none was left for them; waiting: their client was "
        "away, and too many waited for it; arrivals: they came too often for what the edge keeps up with (of "
        "names that do not exist as well).",
        {"reason": ("places", "waiting", "arrivals")},
    ),
    "newcomers_waiting": Figure("gauge", "TLS connections between accept and the end of their handshake now."),
    "newcomer_places": Figure("gauge", "How many of them there may be; then whoever has most makes room."),
    "newcomers_total": Figure("counter", "How the arrival of TLS connections ended.", _OUTCOMES),
    # Clients.
    "sessions": Figure(
        "gauge",
        "Sessions of clients now. stranger: has shown no token yet; away: lost its connection and may come back.",
        {"state": ("connected", "away", "stranger")},
    ),
    "sessions_begun_total": Figure("counter", "Sessions that were begun with a good token."),
    "sessions_resumed_total": Figure("counter", "How often a session went on with another connection."),
    "sessions_given_up_total": Figure("counter", "Sessions that lost their connection and did not come back."),
    "sessions_refused_total": Figure("counter", "New sessions for which their token had no place left."),
    "tokens_refused_total": Figure(
        "counter",
        "Tokens that were not good when they came (wrong), or not looked at after too many of those (ignored).",
        {"reason": ("wrong", "ignored")},
    ),
    "tunnels": Figure("gauge", "Names that are held now."),
    # QUIC.
    "quic_connections": Figure("gauge", "QUIC connections now."),
    "quic_connections_closed_total": Figure("counter", "QUIC connections that are over, by why.", _CAUSES),
    "quic_bytes_total": Figure(
        "counter", "UDP payload of all QUIC connections, as far as known at the end of each.", _DIRECTIONS
    ),
    "quic_packets_total": Figure(
        "counter",
        "QUIC packets sent, and packets or datagrams received, whichever the engine counts.",
        _DIRECTIONS,
    ),
    "quic_packets_lost_total": Figure("counter", "Packets declared lost; what they carried was sent again."),
    "quic_bytes_in_flight": Figure("gauge", "Bytes sent to clients and not acknowledged yet."),
    "quic_rtt_seconds": Figure(
        "gauge", "Round trip times of the connections now; 0 without any.", {"of": ("median", "worst")}
    ),
    "quic_handshakes_begun_total": Figure("counter", "Handshakes begun with clients whose address is proven."),
    "quic_handshakes_refused_total": Figure(
        "counter", "Handshakes not begun, since the client's network held as many places without a token as any."
    ),
    "quic_strangers_replaced_total": Figure(
        "counter", "Connections without a good token that made room for one of another network."
    ),
    "quic_answers_total": Figure(
        "counter",
        "Packets to strangers that cost no memory.",
        {"answer": ("retry", "version_negotiation", "stateless_reset")},
    ),
    "quic_faults_total": Figure("counter", "Faults of this program that cost a connection or less."),
    "background_faults_total": Figure("counter", "Faults of this program in background work; its log says where."),
    "udp_datagrams_total": Figure("counter", "UDP datagrams.", _DIRECTIONS),
    "udp_datagrams_dropped_total": Figure(
        "counter",
        "Datagrams not sent: full: the socket's buffer was; oversize: larger than the interface; refused: no "
        "route or forbidden. unroutable: received, and belonging to nothing.",
        {"reason": ("full", "oversize", "refused", "unroutable")},
    ),
    # The machine, and what has to be looked after.
    "loop_lag_seconds": Figure("gauge", "The worst delay of the event loop in the last minute."),
    "certificate_expiry_timestamp_seconds": Figure(
        "gauge",
        "When the first certificate ends, since the epoch: of those that visitors see, and of that for clients. "
        "Those of ACME for names that are nobody's any more end unrenewed, and do not count.",
        {"seen_by": ("visitors", "clients")},
    ),
    "acme_orders_total": Figure(
        "counter", "Orders of certificates by ACME that ended.", {"outcome": get_args(OrderOutcome)}
    ),
    "log_records_total": Figure("counter", "Lines of the log.", {"level": ("warning", "error")}),
}
"""All of them; :data:`PREFIX` stands before each."""

PROCESS: Final[dict[str, Figure]] = {
    "process_virtual_memory_bytes": Figure("gauge", "Address space."),
    "process_resident_memory_bytes": Figure("gauge", "Memory."),
    "process_start_time_seconds": Figure("gauge", "When the process was started, since the epoch."),
    "process_cpu_seconds_total": Figure("counter", "Time of the processor, its own and the kernel's for it."),
    "process_open_fds": Figure("gauge", "Open descriptors."),
    "process_max_fds": Figure("gauge", "Descriptors that may be open."),
}
"""Of prometheus-client, under the names that dashboards know; on Linux."""

Values = tuple[str, ...]
"""Of a figure's labels, in their order."""


def read(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    """Every counter and gauge as it is now, by its name without the prefix. On the loop's thread; takes about two
    microseconds for each session and each visitor."""
    yield from _of_the_program(scene)
    yield from _of_visitors(scene)
    yield from _of_clients(scene)
    yield from _of_quic(scene)
    yield from _of_certificates(scene)


def distributions(scene: Introspection) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """Every histogram: its name, how many were at most each bound, and the sum."""
    ledger = scene.ledger
    for name, classes in (("visit_seconds", ledger.durations), ("visit_first_byte_seconds", ledger.first_bytes)):
        yield name, _cumulative(classes), classes.sum


def _cumulative(classes: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, SECONDS), "+Inf"]
    counts = classes.counts
    return [(bound, float(sum(counts[: index + 1]))) for index, bound in enumerate(bounds)]


def _of_the_program(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    engine = scene.endpoint.engine
    yield "build_info", {(VERSION, engine.name, engine.version, platform.python_version()): 1}
    yield "start_time_seconds", {(): scene.started_at}
    yield "draining", {(): scene.is_draining()}
    yield "loop_lag_seconds", {(): scene.lag.worst}
    yield "log_records_total", {(level,): logs.written[level] for level in ("warning", "error")}


def _of_visitors(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    ledger, admission, front = scene.ledger, scene.admission, scene.front
    now = dict.fromkeys(get_args(Kind), 0)
    for visit in ledger.now:
        now[visit.kind] += 1
    yield "visitors", {(kind,): number for kind, number in now.items()}
    yield "visitors_begun_total", {(kind,): ledger.came[kind] for kind in get_args(Kind)}
    yield "visitors_ended_total", {(ending.name.lower(),): ledger.endings[ending] for ending in EndReason}
    yield "visitor_bytes_total", {("in",): ledger.bytes_in, ("out",): ledger.bytes_out}
    yield "visitor_places", {(): admission.cap}
    yield (
        "visitors_refused_total",
        {
            ("places",): admission.refused,
            ("waiting",): admission.waiting.given_up,
            ("arrivals",): admission.arrivals.refused,
        },
    )
    yield "newcomers_waiting", {(): len(front.pending)}
    yield "newcomer_places", {(): front.pending.limit}
    yield "newcomers_total", {(outcome.name.lower(),): front.outcomes[outcome] for outcome in HandshakeOutcome}


def _of_clients(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    sessions, attempts = scene.sessions, scene.attempts
    strangers = sum(guest.identity is None for guest in scene.guests)
    yield (
        "sessions",
        {
            ("connected",): len(scene.guests) - strangers - sessions.away,
            ("away",): sessions.away,
            ("stranger",): strangers,
        },
    )
    yield "sessions_begun_total", {(): sessions.begun}
    yield "sessions_resumed_total", {(): sessions.resumed}
    yield "sessions_given_up_total", {(): sessions.given_up}
    yield "sessions_refused_total", {(): sessions.refused}
    yield "tokens_refused_total", {("wrong",): attempts.wrong, ("ignored",): attempts.refused}
    yield "tunnels", {(): len(scene.registry)}


def _of_quic(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    endpoint, udp = scene.endpoint, scene.udp.counters
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
    yield "quic_strangers_replaced_total", {(): engine.strangers_replaced}
    yield (
        "quic_answers_total",
        {
            ("retry",): engine.retries_sent,
            ("version_negotiation",): engine.version_negotiations_sent,
            ("stateless_reset",): engine.resets_sent,
        },
    )
    yield "background_faults_total", {(): scene.supervisor.failures}
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


def _of_certificates(scene: Introspection) -> Iterator[tuple[str, dict[Values, float]]]:
    acme = scene.certificates.acme
    ends = [validity.until for validity in scene.certificates.validities()]
    yield (
        "certificate_expiry_timestamp_seconds",
        {
            ("visitors",): min(ends, default=0.0),
            ("clients",): validity_of(scene.identity.read_bytes()).until,
        },
    )
    yield (
        "acme_orders_total",
        {(outcome,): 0 if acme is None else acme.keeper.outcomes[outcome] for outcome in get_args(OrderOutcome)},
    )
