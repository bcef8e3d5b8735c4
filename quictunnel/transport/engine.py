"""Interface of a QUIC engine: its methods and events.

An engine is sans-IO. It owns no socket, clock or task: its inputs are datagrams and the time, its outputs
datagrams, deadlines and events. Types of QUIC libraries are hidden; only the adapters in ``engines/`` import one.

The loop of a driver (``endpoint.py`` on a real socket, ``tests/simnet`` on a virtual one)::

    engine.receive(batch, now)          # whole batches, as the socket gave them
    if now >= engine.timeout(): engine.expire(now)
    for connection, event in engine.poll(): ...
    ... open / write / finish / reset / stop / close on connections ...
    for burst in engine.transmit(now): socket.send(burst)      # once per iteration

An engine and its connections belong to one thread. No method blocks and none raises for anything that came from
the network: a hostile or broken peer ends its own connection with a :class:`Closed` event, never the endpoint.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

CONGESTIONS: Final = ("auto", "bbr", "cubic")
"""Values of ``EngineSettings.congestion``."""

Address = tuple[str, int] | tuple[str, int, int, int]
"""A socket address as the socket module gives it; compared and hashed, but never parsed by an engine."""


class Received(NamedTuple):
    """Result of one read from a UDP socket: a datagram, or several of equal size that the kernel joined (UDP_GRO).

    ``payload`` holds datagrams of ``segment`` bytes each, back to back; only the last may be shorter.
    """

    payload: bytes
    segment: int
    address: Address


class Transmit(NamedTuple):
    """Content of one write to a UDP socket: datagrams of ``segment`` bytes each, only the last may be shorter.

    ``parts`` joined together are the datagrams back to back; the parts need not coincide with them, so an
    engine hands over what it has without copying.
    """

    parts: Sequence[bytes]
    segment: int
    address: Address


class CloseCause(enum.Enum):
    """Reason why a connection is over."""

    LOCAL = "closed by this side"
    PEER = "closed by the peer"
    TIMEOUT = "nothing was heard from the peer"
    RESET = "the peer no longer knows this connection"
    HANDSHAKE = "the handshake failed or took too long"
    PROTOCOL = "the peer broke the QUIC protocol"
    INTERNAL = "an internal error"


LOST: Final = frozenset({CloseCause.TIMEOUT, CloseCause.RESET, CloseCause.INTERNAL})
"""Causes after which another connection may take the place: neither end has closed the session."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is complete; on the connecting side the peer's certificate has been verified."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of one stream, in order and without gaps.

    The first :class:`Data` or :class:`Reset` that names an unknown peer-initiated stream is its opening.
    ``chunks`` may be empty when only the end is news. Nothing follows ``end=True``.
    """

    stream: int
    chunks: list[bytes]
    end: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer gave up sending on this stream (RESET_STREAM, RFC 9000 section 19.4); what had not been
    delivered is lost. Nothing follows it on this direction."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The peer no longer reads this stream (STOP_SENDING, RFC 9000 section 19.5). The engine has already
    answered with a reset of the same code; later writes accept nothing."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream whose last write was short takes bytes again."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamsAvailable:
    """:meth:`Connection.open` returned None and would succeed now."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over; nothing follows. ``code`` and ``reason`` are the application's or the
    transport's (RFC 9000 section 20); ``reason`` came from the peer when ``cause`` is PEER and is then
    untrusted text of at most 256 characters, printable ASCII only."""

    cause: CloseCause
    code: int
    reason: str


Event = Connected | Data | Reset | Stopped | Writable | StreamsAvailable | Closed


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a connection's path. Times in seconds, sizes in bytes, counts since the start."""

    rtt: float
    congestion_window: int
    bytes_in_flight: int
    datagram_size: int
    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    packets_lost: int
    packets_acked: int
    """Packets acknowledged of those that asked for it. The count stands still, with bytes in flight, when what is
    sent does not get there or the peer does not get through."""
    streams_open: int
    last_heard: float
    """Time at which an authentic packet of the peer was last received (given to ``receive``)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of a connection. Session credit stays far below them; they stop a peer that ignores it."""

    streams: int
    """Bidirectional streams that the peer may have open at once."""
    stream_window: int
    """Bytes of one stream that the peer may send before earlier ones were delivered."""
    connection_window: int
    """The same for all streams together."""


