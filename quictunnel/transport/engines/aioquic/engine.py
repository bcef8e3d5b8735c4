"""The engine: all aioquic connections of one UDP socket.

Datagrams are routed by connection ID. An unknown peer passes version negotiation, Retry and a limit before it
costs memory. Only connections with pending work are visited, and timers are in a heap. An exception while one
connection is processed ends only that connection.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from aioquic.quic import events as quic_events
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion

from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    EngineCounters,
    Received,
    Transmit,
)
from quictunnel.transport.engines.aioquic.connection_adapter import AioquicConnection, printable
from quictunnel.transport.engines.aioquic.quic_connection import CID_SIZE, TunnelConnection
from quictunnel.transport.engines.aioquic.routing import Routes
from quictunnel.transport.engines.aioquic.stateless import (
    LARGEST_CID,
    SMALLEST_CID,
    SMALLEST_INITIAL,
    SMALLEST_RESET,
    LongHeader,
    ResetTokens,
    RetryTokens,
    parse_long_header,
    refuse_initial,
    retry_packet,
    version_negotiation,
)
from quictunnel.transport.engines.aioquic.tls import configure
from quictunnel.transport.engines.aioquic.unadmitted_peers import UnadmittedPeers
from quictunnel.transport.engines.aioquic.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quictunnel.transport.engine import Address, EngineSettings, Event

logger = logging.getLogger(__name__)

# The kernel's limits of one segmented write: UDP_MAX_SEGMENTS, and the maximum of a UDP length field.
MAX_SEGMENTS = 64
MAX_BURST = 65_000
# Stateless responses that wait for the next transmit; one read of the socket causes at most this many.
MAX_REPLIES = 2048
# Closed connections in the closing or draining state (RFC 9000 section 10.2). A peer's delays decide how long that
# takes, so beyond this number the oldest is forgotten. Its peer then gets a stateless reset.
MAX_CLOSED = 1024
# Places for unauthenticated connections, even if the settings allow more. It limits their handshakes a second,
# each of which takes about 5 ms of a core. With 256, as in the native engine, honest clients wait for the core;
# with 64 they are refused too often.
MAX_UNADMITTED = 128
# Stale entries of the timer heap before it is rebuilt.
STALE_TIMERS = 64


class AioquicEngine:
    """Reference implementation of :class:`quictunnel.transport.engine.Engine`."""

    name = "aioquic"
    version = VERSION

    def __init__(self, settings: EngineSettings, *, random: Callable[[int], bytes] = os.urandom) -> None:
        # aioquic logs unescaped text from peers.
        logging.getLogger("quic").setLevel(logging.ERROR)
        if settings.congestion == "bbr":
            logger.warning("The aioquic engine supports only CUBIC and uses it; BBR needs the native engine.")
        self.counters = EngineCounters()
        self._settings = settings
        self._random = random
        self._configuration = configure(settings)
        key = settings.reset_key or random(32)
        self._reset_tokens = ResetTokens(key, random)
        self._retry_tokens = RetryTokens(key, random)
        self._routes = Routes(random(32))
        self._connections: dict[AioquicConnection, None] = {}
        self._unadmitted: UnadmittedPeers[int] = UnadmittedPeers(min(settings.max_unadmitted, MAX_UNADMITTED))
        self._by_number: dict[int, AioquicConnection] = {}
        """Connections by the number of their place among unauthenticated ones."""
        self._closed_connections: OrderedDict[AioquicConnection, None] = OrderedDict()
        self._touched: dict[AioquicConnection, None] = {}
        self._eventful: dict[AioquicConnection, None] = {}
        self._replies: list[Transmit] = []
        self._timers: list[tuple[float, int, AioquicConnection]] = []
        self._sequence = itertools.count()

    # Engine interface

    def connect(self, address: Address, server_name: str, now: float) -> AioquicConnection:
        """Begin a client connection."""
        quic = TunnelConnection(
            configuration=replace(self._configuration, server_name=server_name),
            settings=self._settings,
            random=self._random,
            reset_token=self._reset_tokens.token,
        )
        connection = self._register(quic, address, now)
        quic.connect(address, now)
        self._apply_effects(connection)
        return connection

    def receive(self, batch: Sequence[Received], now: float) -> None:
        """Process a batch of received datagrams."""
        burst: list[bytes] = []
        owner: AioquicConnection | None = None
        source: Address | None = None
        for payload, segment, address in batch:
            for datagram in _split(payload, segment):
                if len(datagram) < SMALLEST_RESET:
                    self.counters.datagrams_dropped += 1
                    continue
                is_long = datagram[0] & 0x80
                connection = self._routes.long(datagram) if is_long else self._routes.short(datagram)
                if connection is None:
                    connection = self._handle_unrouted(datagram, address, now)
                    if connection is None:
                        continue
                if connection is not owner or address != source:
                    if owner is not None and source is not None:
                        self._receive_burst(owner, burst, source, now)
                    burst, owner, source = [], connection, address
                burst.append(datagram)
        if owner is not None and source is not None:
            self._receive_burst(owner, burst, source, now)

    def expire(self, now: float) -> None:
        """Process all timers that are due."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, connection = heapq.heappop(timers)
            if connection.is_forgotten or connection.scheduled != at:
                continue
            connection.scheduled = None
            if connection.deadline is not None and now >= connection.deadline:
                self._give_up_handshake(connection)
                continue
            due = connection.quic.get_timer()
            if due is None or due > now:
                self._schedule(connection)
                continue
            try:
                connection.quic.handle_timer(now)
            except Exception as error:  # noqa: BLE001  # contained: it ends this connection only
                self._fail(connection, error)
            self._apply_effects(connection)
            if not connection.is_forgotten:
                self._touched[connection] = None

    def timeout(self) -> float | None:
        """Return the time of the next timer, or None."""
        timers = self._timers
        while timers and (timers[0][2].is_forgotten or timers[0][2].scheduled != timers[0][0]):
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def poll(self) -> Iterator[tuple[AioquicConnection, Event]]:
        """Yield the events since the last call, with their connections."""
        while self._eventful:
            connection = next(iter(self._eventful))
            del self._eventful[connection]
            for event in connection.quic.table.drain():
                yield connection, event
            if connection.quic.table.control and not connection.is_forgotten:
                self._touched[connection] = None

    def transmit(self, now: float) -> Sequence[Transmit]:
        """Return the datagrams that are to be sent now."""
        bursts, self._replies = self._replies, []
        touched, self._touched = self._touched, {}
        for connection in touched:
            if connection.is_forgotten:
                continue
            closing = connection.quic.wants_to_close()
            try:
                datagrams = connection.quic.datagrams_to_send(now)
            except Exception as error:  # noqa: BLE001  # contained: it ends this connection only
                self._fail(connection, error)
                self._forget(connection)
                continue
            if closing:
                connection.close_echo = [datagram for datagram, _ in datagrams]
            _group(datagrams, bursts)
            self._apply_effects(connection)
            if connection.is_evicted:
                self._forget(connection)
            if not connection.is_forgotten:
                self._schedule(connection)
        return bursts

    def has_connections(self) -> bool:
        """Return True while a connection is open or closing."""
        return any(not c.is_close_reported or c.quic.is_closing() for c in self._connections)

    # For connections

    def touch(self, connection: AioquicConnection) -> None:
        """Mark a connection as having data to send."""
        if not connection.is_forgotten:
            self._touched[connection] = None

    def admit(self, connection: AioquicConnection) -> None:
        """Release the place of an authenticated connection among the unauthenticated ones."""
        self._unadmitted.admit(connection.number)
        self._touched[connection] = None

    def end(self, connection: AioquicConnection, cause: CloseCause, code: int, reason: str) -> None:
        """Close a connection from this side."""
        quic = connection.quic
        quic.cause = quic.cause or cause
        quic.close(error_code=code, frame_type=None, reason_phrase=reason)
        self._touched[connection] = None
        self._apply_effects(connection)

    # Private

    def _register(self, quic: TunnelConnection, address: Address, now: float) -> AioquicConnection:
        connection = AioquicConnection(self, quic, address, now + self._settings.handshake_timeout)
        self._connections[connection] = None
        self._routes.sync(connection)
        self._touched[connection] = None
        return connection

    def _receive_burst(
        self, connection: AioquicConnection, datagrams: list[bytes], address: Address, now: float
    ) -> None:
        if connection.is_forgotten:
            return
        if connection.is_close_reported:
            connection.quic.amplification.heard(address, sum(map(len, datagrams)))
            self._repeat_close(connection, len(datagrams))
            return
        try:
            connection.quic.receive_burst(datagrams, address, now)
        except Exception as error:  # noqa: BLE001  # contained: it ends this connection only
            self._fail(connection, error)
            return
        self._apply_effects(connection)
        if not connection.is_forgotten:
            self._touched[connection] = None

    def _repeat_close(self, connection: AioquicConnection, count: int) -> None:
        """Send the closing packet again, at increasing intervals (RFC 9000 section 10.2.1)."""
        connection.closes_seen += count
        if connection.closes_seen < connection.closes_due or not connection.quic.is_closing():
            return
        connection.closes_due = connection.closes_seen * 2
        for datagram in connection.close_echo:
            if connection.quic.amplification.allows(connection.address, len(datagram)):
                self._reply(datagram, connection.address)

    def _apply_effects(self, connection: AioquicConnection) -> None:
        """Apply the effects of processing to routes, events and the connection table."""
        quic = connection.quic
        if quic.has_inherited_events():
            for event in quic.take_inherited_events():
                if isinstance(event, quic_events.HandshakeCompleted):
                    self._on_handshake(connection)
                elif isinstance(event, quic_events.ConnectionIdRetired):
                    self._routes.remove(event.connection_id, connection)
        if quic.cids_changed(connection.cids, connection.reset_token):
            self._routes.sync(connection)
        address = quic.get_peer_address()
        if address is not None:
            connection.address = address
        if quic.has_ended() and not connection.is_close_reported:
            self._report_closed(connection)
        if quic.table.events:
            self._eventful[connection] = None
        if quic.is_over():
            self._forget(connection)

    def _on_handshake(self, connection: AioquicConnection) -> None:
        connection.connected = True
        connection.deadline = None

    def _report_closed(self, connection: AioquicConnection) -> None:
        quic = connection.quic
        event = quic.close_event()
        cause = quic.cause or CloseCause.PROTOCOL
        if not connection.connected and cause not in (CloseCause.LOCAL, CloseCause.RESET, CloseCause.INTERNAL):
            cause = CloseCause.HANDSHAKE
        connection.is_close_reported = True
        connection.deadline = None
        self._unadmitted.connection_ended(connection.number)
        self._retain_closed(connection)
        self.counters.by_cause[cause] = self.counters.by_cause.get(cause, 0) + 1
        if not connection.connected and not connection.is_client:
            self.counters.connections_failed += 1
            return
        code, reason = (event.error_code, event.reason_phrase) if event is not None else (0, "")
        quic.table.events.append(Closed(cause, int(code), printable(reason)))
        self._eventful[connection] = None

    def _retain_closed(self, connection: AioquicConnection) -> None:
        self._closed_connections[connection] = None
        if len(self._closed_connections) > MAX_CLOSED:
            self._forget(next(iter(self._closed_connections)))

    def _evict(self, connection: AioquicConnection) -> None:
        """Close an unauthenticated connection to free its place, and forget it once its close is sent."""
        self.counters.unadmitted_evicted += 1
        self.end(connection, CloseCause.LOCAL, self._settings.eviction_code, "the server is at capacity")
        connection.is_evicted = True

    def _give_up_handshake(self, connection: AioquicConnection) -> None:
        quic = connection.quic
        quic.cause = CloseCause.HANDSHAKE
        quic.close(QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.PADDING, "The handshake took too long")
        self._report_closed(connection)
        if quic.knows_address():
            # The peer may believe that it is connected, if its last flight was lost.
            self._touched[connection] = None
        else:
            self._forget(connection)

    def _fail(self, connection: AioquicConnection, error: Exception) -> None:
        """Log an internal error and close its connection. A connection that is closing already is forgotten."""
        if connection.is_close_reported:
            self._forget(connection)
            return
        logger.error("QUIC connection ended by an internal error: %.200s", printable(repr(error)))
        quic = connection.quic
        quic.cause = quic.cause or CloseCause.INTERNAL
        quic.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "")
        self._report_closed(connection)
        self._touched[connection] = None

    def _forget(self, connection: AioquicConnection) -> None:
        connection.is_forgotten = True
        self._connections.pop(connection, None)
        self._unadmitted.connection_ended(connection.number)
        self._by_number.pop(connection.number, None)
        self._closed_connections.pop(connection, None)
        self._touched.pop(connection, None)
        self._routes.forget(connection)

    def _schedule(self, connection: AioquicConnection) -> None:
        due = connection.quic.get_timer()
        if connection.deadline is not None:
            due = connection.deadline if due is None else min(due, connection.deadline)
        if due is None or (connection.scheduled is not None and connection.scheduled <= due):
            # An entry that is too early costs one check, instead of a new entry for every packet.
            return
        connection.scheduled = due
        heapq.heappush(self._timers, (due, next(self._sequence), connection))
        if len(self._timers) > 2 * len(self._connections) + STALE_TIMERS:
            valid = {id(t[2]): t for t in self._timers if not t[2].is_forgotten and t[2].scheduled == t[0]}
            self._timers = list(valid.values())
            heapq.heapify(self._timers)

    # Unknown peers

    def _reply(self, datagram: bytes, address: Address) -> None:
        if len(self._replies) < MAX_REPLIES:
            self._replies.append(Transmit([datagram], len(datagram), address))

    def _handle_unrouted(self, datagram: bytes, address: Address, now: float) -> AioquicConnection | None:
        """Handle a datagram of no connection: drop it, answer it statelessly, or begin a connection."""
        if not datagram[0] & 0x80:
            self._handle_unrouted_short(datagram, address, now)
            return None
        header = parse_long_header(datagram)
        if (
            not self._settings.is_server
            or header is None
            or len(datagram) < SMALLEST_INITIAL
            or len(header.destination) < SMALLEST_CID
            or header.version == QuicProtocolVersion.NEGOTIATION
        ):
            self.counters.datagrams_dropped += 1
            return None
        if header.version != QuicProtocolVersion.VERSION_1:
            self.counters.version_negotiations_sent += 1
            self._reply(version_negotiation(header), address)
            return None
        if not header.is_initial or len(header.destination) > LARGEST_CID or len(header.source) > LARGEST_CID:
            self.counters.datagrams_dropped += 1
            return None
        return self._handle_initial(datagram, header, address, now)

    def _handle_unrouted_short(self, datagram: bytes, address: Address, now: float) -> None:
        dead = self._routes.reset_by(datagram)
        if dead is not None:
            if not dead.is_close_reported:
                dead.quic.cause = CloseCause.RESET
                dead.quic.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING, "The peer forgot this connection")
                self._report_closed(dead)
            self._forget(dead)
            return
        self.counters.datagrams_dropped += 1
        if self._settings.is_server and datagram[0] & 0x40:
            answer = self._reset_tokens.answer(datagram, datagram[1 : 1 + CID_SIZE], now)
            if answer is not None:
                self.counters.resets_sent += 1
                self._reply(answer, address)

    def _handle_initial(
        self, datagram: bytes, header: LongHeader, address: Address, now: float
    ) -> AioquicConnection | None:
        original, retry_cid = header.destination, None
        if self._settings.retry:
            token = _token(datagram, header.end)
            if not token:
                retry_cid = self._random(CID_SIZE)
                sealed = self._retry_tokens.seal(address, header.destination, retry_cid, now)
                self.counters.retries_sent += 1
                self._reply(retry_packet(header, retry_cid, sealed), address)
                return None
            opened = self._retry_tokens.open(token, address, header.destination, now)
            if opened is None:
                self.counters.datagrams_dropped += 1
                self._reply(refuse_initial(header, QuicErrorCode.INVALID_TOKEN), address)
                return None
            original, retry_cid = opened, header.destination
        number = next(self._sequence)
        entry = self._unadmitted.enter(number, address if retry_cid is not None else None, now)
        if not entry.has_place:
            self.counters.half_open_refused += 1
            return None
        if entry.evicted is not None:
            self._evict(self._by_number[entry.evicted])
        self.counters.handshakes_begun += 1
        quic = TunnelConnection(
            configuration=self._configuration,
            settings=self._settings,
            random=self._random,
            reset_token=self._reset_tokens.token,
            original_destination_connection_id=original,
            retry_source_connection_id=retry_cid,
            validated=address if retry_cid is not None else None,
        )
        connection = self._register(quic, address, now)
        connection.number = number
        self._by_number[number] = connection
        self._routes.add(header.destination, connection)
        return connection


