"""Path MTU discovery by probes (RFC 8899, RFC 9000 section 14.3).

A few common sizes are tried in ascending order, each with a padded PING whose loss does not count for congestion
control. If the path stops carrying the larger size, the size falls back. This needs sockets that forbid
fragmentation.
"""

from __future__ import annotations

# Bytes that every path carries (RFC 9000 section 14): the start of a search.
MIN_DATAGRAM = 1200
# UDP payload in a tunnel or VPN; over IPv6 and IPv4 on Ethernet; on jumbo frames; and on loopback, with frames of
# 64 KiB.
SIZES = (1350, 1432, 1452, 8932, 16_384, 32_000)
# Probes of one size that may be lost before it counts as too large (RFC 8899 section 5.1.2).
MAX_PROBES = 3
# Seconds between two searches (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
RAISE_INTERVAL = 600.0
# Consecutive losses of larger datagrams before the size falls back. With 10 % random loss, this happens by
# accident once in 10**10.
SUSPICIOUS_LOSSES = 10
# Consecutive probe time-outs after which the size falls back.
SUSPICIOUS_TIMEOUTS = 3


class MtuSearch:
    """Datagram size in use, and the next size to try."""

    def __init__(self, fixed: int, largest: int) -> None:
        """Begin a search up to ``largest`` bytes. With ``largest`` 0 there is no search: all datagrams may have
        ``fixed`` bytes."""
        base = MIN_DATAGRAM if largest else fixed
        self.base = base
        self.size = base
        self._largest = largest
        self._candidates: list[int] = []
        self._failures = 0
        self._probing = False
        self._again_at = 0.0
        self._losses = 0

    def limit(self, largest: int) -> None:
        """Apply the peer's limit of datagram sizes (max_udp_payload_size)."""
        self._largest = min(self._largest, largest)
        self.base = min(self.base, largest)
        self.size = min(self.size, largest)

    def restart(self) -> None:
        """Begin again on a new path."""
        self.size = self.base
        self._candidates = []
        self._again_at = 0.0
        self._failures = self._losses = 0

    def next_probe(self, now: float) -> int | None:
        """Return the size of a probe to send now, or None."""
        if self._probing:
            return None
        if not self._candidates:
            if self._largest <= self.size or now < self._again_at:
                return None
            self._again_at = now + RAISE_INTERVAL
            self._candidates = [size for size in SIZES if self.size < size <= self._largest]
            if not self._candidates:
                return None
        self._probing = True
        return self._candidates[0]

    def on_probe(self, size: int, *, arrived: bool) -> None:
        """Record whether a probe arrived or was lost."""
        self._probing = False
        if not self._candidates or size != self._candidates[0]:
            return
        if arrived:
            self.size = self._candidates.pop(0)
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= MAX_PROBES:
            self._candidates = []  # larger sizes do not fit either
            self._failures = 0

    def on_acked(self, size: int) -> None:
        """Record that a datagram of ``size`` bytes was acknowledged."""
        if size > self.base:
            self._losses = 0

    def on_lost(self, count: int) -> bool:
        """Record lost datagrams above the base size. Return True if the size falls back."""
        self._losses += count
        return self.size > self.base and self._losses >= SUSPICIOUS_LOSSES and self._fall_back()

    def on_timeouts(self, count: int) -> bool:
        """Record ``count`` consecutive probe time-outs. Return True if the size falls back."""
        return self.size > self.base and count >= SUSPICIOUS_TIMEOUTS and self._fall_back()

    def _fall_back(self) -> bool:
        self.restart()  # search again at once
        return True
