"""Loss recovery (RFC 9002): packets in flight, loss detection, probe time-outs.

Differences from aioquic: time and a wide packet threshold tolerate reordering, the probe time-out is capped, the
cost of an ACK depends on the acknowledged packets and not on those in flight, and each connection has its own
parameters instead of module globals.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketRecovery, QuicPacketSpace

from quictunnel.transport.engines.aioquic.congestion import GAIN, MINIMUM_WINDOW, SLOW_START_GAIN, Cubic, Pacer
from quictunnel.transport.engines.aioquic.reordering import Reordering

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from quictunnel.transport.engines.aioquic.mtu import MtuSearch

# Seconds at least for any round trip: if a short round trip suddenly grows, all packets would be declared lost
# before their acknowledgements arrive.
MIN_LOSS_DELAY = 0.010
# Packet numbers this far below the highest count as received.
DUPLICATE_WINDOW = 8192
# Limit of the exponent, far beyond any cap, against float overflow.
MAX_DOUBLINGS = 16
ACKED = QuicDeliveryState.ACKED


class ReceivedNumbers(RangeSet):
    """Set of received packet numbers. Adding the next number needs no search."""

    def add(self, start: int, stop: int | None = None) -> None:
        """Add one number, or a half-open range."""
        ranges: list[range] = self._RangeSet__ranges  # type: ignore[attr-defined]  # name-mangled in aioquic
        if ranges and stop is None:
            last = ranges[-1]
            if start == last.stop:
                ranges[-1] = range(last.start, start + 1)
                return
            if start > last.stop:
                ranges.append(range(start, start + 1))
                return
        super().add(start, stop)


class WideWindow(QuicPacketNumberWindow):
    """Duplicate detection over a large window of packet numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._size = DUPLICATE_WINDOW


