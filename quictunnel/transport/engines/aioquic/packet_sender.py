"""Building of 1-RTT packets.

One loop fills packets in the order acknowledgement, path validation, control frames, stream data. It ends at the
limit of the congestion window, the pacer or the anti-amplification limit, or when nothing is left to send. aioquic
builds the handshake packets.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aioquic.quic.connection import NetworkAddress, QuicConnectionState, QuicNetworkPath
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.tls import Epoch

from quictunnel.transport.engines.aioquic.keys import TAG_SIZE
from quictunnel.transport.engines.aioquic.sent_packet import SentPacket
from quictunnel.transport.engines.aioquic.varint import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.recovery import QuicPacketSpace

    from quictunnel.transport.engines.aioquic.connection_base import ConnectionBase
    from quictunnel.transport.engines.aioquic.control_frames import Frame, Handler

ACKED = QuicDeliveryState.ACKED
# Packets after which an ACK is sent at once; a timer covers slower flows.
ACK_EVERY = 16
# Ranges in one ACK frame; older ones were in earlier frames.
ACK_RANGES = 64
# One of so many ACK-only packets also has a PING: only after an acknowledged ACK can ranges be dropped (RFC 9000
# section 13.2.4).
PING_EVERY = 32
# Random gaps in the packet numbers, at most one in so many packets: a peer that acknowledges one is malicious (RFC
# 9000 section 21.4).
SKIP_WITHIN = 1024
SKIPS_KEPT = 4
# Packet numbers have two bytes while fewer than this many are unacknowledged (RFC 9000 section 17.1).
SHORT_NUMBER_SPAN = 0x3FFF
# Minimum size of datagrams with PATH_CHALLENGE or PATH_RESPONSE (RFC 9000 section 8.2.1).
VALIDATION_SIZE = 1200
# Size of a client's PING datagram. If it comes from a new address (for example after a NAT rebinding), the server
# may answer with three times as much, enough for a full datagram.
PING_SIZE = 512
# PATH_CHALLENGE frames to answer at once, the newest; an honest peer has no more of them pending. The answers
# together fit the space that each packet has for one frame.
MAX_ANSWERS = 4
# Deadline of a path validation in probe time-outs, as in aioquic.
NEW_PATH_TIMEOUTS = 3
# Datagrams of minimum size that bulk data leaves free in the congestion window, for interactive streams.
RESERVE = 2
# Datagrams of one connection in one call of transmit, for fairness between connections.
MAX_DATAGRAMS = 256

Part = bytes | memoryview


class Sender:
    """Builder of all 1-RTT packets of a connection on its active path."""

    def __init__(self, connection: ConnectionBase) -> None:
        self._connection = connection
        self._next_skip = 0
        self._ack_only = 0
        self._is_tail = False
        self._wanted: set[Callable[[], Frame | None]] = set()
        self.packets = 0
        self.bytes = 0

    def datagrams(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams to send now, with their addresses."""
        connection = self._connection
        space = connection._spaces[Epoch.ONE_RTT]
        path = connection._network_paths[0]
        self._queue_inherited_frames(path, now)
        connection._pacing_at = None
        seal = connection.one_rtt.sealer(connection._peer_cid.cid)
        address = path.addr
        built: list[tuple[bytes, NetworkAddress]] = []
        if connection._handshake_confirmed and path.is_validated:
            probe_size = connection.mtu.next_probe(now)
            if probe_size is not None:
                built.append((self._probe_mtu(seal, space, probe_size, now), address))
        while len(built) < MAX_DATAGRAMS:
            size = self._size(path)
            free = self._is_free(size, now)
            ack = space.ack_at is not None and (space.ack_at <= now or connection.ack_waiting >= ACK_EVERY or free)
            if not (free or ack):
                break
            datagram = self._packet(seal, space, size, now, ack=ack, free=free)
            if datagram is None:
                break
            path.bytes_sent += len(datagram)
            built.append((datagram, address))
        if len(built) >= MAX_DATAGRAMS:
            connection._pacing_at = now
        return built

    def _size(self, path: QuicNetworkPath) -> int:
        """Return the maximum size of the next datagram."""
        mtu = self._connection.mtu
        size = mtu.size
        if size > mtu.base:
            # If only a part of a large datagram fits the window, use a smaller one.
            size = max(min(size, self._bulk_room()), mtu.base)
        if not path.is_validated:
            size = min(size, 3 * path.bytes_received - path.bytes_sent)
        return size

    def _bulk_room(self) -> int:
        """Return the bytes of the congestion window that bulk data may still use."""
        cc = self._connection.recovery.cc
        kept = min(RESERVE * self._connection.mtu.base, cc.congestion_window // 2)
        return cc.congestion_window - kept - cc.bytes_in_flight

    def _is_free(self, size: int, now: float) -> bool:
        """Return True if data other than an ACK is waiting and congestion control allows it."""
        connection = self._connection
        if connection._probe_pending or connection._ping_pending:
            return True  # probes are not limited (RFC 9002 section 7.5)
        loss, table = connection.recovery, connection.table
        cc = loss.cc
        if not (table.control or table.has_data()):
            cc.full = False
            return False
        if cc.one_more:
            cc.one_more = False
            return True
        if table.has_urgent() and cc.bytes_in_flight + connection.mtu.base <= cc.congestion_window:
            return True  # unpaced: it is little data, with reserved space
        if size > self._bulk_room():
            cc.full = True
            return False
        if loss.pacer.available(now) < size:
            cc.full = True
            connection._pacing_at = loss.pacer.next_time()
            return False
        return True

    def _probe_mtu(self, seal: Any, space: QuicPacketSpace, size: int, now: float) -> bytes:
        """Return a padded PING. Neither congestion control nor loss detection counts it (RFC 9000 section
        14.4)."""
        connection = self._connection
        number = self._number()
        overhead = 1 + len(connection._peer_cid.cid) + 4 + TAG_SIZE
        datagram: bytes = seal(number, 4, b"\x01".ljust(size - overhead, b"\0"))
        handler = connection.recovery.on_mtu_probe
        self._sent(number, size, [(handler, (size,))], space, now, eliciting=True)
        space.sent_packets[number].in_flight = False
        connection.recovery.cc.bytes_in_flight -= size
        connection._network_paths[0].bytes_sent += size
        return datagram

    def _packet(
        self, seal: Any, space: QuicPacketSpace, size: int, now: float, *, ack: bool, free: bool
    ) -> bytes | None:
        connection = self._connection
        number = self._number()
        length = 2 if number - space.largest_acked_packet < SHORT_NUMBER_SPAN else 4
        overhead = 1 + len(connection._peer_cid.cid) + length + TAG_SIZE
        capacity = size - overhead
        if capacity < 30:  # the anti-amplification limit leaves no space for a frame
            return None
        parts: list[Part] = []
        handlers: list[Handler] = []
        room = capacity
        if ack:
            room -= self._write_ack(parts, handlers, space, now, room)
        acked_only = bool(parts)
        eliciting = False
        if free:
            before = len(parts)
            room = self._write_frames(parts, handlers, room)
            eliciting = self._is_tail = len(parts) > before
        elif self._ack_only >= PING_EVERY or (self._is_tail and space.ack_eliciting_in_flight):
            # The second condition is a tail loss probe: without a later packet, only a slower time-out would show
            # that the last one was lost.
            self._ack_only = 0
            self._is_tail = False
            parts.append(b"\x01")
            eliciting = True
        if not parts:
            return None
        payload = b"".join(parts)
        if connection.padded_packet and eliciting:
            connection.padded_packet = False
            payload = payload.ljust(min(capacity, VALIDATION_SIZE - overhead), b"\0")
        if connection.is_asking and eliciting:
            connection.is_asking = False
            payload = payload.ljust(min(capacity, PING_SIZE - overhead), b"\0")
        if len(payload) < 4:
            payload = payload.ljust(4, b"\0")  # minimum for the header protection's sample
        if acked_only and not eliciting:
            self._ack_only += 1
        datagram: bytes = seal(number, length, payload)
        self._sent(number, len(datagram), handlers, space, now, eliciting=eliciting)
        return datagram

    def _sent(
        self,
        number: int,
        size: int,
        handlers: list[Handler],
        space: QuicPacketSpace,
        now: float,
        *,
        eliciting: bool,
    ) -> None:
        connection = self._connection
        loss = connection.recovery
        connection._packet_number = number + 1
        keys = connection.one_rtt
        if not keys.sent:
            keys.first_sent = number
        keys.sent += 1
        self.packets += 1
        self.bytes += size
        if not eliciting:
            # Not tracked: ACK-only packets are not acknowledged.
            return
        packet = SentPacket(number, now, handlers)
        packet.sent_bytes = size
        space.sent_packets[number] = packet  # type: ignore[assignment]  # has what recovery reads of aioquic's
        space.ack_eliciting_in_flight += 1
        if loss.handshake_confirmed:
            loss._time_of_last_sent_ack_eliciting_packet = now
        loss.cc.bytes_in_flight += size
        loss.pacer.spend(size)
        if not connection._ack_eliciting_sent_since_receipt:
            connection._close_at = now + connection._idle_timeout()
            connection._ack_eliciting_sent_since_receipt = True

    def _number(self) -> int:
        connection = self._connection
        number = connection._packet_number
        if number >= self._next_skip:
            draw = int.from_bytes(connection.random(2), "big") % SKIP_WITHIN
            if self._next_skip:
                connection.skipped = [*connection.skipped[1 - SKIPS_KEPT :], number]
                number += 1
                connection._packet_number = number
            self._next_skip = number + 1 + SKIP_WITHIN // 4 + draw
        return number

    def _write_ack(
        self, parts: list[Part], handlers: list[Handler], space: QuicPacketSpace, now: float, room: int
    ) -> int:
        """Append an ACK frame (RFC 9000 section 19.3) and return its size."""
        connection = self._connection
        queue = space.ack_queue
        connection.ack_waiting = 0
        space.ack_at = None
        if not len(queue):
            return 0
        delay = (
            int(max(now - (space.largest_received_time or now), 0.0) * 1_000_000)
            >> connection._local_ack_delay_exponent
        )
        newest = queue[-1]
        count = min(len(queue), ACK_RANGES, 1 + max(room - 40, 0) // 8)
        frame = [
            b"\x02",
            encode(newest.stop - 1),
            encode(delay),
            encode(count - 1),
            encode(newest.stop - 1 - newest.start),
        ]
        start = newest.start
        for index in range(2, count + 1):
            older = queue[-index]
            frame.append(encode(start - older.stop - 1))
            frame.append(encode(older.stop - older.start - 1))
            start = older.start
        encoded = b"".join(frame)
        parts.append(encoded)
        handlers.append((connection.on_own_ack_delivery, (space, newest.stop - 1)))
        connection.lowest_unreported = newest.stop
        return len(encoded)

    def _write_frames(self, parts: list[Part], handlers: list[Handler], room: int) -> int:
        connection = self._connection
        table = connection.table
        if connection._probe_pending or connection._ping_pending:
            connection._probe_pending = False
            connection._ping_pending.clear()
            parts.append(b"\x01")
            room -= 1
        control = table.control
        while control and room >= 64:  # the longest of them, NEW_CONNECTION_ID, has 46 bytes
            frame = control.next()
            if frame is None:
                continue
            parts.append(frame[0])
            room -= len(frame[0])
            if frame[1] is not None:
                handlers.append(frame[1])
        if connection.padded_packet:
            return room
        return table.fill(parts, handlers, room)

    def _queue_inherited_frames(self, path: QuicNetworkPath, now: float) -> None:
        """Queue frames for the pending work in aioquic's own lists and flags, which keep it until it is
        written."""
        connection = self._connection
        if not connection._handshake_complete:
            return
        if connection._handshake_done_pending:
            self._want(self._frame_handshake_done)
        if not path.is_validated and not path.local_challenge_sent:
            connection.padded_packet = True
            self._want(self._frame_challenge, first=True)
            if path.validation_deadline is None:
                pto = max(connection.recovery.get_probe_timeout(), 2 * connection._configuration.initial_rtt)
                path.validation_deadline = now + NEW_PATH_TIMEOUTS * pto
        if path.remote_challenges:
            connection.padded_packet = True
            self._want(self._frame_answers, first=True)
        if not all(cid.was_sent for cid in connection._host_cids):
            self._want(self._frame_new_cid)
        if connection._retire_connection_ids:
            self._want(self._frame_retire)

    def _want(self, frame: Callable[[], Frame | None], *, first: bool = False) -> None:
        """Queue one entry for a kind of frame. Otherwise the queue could grow without limit for a peer that
        acknowledges nothing.
        """
        if frame not in self._wanted:
            self._wanted.add(frame)
            self._connection.table.control.add(partial(self._frame, frame), first=first)

    def _frame(self, maker: Callable[[], Frame | None]) -> Frame | None:
        self._wanted.discard(maker)
        return maker()

    # Each returns None if the frame is not needed any more.

    def _frame_handshake_done(self) -> Frame:
        self._connection._handshake_done_pending = False
        return b"\x1e", (self._connection._on_handshake_done_delivery, ())

    def _frame_challenge(self) -> Frame | None:
        path = self._connection._network_paths[0]
        if path.is_validated or path.local_challenge_sent:
            return None
        path.local_challenge_sent = True
        challenge = self._connection.random(8)
        path.local_challenges.append(challenge)
        return b"\x1a" + challenge, (self._connection._on_path_challenge_delivery, (path,))

    def _frame_answers(self) -> Frame | None:
        """Answer challenges on the active path; other paths are answered during their validation."""
        challenges = self._connection._network_paths[0].remote_challenges
        newest = list(challenges)[-MAX_ANSWERS:]
        challenges.clear()
        return (b"".join(b"\x1b" + challenge for challenge in newest), None) if newest else None

    def _frame_new_cid(self) -> Frame | None:
        connection = self._connection
        unsent = [cid for cid in connection._host_cids if not cid.was_sent]
        if not unsent:
            return None
        cid = unsent[0]
        cid.was_sent = True
        if len(unsent) > 1:
            self._want(self._frame_new_cid)
        frame = b"".join(
            (
                b"\x18",
                encode(cid.sequence_number),
                b"\x00",
                bytes((len(cid.cid),)),
                cid.cid,
                cid.stateless_reset_token,
            )
        )
        return frame, (connection._on_new_connection_id_delivery, (cid,))

    def _frame_retire(self) -> Frame | None:
        retired = self._connection._retire_connection_ids
        if not retired:
            return None
        sequence = retired.pop(0)
        if retired:
            self._want(self._frame_retire)
        return b"\x19" + encode(sequence), (self._connection._on_retire_connection_id_delivery, (sequence,))


def is_open(connection: ConnectionBase) -> bool:
    """Return True if 1-RTT packets may be sent."""
    return (
        connection._state is QuicConnectionState.CONNECTED
        and connection._handshake_complete
        and not connection._close_pending
        and connection.one_rtt.send.is_valid()
    )
