"""The log of visitors: tunnel, duration, bytes and end of each visitor connection.

Each active visitor has a :class:`VisitorConnection`. The :class:`VisitorLog` has the active ones, totals of the
finished ones, and writes one access log line for each that ends. This module makes no decisions.
"""

from __future__ import annotations

import enum
import logging
import secrets
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from edge_server.resources.peer_network import peer_prefix
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.splice import Splice
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

Kind = Literal["tls", "tcp", "passthrough"]
"""TLS terminated by the edge; plain TCP at a port; TLS terminated by the origin."""


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """The listener through which a visitor connected."""

    is_tls_terminated: bool
    """True if the edge terminated its TLS."""
    host_name: str = ""
    """Host name that the visitor requested; empty at a TCP port."""

    @property
    def kind(self) -> Kind:
        """Return the kind of visitor, as it is logged and counted."""
        if self.is_tls_terminated:
            return "tls"
        return "passthrough" if self.host_name else "tcp"


BY_PORT: Final = EntryPoint(is_tls_terminated=False)


class EndReason(enum.Enum):
    """Reason for the end of a visitor connection: its label in metrics and in the log, and a description. The set
    is fixed, so that counters by reason are bounded."""

    COMPLETED = ("done", "both sides finished")
    VISITOR_CLOSED = ("left", "the origin finished, then the visitor closed")
    """The visitor closed without a half-close before, as many programs do after the response, such as curl."""
    VISITOR_ABORTED = ("visitor", "the visitor closed early")
    ORIGIN_ABORTED = ("origin", "the origin closed early")
    ORIGIN_UNREACHABLE = ("refused", "the origin could not be reached")
    STALLED = ("stalled", "one side read nothing for too long")
    TUNNEL_CLOSED = ("closed", "the tunnel was closed, or lost its client")
    REJECTED = ("sent_away", "refused: no client accepted it")

    def __init__(self, label: str, description: str) -> None:
        self.label = label
        self.description = description


_BY_CODE: Final = {
    StreamCode.ABORTED: EndReason.ORIGIN_ABORTED,
    StreamCode.REFUSED: EndReason.ORIGIN_UNREACHABLE,
    StreamCode.UNREACHABLE: EndReason.ORIGIN_UNREACHABLE,
    StreamCode.UNKNOWN_LEASE: EndReason.TUNNEL_CLOSED,
    StreamCode.STALLED: EndReason.STALLED,
    StreamCode.CLOSING: EndReason.TUNNEL_CLOSED,
}


DURATION_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
"""Upper bounds of the histogram's buckets, half a decade each, from a request on loopback to an hour."""


_LINE: Final = "visitor %s of %s (%s): %d bytes in, %d out, %.3f s, %s"
MAX_DIGITS: Final = 16
"""Digits of a visitor's number; more than an edge ever counts."""


