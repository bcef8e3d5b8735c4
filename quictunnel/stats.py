"""The figures of one tunnel, for callers on any thread: while it is open, and after.

Nothing is counted here. A reading looks at what the tunnel's own work has counted anyway, so a tunnel that nobody
asks about costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from quictunnel.events import LOST, TunnelStats

if TYPE_CHECKING:
    from quictunnel.connection.leases import ClientLease
    from quictunnel.connection.manager import ConnectionManager


class Meter:
    """Reads the figures of one tunnel, whose lease is bound."""

    def __init__(self, lease: ClientLease, manager: ConnectionManager) -> None:
        self._lease = lease
        self._manager: ConnectionManager | None = manager
        self._since = time.time()
        self._is_closing = False
        self._engine = manager.engine
        self._rtt: float | None = None
        self._last: TunnelStats | None = None
        self._told = (0, 0)
        """Bytes in and out of the last reading. A visitor who leaves while somebody reads may be missed for that
        moment; the sums stand still then, and do not go back."""

    def read(self) -> TunnelStats:
        """Return the figures of now; when the tunnel is closed, the last ones."""
        manager = self._manager
        if manager is None:
            assert self._last is not None, "set before the manager is let go"
            return self._last
        return self._reading(self._state(manager), manager.rtt, None)

    def closing(self) -> None:
        """The tunnel is about to be closed: the last moment at which it surely has a link to ask."""
        if self._manager is not None:
            self._is_closing = True
            self._rtt = self._manager.rtt

    def closed(self) -> None:
        """Keep the last figures, and let go of the connection manager: the tunnel is closed."""
        manager = self._manager
        if manager is not None:
            state = self._state(manager)
            is_over = state in ("refused", "failed", LOST)
            self._last = self._reading(state if is_over else "closed", self._rtt, time.time())
            self._manager = None

    def _state(self, manager: ConnectionManager) -> str:
        if not self._lease.is_requested:
            return LOST
        return "draining" if self._is_closing and manager.state == "connected" else manager.state

    def _reading(self, state: str, rtt: float | None, until: float | None) -> TunnelStats:
        tally = self._lease.counts
        bytes_in, bytes_out = tally.bytes_in, tally.bytes_out
        # Other threads count while this one looks; a copy of a set is made in one step.
        streams = tuple(self._lease.streams)
        for stream in streams:
            bytes_in += stream.bytes_received
            bytes_out += stream.bytes_sent
        told = self._told
        self._told = bytes_in, bytes_out = max(bytes_in, told[0]), max(bytes_out, told[1])
        if self._manager is not None:
            self._engine = self._manager.engine or self._engine
        return TunnelStats(
            state=state,
            engine=self._engine,
            rtt=rtt,
            visitors_now=len(streams),
            visitors_total=tally.visitors,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            since=self._since,
            until=until,
        )
