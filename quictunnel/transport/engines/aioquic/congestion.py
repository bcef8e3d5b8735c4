"""CUBIC (RFC 9438) and pacing, for a sender that processes acknowledgements in batches.

Differences from aioquic's controller: the window does not grow while the application sends less than it may (RFC
9002 section 7.8). A loss reduces the window and not the bytes in flight after it. The pacer allows bursts large
enough to fill any link with a timer of one millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.congestion.base import QuicCongestionControl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioquic.quic.packet_builder import QuicSentPacket

    from quictunnel.transport.engines.aioquic.sent_packet import SentPacket

INITIAL_WINDOW = 10  # datagrams, RFC 9002 section 7.2
MINIMUM_WINDOW = 2  # datagrams, RFC 9002 section 7.2
BETA = 0.7  # RFC 9438 section 4.6
C = 0.4  # RFC 9438 section 5
ALPHA = 3 * (1 - BETA) / (1 + BETA)  # RFC 9438 section 4.3

# Factor above window/rtt, so that the window is the limit and not the pacer (RFC 9002 section 7.7).
GAIN = 1.25
SLOW_START_GAIN = 2.0
# Burst size: the bytes of two ticks of a millisecond clock, within these numbers of datagrams.
BURST_SECONDS = 0.002
MIN_BURST = 10
MAX_BURST = 256


# HyStart++ (RFC 9406 section 4.3)
MIN_RTT_RISE = 0.004
MAX_RTT_RISE = 0.016
MIN_RTT_DIVISOR = 8
RTT_SAMPLES = 8
CONSERVATIVE_DIVISOR = 4
CONSERVATIVE_ROUNDS = 5


class SlowStart:
    """Exit condition of slow start: HyStart++ (RFC 9406), with rounds measured by time.

    A higher round-trip time may come from traffic in the other direction. Only if it lasts for several rounds of
    slower growth is the path full.
    """

    def __init__(self) -> None:
        self.conservative = False
        self._rounds = 0
        self._round_end = 0.0
        self._samples = 0
        self._current = float("inf")
        self._last = float("inf")
        self._baseline = float("inf")

    def is_over(self, now: float, rtt: float) -> bool:
        """Record a sample of the round-trip time and return True if slow start ends."""
        if now >= self._round_end:
            self._last, self._current, self._samples = self._current, float("inf"), 0
            self._round_end = now + rtt
            if self.conservative:
                self._rounds += 1
                if self._rounds >= CONSERVATIVE_ROUNDS:
                    return True
        self._samples += 1
        self._current = min(self._current, rtt)
        if self._samples < RTT_SAMPLES:
            return False
        if self.conservative:
            if self._current < self._baseline:
                self.conservative = False
        elif self._last < float("inf"):
            rise = min(max(self._last / MIN_RTT_DIVISOR, MIN_RTT_RISE), MAX_RTT_RISE)
            if self._current >= self._last + rise:
                self._baseline, self._rounds, self.conservative = self._current, 0, True
        return False


class Cubic(QuicCongestionControl):
    """Congestion window, in bytes."""

    def __init__(self, *, max_datagram_size: int) -> None:
        self.datagram = max_datagram_size
        self.congestion_window = INITIAL_WINDOW * max_datagram_size
        self.bytes_in_flight = 0
        self.ssthresh: int | None = None
        self.full = False
        """True if the window or the pacer stopped the last attempt to send, and not a lack of data."""
        self.cuts = 0
        """Number of window reductions."""
        self.one_more = False
        """True after a reduction: one packet may exceed the window, so that a retransmission does not wait for the
        rest of the flight (RFC 9002 section 7.3.2)."""
        self.first_acked = 0
        """The earliest acknowledged 1-RTT packet. Packets before it may have arrived before the peer had the keys.
        Their loss does not mean congestion and must not end slow start."""
        self._rtt = 0.1
        self._start = SlowStart()
        self._recovery_start = -1.0
        self._epoch: float | None = None
        self._peak = 0.0
        self._estimate = 0.0
        self._k = 0.0
        self._last_ack = 0.0
        self._before_cut: tuple[int, int | None, float] | None = None

    @property
    def slow_start(self) -> bool:
        """True during slow start."""
        return self.ssthresh is None or self.congestion_window < self.ssthresh

    def on_acked(self, size: int, sent_time: float, now: float) -> None:
        """Record ``size`` acknowledged bytes; the newest of them was sent at ``sent_time``."""
        before = self.bytes_in_flight
        self.bytes_in_flight = before - size
        elapsed, self._last_ack = now - self._last_ack, now
        if sent_time <= self._recovery_start:
            return
        slow = self.slow_start
        if not (self.full or (slow and before * 2 >= self.congestion_window)):
            if self._epoch is not None:
                self._epoch += elapsed
            return
        if slow:
            self.congestion_window += size // CONSERVATIVE_DIVISOR if self._start.conservative else size
        else:
            self._avoid(size, now)

    def _avoid(self, size: int, now: float) -> None:
        window, datagram = self.congestion_window, self.datagram
        if self._epoch is None:
            self._epoch = now
            self._estimate = float(window)
            self._peak = max(self._peak, float(window))
            self._k = ((self._peak - window) / datagram / C) ** (1 / 3)
        elapsed = now + self._rtt - self._epoch
        target = self._peak + C * (elapsed - self._k) ** 3 * datagram
        target = min(max(target, window), 1.5 * window)
        alpha = ALPHA if self._estimate < self._peak else 1.0
        self._estimate += alpha * datagram * size / window
        grown = window + (target - window) * size / window
        self.congestion_window = int(max(grown, self._estimate))

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Record an acknowledged packet (aioquic's interface)."""
        self.on_acked(packet.sent_bytes, packet.sent_time or 0.0, now)

    def on_packet_sent(self, *, packet: QuicSentPacket | SentPacket) -> None:
        """Record a sent packet."""
        self.bytes_in_flight += packet.sent_bytes

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Remove packets from the bytes in flight without a loss."""
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Record lost packets and reduce the window once per round trip."""
        latest = -1.0
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            if packet.packet_number > self.first_acked:  # RFC 9002 section 7.4
                latest = max(latest, packet.sent_time or 0.0)
        if latest <= self._recovery_start:
            return
        self._recovery_start = now
        self.cuts += 1
        window = self.congestion_window
        self._before_cut = (window, self.ssthresh, self._peak)
        # Fast convergence (RFC 9438 section 4.7): a shrinking flow makes room for a new one.
        self._peak = window * (1 + BETA) / 2 if window < self._peak else float(window)
        self.congestion_window = max(int(window * BETA), MINIMUM_WINDOW * self.datagram)
        self.ssthresh = self.congestion_window
        self._epoch = None
        self.one_more = True

    def undo(self) -> None:
        """Revert the last reduction after a spurious loss (RFC 9438 section 4.9)."""
        if self._before_cut is not None:
            window, self.ssthresh, self._peak = self._before_cut
            self.congestion_window = max(self.congestion_window, window)
            self._before_cut = self._epoch = None
            self._recovery_start = -1.0

    def on_persistent_congestion(self) -> None:
        """Reduce the window to its minimum (RFC 9002 section 7.6.2)."""
        self.congestion_window = MINIMUM_WINDOW * self.datagram
        self._recovery_start = -1.0
        self._epoch = None

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Record a sample of the round-trip time."""
        self._rtt = rtt
        if self.ssthresh is None and self._start.is_over(now, rtt):
            self.ssthresh = self.congestion_window


class Pacer:
    """Token bucket of bytes, refilled at the rate of the window. Has the interface of aioquic's pacer."""

    def __init__(self, datagram: int) -> None:
        self.datagram = datagram
        self._rate = 0.0
        self._burst = 0.0
        self._tokens = 0.0
        self._at = 0.0
        self.gain = SLOW_START_GAIN

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Compute rate and burst size from window and round-trip time."""
        self._rate = self.gain * congestion_window / max(smoothed_rtt, 1e-6)
        burst = min(max(self._rate * BURST_SECONDS, MIN_BURST * self.datagram), MAX_BURST * self.datagram)
        if not self._burst:
            self._tokens = burst
        self._burst = burst
        self._tokens = min(self._tokens, burst)

    def available(self, now: float) -> float:
        """Return the number of bytes that may be sent now."""
        if not self._rate:
            return float("inf")
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        return self._tokens

    def spend(self, size: int) -> None:
        """Take sent bytes from the bucket."""
        if self._rate:
            self._tokens -= size

    def next_time(self) -> float:
        """Return the time of the next attempt, at which a quarter of a burst is available, to keep wake-ups
        rare."""
        wanted = max(float(self.datagram), self._burst / 4)
        # At least one tick of the clock: with rounding, the current time would be returned again and again.
        return self._at + max((wanted - self._tokens) / self._rate, 1e-5)