class Recovery(QuicPacketRecovery):
    """Loss detection and congestion control of one connection."""

    _cc: Cubic

    def __init__(
        self,
        *,
        mtu: MtuSearch,
        initial_rtt: float,
        max_probe_timeout: float,
        is_client: bool,
        send_probe: Callable[[], None],
        logger: logging.LoggerAdapter[Any],
    ) -> None:
        super().__init__(
            congestion_control_algorithm="cubic",
            initial_rtt=initial_rtt,
            max_datagram_size=mtu.size,
            peer_completed_address_validation=not is_client,
            send_probe=send_probe,
            logger=logger,
        )
        self._max_probe_timeout = max_probe_timeout
        self.mtu = mtu
        self.packets_lost = 0
        self.packets_acked = 0
        self._answered = -1
        """Highest acknowledged 1-RTT packet among the ack-eliciting ones. Earlier packets were acknowledged at
        once if they arrived; later ones may be subject to the peer's delay (RFC 9000 section 13.2.1)."""
        self._reordering = Reordering()
        self._reset_congestion(in_flight=0, first_acked=0)

    @property
    def smoothed_rtt(self) -> float:
        """Smoothed round-trip time, in seconds."""
        return self._rtt_smoothed

    @property
    def cc(self) -> Cubic:
        """The congestion controller."""
        return self._cc

    @property
    def pacer(self) -> Pacer:
        """The pacer."""
        return self._pace

    def _reset_congestion(self, in_flight: int, first_acked: int) -> None:
        self._cc = Cubic(max_datagram_size=self.mtu.size)
        self._cc.bytes_in_flight = in_flight
        self._cc.first_acked = first_acked
        self._pace = Pacer(self.mtu.size)
        self._pacer = self._pace  # type: ignore[assignment]  # the two methods that aioquic calls are there

    def on_mtu(self) -> None:
        """Apply a changed size of datagrams."""
        self._cc.datagram = self._pace.datagram = self.mtu.size
        self._cc.congestion_window = max(self._cc.congestion_window, MINIMUM_WINDOW * self.mtu.size)
        if self._rtt_initialized:
            self._pace.update_rate(self._cc.congestion_window, self._rtt_smoothed)

    def on_mtu_probe(self, state: QuicDeliveryState, size: int) -> None:
        """Handle a probe of the path MTU that was acknowledged or lost."""
        before = self.mtu.size
        self.mtu.on_probe(size, arrived=state is ACKED)
        if self.mtu.size != before:
            self.on_mtu()

    def reset_path(self) -> None:
        """Reset the state of the path: the peer has migrated (RFC 9000 section 9.4)."""
        self.mtu.restart()
        self._reordering = Reordering()
        self._reset_congestion(self._cc.bytes_in_flight, self._cc.first_acked)
        self._rtt_initialized = False
        self._rtt_min = math.inf
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._pto_count = 0

    def get_loss_detection_time(self, *, amplification_limited: bool) -> float | None:
        """Return the time of the next loss detection or probe, or None."""
        due = super().get_loss_detection_time(amplification_limited=amplification_limited)
        if due is None or self._get_loss_space() is not None:
            return due
        # Doubling without end turns a black hole of 20 s into an outage of 40 s.
        base = self.get_probe_timeout(include_max_ack_delay=self.handshake_confirmed)
        return min(due, self._time_of_last_sent_ack_eliciting_packet + max(self._max_probe_timeout, base))

    def on_loss_detection_timeout(self, *, now: float) -> None:
        """Detect losses, or send a probe, when the timer expires."""
        super().on_loss_detection_timeout(now=now)
        self._pto_count = min(self._pto_count, MAX_DOUBLINGS)
        if self.mtu.on_timeouts(self._pto_count):
            self.on_mtu()

    def on_ack_received(
        self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        """Process an ACK frame of a handshake packet (aioquic's interface)."""
        self.on_ranges([(r.start, r.stop) for r in ack_rangeset], ack_delay, now, space)

    def on_ranges(
        self, ranges: Sequence[tuple[int, int]], ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        """Handle acknowledged half-open ranges in ascending order."""
        largest = ranges[-1][1] - 1
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        if space.is_application_data:
            cc = self._cc
            cc.first_acked = min(cc.first_acked, ranges[0][0]) if cc.first_acked else ranges[0][0]
            if self._reordering.is_proven(ranges, now, self._rtt_smoothed):
                cc.undo()
        newest, acked, eliciting = self._take_acked(ranges, space)
        if newest is None:
            return
        self.mtu.on_acked(newest.sent_bytes)
        if acked:
            self._cc.on_acked(acked, newest.sent_time or 0.0, now)
        if newest.packet_number == largest and eliciting:
            self._sample_rtt(now - (newest.sent_time or 0.0), ack_delay, now)
        self._detect_loss(now=now, space=space)
        if self.peer_completed_address_validation:
            self._pto_count = 0

    def _take_acked(self, ranges: Sequence[tuple[int, int]], space: QuicPacketSpace) -> tuple[Any, int, int]:
        sent: dict[int, Any] = space.sent_packets
        newest, acked, eliciting, answered = None, 0, 0, -1
        for start, stop in ranges:
            if not sent:
                break
            lowest = next(iter(sent))
            if stop <= lowest:
                continue
            numbers: Any = range(max(start, lowest), stop)
            if len(numbers) > len(sent):
                numbers = [number for number in sent if start <= number < stop]
            for number in numbers:
                packet = sent.pop(number, None)
                if packet is None:
                    continue
                newest = packet
                if packet.is_ack_eliciting:
                    eliciting += 1
                    answered = number
                if packet.in_flight:
                    acked += packet.sent_bytes
                for handler, arguments in packet.delivery_handlers:
                    handler(ACKED, *arguments)
        space.ack_eliciting_in_flight -= eliciting
        self.packets_acked += eliciting
        if space.is_application_data:
            self._answered = max(self._answered, answered)
        return newest, acked, eliciting

    def _sample_rtt(self, sample: float, ack_delay: float, now: float) -> None:
        """Update the round-trip estimates with a sample (RFC 9002 section 5)."""
        latest = max(sample, 1e-6)
        self._rtt_min = min(self._rtt_min, latest)
        ack_delay = min(ack_delay, self.max_ack_delay)
        if latest >= self._rtt_min + ack_delay:
            latest -= ack_delay
        self._rtt_latest = latest
        if not self._rtt_initialized:
            self._rtt_first_sample_time = now
            self._rtt_initialized = True
            self._rtt_variance = latest / 2
            self._rtt_smoothed = latest
        else:
            self._rtt_variance = 0.75 * self._rtt_variance + 0.25 * abs(self._rtt_smoothed - latest)
            self._rtt_smoothed = 0.875 * self._rtt_smoothed + 0.125 * latest
        cc = self._cc
        cc.on_rtt_measurement(now=now, rtt=sample)
        self._pace.gain = SLOW_START_GAIN if cc.slow_start else GAIN
        self._pace.update_rate(cc.congestion_window, self._rtt_smoothed)

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        space.loss_time = None
        if not space.sent_packets:
            return
        rtt = max(self._rtt_latest, self._rtt_smoothed) if self._rtt_initialized else self._rtt_initial
        delay = max(self._reordering.time_threshold(now) * rtt, MIN_LOSS_DELAY)
        largest = space.largest_acked_packet
        threshold = self._reordering.packet_threshold(now)
        answered = self._answered if space.is_application_data else largest
        lost = []
        for number, packet in space.sent_packets.items():
            if number > largest:
                break
            if number > answered:
                delay, answered = delay + self.max_ack_delay, largest
            sent_time = packet.sent_time or 0.0
            if number > largest - threshold and sent_time + delay > now:
                # Packets are kept in the order they were sent: all that follow are due later.
                space.loss_time = sent_time + delay
                break
            lost.append(packet)
        if lost:
            self.packets_lost += len(lost)
            before = self._cc.cuts
            self._suspect(lost)
            self._on_packets_lost(
                now=now,
                packets=lost,
                persistent_congestion=self._in_persistent_congestion(packets=lost),
                space=space,
            )
            if space.is_application_data:
                numbers = [packet.packet_number for packet in lost]
                self._reordering.on_declared(numbers, is_cut=self._cc.cuts != before)

    def _suspect(self, lost: list[Any]) -> None:
        """Return True if packets were probably lost because of their size."""
        base = self.mtu.base
        large = sum(1 for packet in lost if packet.in_flight and packet.sent_bytes > base)
        if large and self.mtu.on_lost(large):
            self.on_mtu()
