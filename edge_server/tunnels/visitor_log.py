"""Visitors, as they are told of: who was where, for how long, with how many bytes, and why it ended.

One :class:`VisitorConnection` for each that is in; the :class:`VisitorLog` has those that are, sums of those that
were, and writes one line of the log for each that leaves. Nothing in here decides anything.
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
"""TLS that ends here; plain TCP at a port; TLS that ends at the origin."""


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


class EndReason(enum.Enum):
    """Reason for the end of a visitor connection. The set is fixed, so that counters by reason are bounded."""

    DONE = "both sides finished"
    LEFT = "the origin had finished, and the visitor left"
    """Without ending its side, as many programs do when they have what they asked for: curl, for one."""
    VISITOR = "the visitor broke it off"
    ORIGIN = "the origin broke it off"
    REFUSED = "the origin did not answer"
    STALLED = "one side took nothing in for too long"
    CLOSED = "the tunnel was closed, or lost its client"
    SENT_AWAY = "no client took it"


_BY_CODE: Final = {
    StreamCode.ABORTED: EndReason.ORIGIN,
    StreamCode.REFUSED: EndReason.REFUSED,
    StreamCode.UNREACHABLE: EndReason.REFUSED,
    StreamCode.UNKNOWN_LEASE: EndReason.CLOSED,
    StreamCode.STALLED: EndReason.STALLED,
    StreamCode.CLOSING: EndReason.CLOSED,
}


SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
"""Bounds of the classes in which durations are counted: half a decade each, from loopback to a working day."""


_LINE: Final = "visitor %s of %s (%s): %d bytes in, %d out, %.3f s, %s"
MAX_DIGITS: Final = 16
"""Digits in the number of a visit: no edge has that many visits."""


class Histogram:
    """Durations by class, for those who draw distributions."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        """In each class; the last is of those beyond all bounds."""
        self.sum = 0.0

    def count(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


class Carrier(Protocol):
    """A client that serves visitors."""

    active: int
    """Visitors that it serves now."""

    def note_refusal(self) -> None:
        """Note that its origin has refused a visitor."""


class VisitorConnection:
    """One visitor that is in."""

    __slots__ = (
        "alpn",
        "began",
        "carrier",
        "first_byte",
        "host",
        "kind",
        "lease",
        "network",
        "number",
        "owner",
        "port",
        "stream",
        "tls",
    )

    def __init__(
        self, host: str, kind: Kind, *, lease: str, owner: str, port: int = 0, tls: str = "", alpn: str = ""
    ) -> None:
        self.number = 0
        """Number since this edge was started; given by the log."""
        self.host = host
        self.network = peer_prefix(host)
        """Network that counts as one peer."""
        self.port = port
        self.kind: Kind = kind
        self.lease = lease
        self.owner = owner
        self.tls = tls
        """The version of TLS that ends here, as OpenSSL names it: ``TLSv1.3``."""
        self.alpn = alpn
        """ALPN protocol within TLS: ``h2``, ``http/1.1``, or nothing."""
        self.began = time.monotonic()
        self.first_byte: float | None = None
        """Seconds from then to the first byte of the origin."""
        self.carrier: Carrier | None = None
        """The client that serves it; None while it waits for one."""
        self.stream: Stream | None = None
        """The stream that carries it, once a client has taken it."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the visitor to the origin so far."""
        return self.stream.bytes_sent if self.stream is not None else 0

    @property
    def bytes_out(self) -> int:
        """Bytes from the origin to the visitor so far."""
        return self.stream.bytes_received if self.stream is not None else 0

    def carry_by(self, carrier: Carrier | None) -> None:
        """Note which client serves the visitor; None: none any more."""
        if self.carrier is not None:
            self.carrier.active -= 1
        self.carrier = carrier
        if carrier is not None:
            carrier.active += 1

    def travels_on(self, stream: Stream, splice: Splice) -> None:
        """Note that a client has taken the visitor; ``splice`` is joined with the stream."""
        self.stream = stream
        if self.first_byte is None and not stream.is_over:
            stream.replace_side(_FirstByte(self, splice))


