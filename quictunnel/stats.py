"""Statistics of one tunnel, for callers on any thread: while it is open, and afterwards.

Nothing is counted here. A reading sums the counters that the tunnel keeps anyway, so statistics that nobody reads
cost nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from quictunnel.events import LOST, TunnelStats

if TYPE_CHECKING:
    from quictunnel.connection.leases import ClientLease
    from quictunnel.connection.manager import ConnectionManager


class StatsReader:
    """Reads the statistics of one tunnel, whose lease is bound."""

    def __init__(self, lease: ClientLease, manager: ConnectionManager) -> None:
        self._lease = lease
        self._manager: ConnectionManager | None = manager
        self._since = time.time()
        self._is_closing = False
        self._engine = manager.engine
        self._rtt: float | None = None
        self._last: TunnelStats | None = None
        self._last_bytes = (0, 0)
        """Bytes in and out of the last reading. A reading may miss a visitor that ends at that moment; the sums
        then stay as they were and never decrease."""

    def read(self) -> TunnelStats:
        """Return the current figures; after the tunnel is closed, the last ones."""
        manager = self._manager
        if manager is None:
            assert self._last is not None, "set before the manager is released"
            return self._last
        return self._reading(self._state(manager), manager.rtt, None)

    def before_close(self) -> None:
        """Store the round-trip time: the tunnel is about to be closed, and has no link afterwards."""
        if self._manager is not None:
            self._is_closing = True
            self._rtt = self._manager.rtt

    def after_close(self) -> None:
        """Store the last figures and release the connection manager: the tunnel is closed."""
        manager = self._manager
        if manager is not None:
            state = self._state(manager)
            is_over = state in ("refused", "failed", LOST)
            self._last = self._reading(state if is_over else "closed", self._rtt, time.time())
            self._manager = None

    def _state(self, manager: ConnectionManager) -> str:
        if not self._lease.is_wanted:
            return LOST
        return "draining" if self._is_closing and manager.state == "connected" else manager.state

    def _reading(self, state: str, rtt: float | None, until: float | None) -> TunnelStats:
        counts = self._lease.counts
        bytes_in, bytes_out = counts.bytes_in, counts.bytes_out
        # The loop's thread adds and removes streams meanwhile; copying a set is atomic.
        streams = tuple(self._lease.streams)
        for stream in streams:
            bytes_in += stream.bytes_received
            bytes_out += stream.bytes_sent
        last = self._last_bytes
        self._last_bytes = bytes_in, bytes_out = max(bytes_in, last[0]), max(bytes_out, last[1])
        if self._manager is not None:
            self._engine = self._manager.engine or self._engine
        return TunnelStats(
            state=state,
            engine=self._engine,
            rtt=rtt,
            visitors_now=len(streams),
            visitors_total=counts.visitors,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            since=self._since,
            until=until,
        )