def _split(payload: bytes, segment: int) -> list[bytes]:
    if segment <= 0 or len(payload) <= segment:
        return [payload]
    return [payload[start : start + segment] for start in range(0, len(payload), segment)]


def _token(datagram: bytes, offset: int) -> bytes:
    """Return the token of an Initial packet (RFC 9000 section 17.2.2); empty if it has none or is truncated."""
    if offset >= len(datagram):
        return b""
    size = 1 << (datagram[offset] >> 6)
    length = int.from_bytes(datagram[offset : offset + size], "big") & ((1 << (8 * size - 2)) - 1)
    start = offset + size
    return datagram[start : start + length] if start + length <= len(datagram) else b""


def _group(datagrams: list[tuple[bytes, Address]], bursts: list[Transmit]) -> None:
    """Join consecutive datagrams of equal size and address; a shorter one ends a burst."""
    parts: list[bytes] = []
    segment = total = 0
    target: Address | None = None
    for datagram, address in datagrams:
        size = len(datagram)
        fits = (
            parts
            and address == target
            and size <= segment
            and len(parts[-1]) == segment
            and len(parts) < MAX_SEGMENTS
            and total + size <= MAX_BURST
        )
        if not fits:
            if parts and target is not None:
                bursts.append(Transmit(parts, segment, target))
            parts, segment, total, target = [], size, 0, address
        parts.append(datagram)
        total += size
    if parts and target is not None:
        bursts.append(Transmit(parts, segment, target))
