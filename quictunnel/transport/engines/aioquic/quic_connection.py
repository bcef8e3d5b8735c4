"""Hardened subclass of aioquic's connection, with its own path for 1-RTT packets.

Handshake packets, path validation, connection IDs and closing use the inherited code. 1-RTT packets on the
validated path of a confirmed connection take a fast path; all others take the inherited one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioquic._buffer import Buffer
from aioquic._crypto import CryptoError
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.tls import Epoch

from quictunnel.transport.engine import CloseCause, Connected
from quictunnel.transport.engines.aioquic.anti_amplification import AmplificationLimit, is_public
from quictunnel.transport.engines.aioquic.connection_base import ConnectionBase
from quictunnel.transport.engines.aioquic.frames import QuicFrameReader
from quictunnel.transport.engines.aioquic.keys import OneRttKeys
from quictunnel.transport.engines.aioquic.mtu import MtuSearch
from quictunnel.transport.engines.aioquic.packet_sender import Sender, is_open
from quictunnel.transport.engines.aioquic.recovery import ReceivedNumbers, Recovery, WideWindow
from quictunnel.transport.engines.aioquic.stream_table import StreamTable
from quictunnel.transport.engines.aioquic.tls import trust_pinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic import events
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.packet_builder import QuicPacketBuilder

    from quictunnel.transport.engine import EngineSettings

CID_SIZE = 8
# Connection IDs that the peer may use: the current one, one for a migration, and two in flight.
CIDS_OFFERED = 4
# Bytes of CRYPTO data on one level. A client's flight has 1 KiB, a server's with its certificates a few; aioquic
# accepts the 16 MiB of a TLS message, at quadratic cost.
MAX_CRYPTO = 64 * 1024
# Datagrams to store that overtook the end of the handshake (RFC 9001 section 5.7): an initial congestion window
# and some more. Without this, the peer would take reordering for congestion.
MAX_EARLY = 32
# Announced max_ack_delay in milliseconds: one of ACK delay, the rest for the event loop. aioquic's 25 would add to
# every probe time-out (RFC 9002 section 6.2.1), and so delay the retransmission of a lost keystroke.
MAX_ACK_DELAY = 5
# Bytes; transport parameters have about 120.
PARAMETERS_SIZE = 512
ONE_RTT = Epoch.ONE_RTT


class TunnelConnection(ConnectionBase):
    """QUIC connection of an engine."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        settings: EngineSettings,
        random: Callable[[int], bytes],
        reset_token: Callable[[bytes], bytes],
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        validated: NetworkAddress | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.random = random
        self.cause: CloseCause | None = None
        self.heard = 0.0
        self.packets_received = 0
        self.bytes_received = 0
        self.mtu = MtuSearch(settings.datagram_size, settings.largest_datagram)
        self.ack_waiting = 0
        self.lowest_unreported = 0
        self.padded_packet = False
        self._early: list[tuple[bytes, NetworkAddress]] = []
        self.one_rtt = OneRttKeys()
        self._settings = settings
        self._next_key_update = 0.0
        self._make_token = reset_token
        self._validated = validated
        self._ack_delay = settings.ack_delay
        self._choose_cids()
        self._apply_limits()
        self.recovery = self._loss = Recovery(
            mtu=self.mtu,
            initial_rtt=configuration.initial_rtt,
            max_probe_timeout=settings.max_probe_timeout,
            is_client=self._is_client,
            send_probe=self._send_probe,
            logger=self._logger,
        )
        self.skipped = []
        self.sender = Sender(self)
        self.is_asking = False
        """True if the next packet is padded to PING_SIZE."""
        self.amplification = AmplificationLimit(self, validated)
        self._reader = QuicFrameReader(self, self._QuicConnection__frame_handlers)  # type: ignore[attr-defined]  # mangled

    def _choose_cids(self) -> None:
        """Replace aioquic's connection IDs and reset tokens by the engine's."""
        first = self._host_cids[0]
        first.cid = self.host_cid = self._local_initial_source_connection_id = self._new_cid()
        if self._is_client:
            self._peer_cid.cid = self._original_destination_connection_id = self.random(CID_SIZE)
        else:
            first.stateless_reset_token = self._make_token(first.cid)

    def _new_cid(self) -> bytes:
        prefix = self._settings.cid_prefix
        return self.random(CID_SIZE) if prefix is None else bytes((prefix,)) + self.random(CID_SIZE - 1)

    def _apply_limits(self) -> None:
        settings = self._settings
        limits = settings.trusted if self._is_client else settings.unadmitted
        self.table = StreamTable(
            is_client=self._is_client,
            limits=limits,
            # This side opens streams only to an authenticated peer.
            own_window=settings.trusted.stream_window,
            send_buffer=settings.send_buffer,
        )
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = limits.streams
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0
        self._local_max_data.value = self._local_max_data.sent = limits.connection_window
        self._local_max_stream_data_bidi_local = settings.trusted.stream_window
        self._local_max_stream_data_bidi_remote = limits.stream_window
        self._local_max_stream_data_uni = 0

    # Receiving

    def receive_burst(self, datagrams: list[bytes], address: NetworkAddress, now: float) -> None:
        """Process datagrams of one source in order. Their content never raises."""
        self.table.now = now
        size = sum(map(len, datagrams))
        self.bytes_received += size
        self.amplification.heard(address, size)
        try:
            for datagram in datagrams:
                if self._close_event is not None:
                    break
                if not self._is_early(datagram, address) and (
                    datagram[0] & 0x80 or not self._receive_short(datagram, address, now)
                ):
                    self.receive_datagram(datagram, address, now)
            if self._early and self._handshake_complete:
                early, self._early = self._early, []
                for datagram, source in early:
                    self.receive_datagram(datagram, source, now)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
        if self.heard == now and self._state is QuicConnectionState.CONNECTED:
            self._close_at = now + self._idle_timeout()
        if self.table.is_leaking():
            self.close(QuicErrorCode.STREAM_STATE_ERROR, QuicFrameType.PADDING, "Streams are never ended")

    def _is_early(self, datagram: bytes, address: NetworkAddress) -> bool:
        """Store a 1-RTT packet that arrives before its keys. Return False if there is no need or no room."""
        if self._handshake_complete or datagram[0] & 0x80 or len(self._early) >= MAX_EARLY:
            return False
        self._early.append((datagram, address))
        return True

    def _receive_short(self, datagram: bytes, address: NetworkAddress, now: float) -> bool:
        """Process a 1-RTT packet on the fast path. Return False if it needs the inherited one."""
        if (
            self._state is not QuicConnectionState.CONNECTED
            or not self._handshake_confirmed
            or datagram[1 : 1 + CID_SIZE] != self.host_cid
        ):
            return False
        path = self._network_paths[0]
        if path.addr != address or not path.is_validated:
            return False
        if not datagram[0] & 0x40:
            return True
        space = self._spaces[ONE_RTT]
        try:
            first, number, payload = self.one_rtt.open(datagram, 1 + CID_SIZE, space.expected_packet_number)
        except CryptoError:
            return True
        received = space.received_packets
        if number in received:
            return True
        if first & 0x18:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "Reserved bits must be zero"
            )
        if number >= space.expected_packet_number:
            space.expected_packet_number = number + 1
        eliciting = self._reader.read(payload, path, now)
        self.heard = now
        self.packets_received += 1
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        queue = space.ack_queue
        queue.add(number)
        received.add(number)
        if len(queue) > 256:
            queue.shift()
        self.lowest_unreported = min(self.lowest_unreported, number)
        if eliciting:
            self.ack_waiting += 1
            if space.ack_at is None:
                space.ack_at = now + self._ack_delay
        return True

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Process a datagram on aioquic's path."""
        if not self._is_client and self._network_paths and not self._may_migrate(addr):
            return
        path = self._network_paths[0] if self._network_paths else None
        super().receive_datagram(data, addr, now)
        if self._network_paths and path is not None and self._network_paths[0] is not path:
            self._on_new_path(path, self._network_paths[0])

    def _payload_received(
        self,
        context: QuicReceiveContext,
        plain: bytes,
        crypto_frame_required: bool = False,  # noqa: ARG002 - the signature is the one it overrides
    ) -> tuple[bool, bool]:
        if context.epoch is ONE_RTT:
            eliciting = self._reader.read(plain, context.network_path, context.time, context.host_cid)
            result = eliciting, self._reader.probing
        else:
            # A client's probe may have only a PING (RFC 9002 section 6.2.4); aioquic requires CRYPTO in a first
            # packet.
            result = super()._payload_received(context, plain)
        self.heard = context.time
        self.packets_received += 1
        return result

    def _may_migrate(self, address: NetworkAddress) -> bool:
        """Return False if a public peer claims to move to a private address: request forgery (RFC 9000 section
        21.5.6)."""
        current = self._network_paths[0].addr
        if address == current or address[0] == current[0]:
            return True
        try:
            return is_public(address[0]) or not is_public(current[0])
        except ValueError:
            return True  # not an IP address: a simulated network

    def _on_new_path(self, old: QuicNetworkPath, new: QuicNetworkPath) -> None:
        if old.addr[0] != new.addr[0]:
            self.recovery.reset_path()

    def _find_network_path(self, addr: NetworkAddress) -> QuicNetworkPath:
        path = super()._find_network_path(addr)
        if addr == self._validated and not self._network_paths:
            path.is_validated = True  # it answered a Retry (RFC 9000 section 8.1.2)
        return path

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        if buf.pull_uint_var() + buf.pull_uint_var() > MAX_CRYPTO:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "Too much CRYPTO")
        buf.seek(start)
        complete = self._handshake_complete
        super()._handle_crypto_frame(context, frame_type, buf)
        if self._handshake_complete and not complete:
            # Before the following frames: stream data may follow in the same datagram.
            self.table.events.append(Connected())
            self._on_connected()

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        self.check_acked(buf.pull_uint_var(), frame_type)
        buf.seek(start)
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_connection_close_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if self.cause is None and self._close_event is None:
            self.cause = CloseCause.PEER
        super()._handle_connection_close_frame(context, frame_type, buf)

    def _serialize_transport_parameters(self) -> bytes:
        parameters = pull_quic_transport_parameters(Buffer(data=super()._serialize_transport_parameters()))
        parameters.max_ack_delay = MAX_ACK_DELAY
        buffer = Buffer(capacity=PARAMETERS_SIZE)
        push_quic_transport_parameters(buffer, parameters)
        return buffer.data

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        if self._remote_max_idle_timeout == 0:
            self._remote_max_idle_timeout = None  # 0 means no time-out (RFC 9000 section 18.2)
        parameters = pull_quic_transport_parameters(Buffer(data=data))
        if parameters.ack_delay_exponent is not None:
            self._remote_ack_delay_exponent = parameters.ack_delay_exponent
        if parameters.max_udp_payload_size is not None:
            self.mtu.limit(parameters.max_udp_payload_size)

    # Connection IDs

    def _consume_peer_cid(self) -> None:
        if not self._peer_cid_available:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION,
                QuicFrameType.NEW_CONNECTION_ID,
                "All connection IDs were retired",
            )
        super()._consume_peer_cid()

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(CIDS_OFFERED, self._remote_active_connection_id_limit):
            cid = self._new_cid()
            self._host_cids.append(
                QuicConnectionId(
                    cid=cid, sequence_number=self._host_cid_seq, stateless_reset_token=self._make_token(cid)
                )
            )
            self._host_cid_seq += 1

    def own_cids(self) -> list[bytes]:
        """Return this side's connection IDs."""
        return [cid.cid for cid in self._host_cids]

    @property
    def peer_reset_token(self) -> bytes:
        """The stateless reset token of the peer's current connection ID."""
        return self._peer_cid.stateless_reset_token

    # Sending

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams to send now, within the anti-amplification limit."""
        return self.amplification.filter(self._datagrams_to_send(now))

    def _datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        self.table.now = now
        if not self._network_paths:
            return []
        sent: list[tuple[bytes, NetworkAddress]] = []
        if self._close_pending or not self._handshake_confirmed:
            sent += super().datagrams_to_send(now)
            self.sender.packets += len(sent)
            self.sender.bytes += sum(len(datagram) for datagram, _ in sent)
        elif len(self._network_paths) > 1 and self._state is QuicConnectionState.CONNECTED:
            sent += self._probe_other_paths(now)
        if is_open(self):
            self._update_keys_in_time(now)
            sent += self.sender.datagrams(now)
        return sent

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        """Do nothing: Sender builds the 1-RTT packets, aioquic only those of the handshake."""

    def _probe_other_paths(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Validate inactive paths (RFC 9000 section 9.1), each with its own connection ID."""
        sent: list[tuple[bytes, NetworkAddress]] = []
        for path in self._network_paths[1:]:
            wanted = path.remote_challenges or not (path.is_validated or path.local_challenge_sent)
            if wanted and path.peer_cid is None and self._peer_cid_available:
                path.peer_cid = self._peer_cid_available.pop(0)
            if wanted and path.peer_cid is not None:
                sent += self._send_probing_frames(network_path=path, now=now)
        return sent

    def _update_keys_in_time(self, now: float) -> None:
        """Update the keys long before their limit, once the last update is confirmed and three PTO old (RFC 9001
        section 6)."""
        keys = self.one_rtt
        if keys.sent < self._settings.key_update_packets or not self._handshake_confirmed:
            return
        space = self._spaces[ONE_RTT]
        if space.largest_acked_packet < keys.first_sent or now < self._next_key_update:
            return
        keys.update_now()
        self._next_key_update = now + 3 * self.recovery.get_probe_timeout()

    # Life

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # After a Retry a client begins anew; its earlier packets are neither lost nor acknowledged.
        self.recovery.cc.bytes_in_flight = 0
        # The TLS engine's callback uses it, so it must be set before the first message.
        self._cryptos[ONE_RTT] = self.one_rtt
        self.tls._max_early_data = None
        if self._is_client and self._settings.pin:
            trust_pinned(self.tls, self._settings.pin)
        space = self._spaces[ONE_RTT]
        space.ack_queue = ReceivedNumbers()
        space.received_packets = WideWindow()

    def get_timer(self) -> float | None:
        """Return the time of the next timer, or None after the end."""
        return None if self._close_at is None else super().get_timer()

    def handle_timer(self, now: float) -> None:
        """Process the expired timer."""
        self.table.now = now
        if self._close_at is None:
            return
        if now >= self._close_at and self._close_event is None:
            self.cause = self.cause or CloseCause.TIMEOUT
        path = self._network_paths[0] if self._network_paths else None
        super().handle_timer(now)
        if self._network_paths and path is not None and self._network_paths[0] is not path:
            self._on_new_path(path, self._network_paths[0])

    def _on_connected(self) -> None:
        """Apply the peer's transport parameters."""
        table = self.table
        table.peer_window_own = self._remote_max_stream_data_bidi_local
        table.peer_window_theirs = self._remote_max_stream_data_bidi_remote
        table.on_max_data(self._remote_max_data)
        table.on_max_streams(self._remote_max_streams_bidi)

    def admit(self) -> None:
        """Raise the limits of an authenticated peer."""
        self.table.raise_limits(self._settings.trusted, self._settings.first_window)

    def ask_for_answer(self) -> None:
        """Send a PING, from a client in a datagram of PING_SIZE bytes."""
        self.is_asking = self._is_client
        self._ping_pending.append(0)

    def migrate(self) -> None:
        """Move to a new path with an unused connection ID (RFC 9000 section 9)."""
        self.change_connection_id()
        self.recovery.reset_path()
        self.ask_for_answer()

    def knows_address(self) -> bool:
        """Return True if the peer's address is validated."""
        return bool(self._network_paths) and self._network_paths[0].is_validated

    def has_ended(self) -> bool:
        """Return True if the connection is closed or closing."""
        return self._close_event is not None

    def wants_to_close(self) -> bool:
        """Return True if CONNECTION_CLOSE is to be sent."""
        return self._close_pending

    def has_inherited_events(self) -> bool:
        """Return True if aioquic's code has queued events."""
        return bool(self._events)

    def cids_changed(self, cids: set[bytes], token: bytes) -> bool:
        """Return True if the engine's routes for this connection are outdated."""
        return self._host_cids[-1].cid not in cids or self._peer_cid.stateless_reset_token is not token

    def is_over(self) -> bool:
        """Return True if the connection is terminated."""
        return self._state is QuicConnectionState.TERMINATED

    def is_closing(self) -> bool:
        """Return True in the closing state."""
        return self._state is QuicConnectionState.CLOSING

    def close_event(self) -> events.ConnectionTerminated | None:
        """Return the event of the connection's end, or None."""
        return self._close_event

    def take_inherited_events(self) -> list[Any]:
        """Return and clear the events of aioquic's code."""
        taken = list(self._events)
        self._events.clear()
        return taken