class Histogram:
    """A histogram of durations."""

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BUCKETS) + 1)
        """Count of each bucket; the last one is for durations above all bounds."""
        self.sum = 0.0

    def count(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.sum += seconds


class ServingBackend(Protocol):
    """A client that serves visitors."""

    active: int
    """Visitors that it serves now."""

    def note_refusal(self) -> None:
        """Note that its origin has refused a visitor."""


class VisitorConnection:
    """One active visitor."""

    __slots__ = (
        "address",
        "alpn",
        "backend",
        "began",
        "kind",
        "number",
        "owner",
        "peer",
        "port",
        "stream",
        "time_to_first_byte",
        "tls",
        "tunnel_name",
    )

    def __init__(self, address: str, port: int, kind: Kind, *, tunnel_name: str, owner: str) -> None:
        self.number = 0
        """Number of the visitor since the start of this edge, set by the log."""
        self.address = address
        self.peer = peer_prefix(address)
        """Its address, or the /64 of an IPv6 address: what limits count as one peer."""
        self.port = port
        self.kind: Kind = kind
        self.tunnel_name = tunnel_name
        self.owner = owner
        self.tls = ""
        """Version of the TLS that the edge terminates, as OpenSSL names it (``TLSv1.3``); else empty."""
        self.alpn = ""
        """ALPN protocol of that TLS: ``h2`` or ``http/1.1``; empty for none."""
        self.began = time.monotonic()
        self.time_to_first_byte: float | None = None
        """Seconds from ``began`` to the first byte of the origin; None until then."""
        self.backend: ServingBackend | None = None
        """The client that serves it; None while it is queued."""
        self.stream: Stream | None = None
        """Its stream to the client; None while it is queued."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the visitor to the origin so far."""
        return self.stream.bytes_sent if self.stream is not None else 0

    @property
    def bytes_out(self) -> int:
        """Bytes from the origin to the visitor so far."""
        return self.stream.bytes_received if self.stream is not None else 0

    def set_backend(self, backend: ServingBackend | None) -> None:
        """Set the client that serves the visitor; None at the end."""
        if self.backend is not None:
            self.backend.active -= 1
        self.backend = backend
        if backend is not None:
            backend.active += 1

    def set_stream(self, stream: Stream, splice: Splice) -> None:
        """Set the stream of the visitor, with which ``splice`` is joined, and measure the time to its first
        byte."""
        self.stream = stream
        if self.time_to_first_byte is None and not stream.is_over:
            stream.replace_consumer(_FirstByte(self, splice))


class _FirstByte:
    """Replaces a splice as the consumer of a stream until the first byte of the origin (a ``StreamConsumer``).

    It is then removed, so that later bytes have no extra cost.
    """

    __slots__ = ("_splice", "_visit")

    def __init__(self, visit: VisitorConnection, splice: Splice) -> None:
        self._visit = visit
        self._splice = splice

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Record the time of the first byte, and pass the data and the stream on to the splice."""
        visit = self._visit
        visit.time_to_first_byte = time.monotonic() - visit.began
        if visit.stream is not None:
            visit.stream.replace_consumer(self._splice)
        self._splice.stream_data(chunks, size)

    def stream_end(self) -> None:
        """Pass the end on."""
        self._splice.stream_end()

    def stream_room(self) -> None:
        """Pass on that the stream can be written again."""
        self._splice.stream_room()

    def stream_lost(self, code: StreamCode, unconsumed: list[bytes | memoryview] | None) -> None:
        """Pass the loss on."""
        self._splice.stream_lost(code, unconsumed)


class VisitorLog:
    """Active visitors, and totals of the finished ones."""

    def __init__(self) -> None:
        self.active: dict[VisitorConnection, None] = {}
        """Active visitors, oldest first."""
        self.admitted_total: Counter[Kind] = Counter()
        """Admitted visitors so far, active and finished."""
        self.ended_total: Counter[EndReason] = Counter()
        """Finished visitors so far."""
        self.durations = Histogram()
        """Durations of finished visitor connections."""
        self.times_to_first_byte = Histogram()
        """Seconds until the first byte of the origin, of finished visitor connections that received one."""
        self._run_id = secrets.token_hex(4)
        """Random prefix of the IDs of visitors, which makes them unique over all edges and runs."""
        self.on_end: Callable[[VisitorConnection, float, EndReason], None] = lambda *_: None
        """Called with each visitor that has ended, the seconds that it was connected, and the reason."""
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def bytes_in(self) -> int:
        """Bytes from all visitors, active and finished."""
        return self._bytes_in + sum(visit.bytes_in for visit in self.active)

    @property
    def bytes_out(self) -> int:
        """Bytes to all visitors, active and finished."""
        return self._bytes_out + sum(visit.bytes_out for visit in self.active)

    def id_of(self, visit: VisitorConnection) -> str:
        """Return the ID of a visitor connection in the log and in dumps."""
        return f"{self._run_id}-{visit.number}"

    def number_of(self, visitor_id: str) -> int | None:
        """Return the number in the ID of a visitor connection; None if it is not from this run."""
        run_id, _, number = visitor_id.partition("-")
        is_ours = run_id == self._run_id and number.isascii() and number.isdigit() and len(number) < MAX_DIGITS
        return int(number) if is_ours else None

    def begin(self, visit: VisitorConnection) -> None:
        """Add an admitted visitor, and give it a number."""
        self.active[visit] = None
        self.admitted_total[visit.kind] += 1
        visit.number = self.admitted_total.total()

    def end(self, visit: VisitorConnection, splice: Splice) -> None:
        """Remove a visitor that has ended, count it, and write its access log line. ``splice`` has the reason."""
        self.active.pop(visit, None)
        seconds = time.monotonic() - visit.began
        self._bytes_in += visit.bytes_in
        self._bytes_out += visit.bytes_out
        reason = _end_reason(splice)
        self.on_end(visit, seconds, reason)
        self.ended_total[reason] += 1
        self.durations.count(seconds)
        if visit.time_to_first_byte is not None:
            self.times_to_first_byte.count(visit.time_to_first_byte)
        if logger.isEnabledFor(logging.INFO):
            self._write_line(visit, seconds, reason)

    def _write_line(self, visit: VisitorConnection, seconds: float, reason: EndReason) -> None:
        values = (
            visit.address or "unknown",
            visit.tunnel_name,
            visit.kind,
            visit.bytes_in,
            visit.bytes_out,
            seconds,
            reason.description,
        )
        # logger.info would search the stack for the caller, which takes a third of the time.
        record = logging.LogRecord(logger.name, logging.INFO, __file__, 0, _LINE, values, None)
        record.fields = self._fields(visit, seconds, reason)
        logger.handle(record)

    def _fields(self, visit: VisitorConnection, seconds: float, reason: EndReason) -> dict[str, object]:
        return {
            "visit": self.id_of(visit),
            "visitor": visit.address,
            "visitor_port": visit.port,
            "name": visit.tunnel_name,
            "owner": visit.owner,
            "kind": visit.kind,
            "tls": visit.tls,
            "alpn": visit.alpn,
            "bytes_in": visit.bytes_in,
            "bytes_out": visit.bytes_out,
            "seconds": round(seconds, 6),
            "first_byte": None if visit.time_to_first_byte is None else round(visit.time_to_first_byte, 6),
            "ending": reason.label,
        }


def _end_reason(splice: Splice) -> EndReason:
    if splice.is_complete:
        return EndReason.COMPLETED
    if splice.lost is not None:
        return _BY_CODE[splice.lost]
    if splice.is_refused:
        return EndReason.REJECTED
    return EndReason.VISITOR_CLOSED if splice.has_delivered_all else EndReason.VISITOR_ABORTED