KIB = 1024

# Before a peer has shown its token: one control stream, and no more memory than a greeting needs.
UNADMITTED = Limits(streams=1, stream_window=16 * KIB, connection_window=16 * KIB)
# 16,384 streams leave headroom over the 10,000 concurrent visitors that one tunnel must carry.
# 2 MiB a stream fill 100 Mbit/s at 160 ms; 4 MiB a connection is the most a hostile peer can pin here.
TRUSTED = Limits(streams=16_384, stream_window=2048 * KIB, connection_window=4096 * KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of an engine, the same for every kind."""

    is_server: bool
    alpn: str
    certificate: Path | None = None
    """PEM chain, leaf first; required of a server."""
    private_key: Path | None = None
    """PEM key; required of a server."""
    authority: Path | None = None
    """PEM bundle that a client trusts; None means the system's store."""
    pin: bytes = b""
    """SHA-256 of the DER of the one authority that a client trusts instead; the server sends its certificate in
    the handshake. Empty: ``authority`` counts."""
    idle_timeout: float = 30.0
    """Seconds without hearing from the peer after which a connection is over."""
    handshake_timeout: float = 5.0
    """Seconds a handshake may take on the accepting side, which holds the memory of an unadmitted peer no longer,
    and on the connecting side unless the caller cancels earlier."""
    max_unadmitted: int = 256
    """Connections on the accepting side that have not been admitted, handshakes included; 100 KiB each. (The
    aioquic engine has 128 at most.) At the limit, a new handshake evicts one from the address network that holds
    the most."""
    eviction_code: int = 0
    """Application error code of a connection that is evicted at the limit."""
    retry: bool = True
    """The accepting side validates addresses with Retry (RFC 9000 section 8.1.2)."""
    reset_key: bytes = b""
    """Static key for stateless reset tokens (RFC 9000 section 10.3.2): the same across restarts, so that a
    restarted edge can reset connections of its predecessor at once. Empty: a random key."""
    unadmitted: Limits = UNADMITTED
    """In force on the accepting side until :meth:`Connection.admit`."""
    trusted: Limits = TRUSTED
    """In force on the connecting side at once, on the accepting side after :meth:`Connection.admit`."""
    first_window: int = 256 * KIB
    """Accepting side: bytes that a peer may be ahead of delivery on all streams when it has been admitted.
    Afterwards it is four times the bytes delivered, up to ``trusted.connection_window``: memory that a peer can
    pin behind one missing byte grows with what it has delivered."""
    send_buffer: int = 512 * KIB
    """Unsent bytes that one stream may have waiting in the engine before writes are short. They are referenced,
    not copied, and a session retains them anyway, so this is about calls: a few reads of TCP, a few bursts."""
    datagram_size: int = 1350
    """UDP payload bytes; what a path with an IPv6 and a VPN header still carries. Handshakes use 1200."""
    largest_datagram: int = 0
    """Path MTU discovery (RFC 8899) looks for datagrams up to this size; 0: ``datagram_size`` is kept. Only
    for sockets that forbid fragmentation."""
    ack_delay: float = 0.001
    """Seconds that an acknowledgement may wait for others."""
    max_probe_timeout: float = 1.0
    """Cap of the doubling probe time-out in seconds: how soon bytes move after a black hole heals."""
    key_update_packets: int = 1 << 21
    """1-RTT packets sent under one key before it is updated; RFC 9001 section 6.6 allows 2**23."""
    congestion: str = "auto"
    """Congestion control: ``cubic``, ``bbr``, or ``auto`` for the engine's best. An engine without a choice keeps
    its own and logs that."""
    cid_prefix: int | None = None
    """First byte of every connection ID that the engine issues, by which processes that share a socket recognise
    their packets (as in QUIC-LB, draft-ietf-quic-load-balancers, section 5.2: unencrypted). None: random."""


@dataclass(frozen=True, slots=True)
class HandshakeReport:
    """Properties of a server found by a handshake without verification."""

    chain: tuple[bytes, ...]
    """Its certificates in DER, leaf first; empty if the handshake ended earlier."""
    alpn: str
    """Protocol that the server chose."""
    seconds: float
    """Seconds that the handshake took."""
    code: int = 0
    """Error code of a handshake that did not complete (RFC 9000 section 20.1), or 0."""
    reason: str = ""
    """Text sent by the peer: untrusted."""


class Connection(Protocol):
    """QUIC connection of an engine. All methods are cheap, non-blocking, and no-ops once it is closed."""

    @property
    def address(self) -> Address:
        """Return the peer's current address, which changes when the peer migrates."""

    @property
    def is_client(self) -> bool:
        """Return True if this side opened the connection."""

    def open(self) -> int | None:
        """Open a bidirectional stream. Return None if the peer's limit is reached; StreamsAvailable follows."""

    def write(self, stream: int, data: bytes | memoryview) -> int:
        """Queue bytes and return the number accepted. If that is less than all, wait for Writable. Accepted bytes
        are referenced until they are acknowledged: the caller must not change them."""

    def finish(self, stream: int) -> None:
        """End the stream after the bytes written so far (FIN)."""

    def reset(self, stream: int, code: int) -> None:
        """Abort sending on a stream: drop queued bytes and send RESET_STREAM."""

    def stop(self, stream: int, code: int) -> None:
        """Abort reading from a stream: send STOP_SENDING and drop bytes that still arrive. No more events of this
        direction follow."""

    def prioritise(self, stream: int) -> None:
        """Send this stream's bytes before those of all streams that were not prioritised."""

    def admit(self) -> None:
        """Accepting side: raise the limits of an authenticated peer from ``unadmitted`` to ``trusted``, and free
        its place."""

    def ping(self) -> None:
        """Send a frame that the peer must acknowledge (PING)."""

    def migrate(self) -> None:
        """Connecting side: after a change of this side's address, use a fresh connection ID (RFC 9000 section 9.5)
        and send a packet from the new address at once."""

    def close(self, code: int, reason: str = "") -> None:
        """End the connection now; queued bytes are dropped. The Closed event (cause LOCAL) follows."""

    def stats(self) -> Stats:
        """Return the current figures."""


class Engine(Protocol):
    """QUIC engine: all connections of one UDP socket."""

    name: str
    """Name for users: ``aioquic`` or ``native``."""
    version: str

    @property
    def counters(self) -> EngineCounters:
        """Return the counts since the start."""

    def connect(self, address: Address, server_name: str, now: float) -> Connection:
        """Open a connection to a server."""

    def receive(self, batch: Sequence[Received], now: float) -> None:
        """Process datagrams. Work per call is bounded by their number, not by the number of streams."""

    def expire(self, now: float) -> None:
        """Run the timers that are due."""

    def timeout(self) -> float | None:
        """Return the time of the next :meth:`expire`, on the clock of ``now``; None: no timer is set."""

    def poll(self) -> Iterable[tuple[Connection, Event]]:
        """Return the events since the last poll, in order for each connection. The first one of a connection that
        the peer opened is Connected."""

    def transmit(self, now: float) -> Iterable[Transmit]:
        """Return the datagrams to send now, possibly as a generator. The caller takes all of them, sends or drops
        them, and only then calls the engine again."""

    def has_connections(self) -> bool:
        """Return True if any connection, closing ones included, still needs the socket."""


@dataclass(slots=True)
class EngineCounters:
    """Counts of an engine since the start, for the metrics: handshakes, refusals, drops, closures by cause."""

    retries_sent: int = 0
    version_negotiations_sent: int = 0
    resets_sent: int = 0
    handshakes_begun: int = 0
    """First packets of peers, their addresses proven, that were answered with a handshake."""
    half_open_refused: int = 0
    """Handshakes that were dropped, because their own network held as many places as any."""
    unadmitted_evicted: int = 0
    """Unadmitted connections that were evicted at the limit, because their network held the most places."""
    datagrams_dropped: int = 0
    connections_failed: int = 0
    by_cause: dict[CloseCause, int] = field(default_factory=dict)