class _FirstByte:
    """Takes the place of a splice until the first byte of the origin has come (a ``StreamSide``).

    It is then removed, so that later bytes cost nothing more.
    """

    __slots__ = ("_splice", "_visit")

    def __init__(self, visit: VisitorConnection, splice: Splice) -> None:
        self._visit = visit
        self._splice = splice

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Note the time of the first byte, and step aside."""
        visit = self._visit
        visit.first_byte = time.monotonic() - visit.began
        if visit.stream is not None:
            visit.stream.replace_side(self._splice)
        self._splice.stream_data(chunks, size)

    def stream_end(self) -> None:
        """Pass the end on."""
        self._splice.stream_end()

    def stream_room(self) -> None:
        """Pass it on that there is room."""
        self._splice.stream_room()

    def stream_lost(self, code: StreamCode, untaken: list[bytes | memoryview] | None) -> None:
        """Pass the loss on."""
        self._splice.stream_lost(code, untaken)


class VisitorLog:
    """Visitors that are in, and counts of those that have left."""

    def __init__(self) -> None:
        self.now: dict[VisitorConnection, None] = {}
        """Visitors that are in, in the order of coming."""
        self.came: Counter[Kind] = Counter()
        self.endings: Counter[EndReason] = Counter()
        self.durations = Histogram()
        """Durations of finished visits."""
        self.first_bytes = Histogram()
        """Seconds until the first byte of the origin, where there was one."""
        self._mark = secrets.token_hex(4)
        """Mark of this process, so that no two edges, and no two runs of one, name a visit alike."""
        self.on_end: Callable[[VisitorConnection], None] = lambda _: None
        """Called with each visitor that has left."""
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def bytes_in(self) -> int:
        """Bytes from all visitors, of now and before."""
        return self._bytes_in + sum(visit.bytes_in for visit in self.now)

    @property
    def bytes_out(self) -> int:
        """Bytes to all visitors, of now and before."""
        return self._bytes_out + sum(visit.bytes_out for visit in self.now)

    def name_of(self, visit: VisitorConnection) -> str:
        """Return the name of a visit in the log and in dumps."""
        return f"{self._mark}-{visit.number}"

    def number_of(self, name: str) -> int | None:
        """Return the number in a name of a visit; None if it is not one of this process."""
        mark, _, number = name.partition("-")
        is_ours = mark == self._mark and number.isascii() and number.isdigit() and len(number) < MAX_DIGITS
        return int(number) if is_ours else None

    def begin(self, visit: VisitorConnection) -> None:
        """Note that a visitor has come in."""
        self.now[visit] = None
        self.came[visit.kind] += 1
        visit.number = self.came.total()

    def end(self, visit: VisitorConnection, splice: Splice) -> None:
        """Note that a visitor has left, for the reason that its splice knows; write the access log."""
        self.now.pop(visit, None)
        seconds = time.monotonic() - visit.began
        self._bytes_in += visit.bytes_in
        self._bytes_out += visit.bytes_out
        self.on_end(visit)
        ending = _ending(splice)
        self.endings[ending] += 1
        self.durations.count(seconds)
        if visit.first_byte is not None:
            self.first_bytes.count(visit.first_byte)
        if logger.isEnabledFor(logging.INFO):
            self._say(visit, seconds, ending)

    def _say(self, visit: VisitorConnection, seconds: float, ending: EndReason) -> None:
        words = (
            visit.host or "unknown",
            visit.lease,
            visit.kind,
            visit.bytes_in,
            visit.bytes_out,
            seconds,
            ending.value,
        )
        # A record of our own: logging would walk the stack to find out who speaks, which is a third of the cost.
        record = logging.LogRecord(logger.name, logging.INFO, __file__, 0, _LINE, words, None)
        record.fields = self._fields(visit, seconds, ending)
        logger.handle(record)

    def _fields(self, visit: VisitorConnection, seconds: float, ending: EndReason) -> dict[str, object]:
        return {
            "visit": self.name_of(visit),
            "visitor": visit.host,
            "visitor_port": visit.port,
            "name": visit.lease,
            "owner": visit.owner,
            "kind": visit.kind,
            "tls": visit.tls,
            "alpn": visit.alpn,
            "bytes_in": visit.bytes_in,
            "bytes_out": visit.bytes_out,
            "seconds": round(seconds, 6),
            "first_byte": None if visit.first_byte is None else round(visit.first_byte, 6),
            "ending": ending.name.lower(),
        }


def _ending(splice: Splice) -> EndReason:
    if splice.is_complete:
        return EndReason.DONE
    if splice.lost is not None:
        return _BY_CODE[splice.lost]
    if splice.is_refused:
        return EndReason.SENT_AWAY
    return EndReason.LEFT if splice.has_delivered_all else EndReason.VISITOR
