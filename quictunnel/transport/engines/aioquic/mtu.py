"""How large a datagram the path carries: discovery by probes (RFC 8899, RFC 9000 section 14.3).

A few sizes that networks really have are tried from below, each with a padded PING whose loss means nothing to
congestion control. A path that stops carrying the larger size is noticed and the size taken back. Meaningful
only on sockets that forbid fragmentation.
"""

from __future__ import annotations

# What every path carries (RFC 9000 section 14): where a search begins.
LEAST = 1200
# UDP payload within a tunnel or a VPN; over IPv6 and IPv4 on Ethernet; on jumbo frames; and on loopback, where
# 64 KiB frames fit any of these.
SIZES = (1350, 1432, 1452, 8932, 16_384, 32_000)
# Probes of one size that may be lost before it counts as too large (RFC 8899 section 5.1.2).
MAX_PROBES = 3
# Seconds until a search that ended is begun anew (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
RAISE_AFTER = 600.0
# Larger datagrams lost in a row, none of that size arriving between them, before the path is suspected: at a
# tenth of all datagrams lost by accident this happens once in 10**10.
SUSPICIOUS_LOSSES = 10
# Probe time-outs in a row after which the size is suspected before the path is.
SUSPICIOUS_TIMEOUTS = 3


class MtuSearch:
    """The size in use, and the size to be tried next."""

    def __init__(self, fixed: int, largest: int) -> None:
        """``largest`` 0: no search, every datagram may have ``fixed`` bytes."""
        base = LEAST if largest else fixed
        self.base = base
        self.size = base
        self._largest = largest
        self._candidates: list[int] = []
        self._failures = 0
        self._probing = False
        self._again_at = 0.0
        self._losses = 0

    def limit(self, largest: int) -> None:
        """The peer takes no datagram above ``largest`` (max_udp_payload_size)."""
        self._largest = min(self._largest, largest)
        self.base = min(self.base, largest)
        self.size = min(self.size, largest)

    def restart(self) -> None:
        """The path is another one."""
        self.size = self.base
        self._candidates = []
        self._again_at = 0.0
        self._failures = self._losses = 0

    def next_probe(self, now: float) -> int | None:
        """The size of a probe that is to be sent now."""
        if self._probing:
            return None
        if not self._candidates:
            if self._largest <= self.size or now < self._again_at:
                return None
            self._again_at = now + RAISE_AFTER
            self._candidates = [size for size in SIZES if self.size < size <= self._largest]
            if not self._candidates:
                return None
        self._probing = True
        return self._candidates[0]

    def on_probe(self, size: int, *, arrived: bool) -> None:
        self._probing = False
        if not self._candidates or size != self._candidates[0]:
            return
        if arrived:
            self.size = self._candidates.pop(0)
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= MAX_PROBES:
            self._candidates = []  # what is larger still will not fit either
            self._failures = 0

    def on_acked(self, size: int) -> None:
        if size > self.base:
            self._losses = 0

    def on_lost(self, count: int) -> bool:
        """``count`` datagrams above the base size were lost; True when the path does not carry them any more."""
        self._losses += count
        return self.size > self.base and self._losses >= SUSPICIOUS_LOSSES and self._fall_back()

    def on_timeouts(self, count: int) -> bool:
        """``count`` probe time-outs passed in a row; True when the size was taken back."""
        return self.size > self.base and count >= SUSPICIOUS_TIMEOUTS and self._fall_back()

    def _fall_back(self) -> bool:
        self.restart()  # and find out at once what it carries now
        return True
