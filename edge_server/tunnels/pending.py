"""Tunnels that are kept for clients which are expected to reconnect, while their visitors wait.

Their names come from the predecessor in a hot restart, or from the snapshot of the previous run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_server.ingress.admission import MAX_WAIT
from edge_server.tunnels.backend import TicketRecord
from edge_server.tunnels.public_port import PublicPort
from edge_server.tunnels.tunnel import Tunnel

if TYPE_CHECKING:
    import socket

    from edge_server.ingress.admission import Admission
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tunnel_record import TunnelRecord
    from edge_server.tunnels.visitor_log import VisitorLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Wait:
    """The wait for the client of one tunnel."""

    end: asyncio.TimerHandle
    last_connected: float
    """Time at which the client was last connected (time.monotonic)."""


class PendingTunnels:
    """Keeps names for clients that are expected back, and lets visitors wait for them."""

    def __init__(
        self, registry: Registry, ports: TcpPorts, admission: Admission, *, visitor_log: VisitorLog, hold: float
    ) -> None:
        """Begin without tunnels. ``hold``: see :attr:`hold`."""
        self._registry = registry
        self._ports = ports
        self._admission = admission
        self._visitor_log = visitor_log
        self.hold = hold
        """Seconds for which a name of the predecessor is kept for its client; :meth:`add` keeps it for at least
        :data:`MAX_WAIT`, the time for which visitors wait."""
        self._waits: dict[Tunnel, _Wait] = {}

    async def add(
        self,
        record: TunnelRecord,
        sock: socket.socket | None,
        *,
        seconds: float | None = None,
        last_connected: float | None = None,
    ) -> None:
        """Keep a name and its TCP port for the client that shows its ticket.

        Args:
            record: the record of the tunnel.
            sock: the listening socket of its TCP port.
            seconds: seconds for which it is kept; by default those for a name of a predecessor.
            last_connected: time at which its client was last connected (time.time); None: until now.
        """
        tunnel = Tunnel(
            record.name,
            owner=record.owner,
            options=record.options,
            admission=self._admission,
            visitor_log=self._visitor_log,
            kept_for=TicketRecord(record.generation, record.client_id, record.is_first_bind),
        )
        self._registry.add(tunnel)
        keep = max(self.hold, MAX_WAIT) if seconds is None else seconds
        end = asyncio.get_running_loop().call_later(keep, self._expire, tunnel)
        age = 0.0 if last_connected is None else max(0.0, time.time() - last_connected)
        self._waits[tunnel] = _Wait(end, time.monotonic() - age)
        if sock is not None:
            tunnel.port = PublicPort(sock)
            self._ports.adopt(tunnel.tcp_port, tunnel.owner)
            await tunnel.port.listen(tunnel.tcp_visitor)

    def last_connected(self, tunnel: Tunnel) -> float:
        """Return the time at which the client of a kept tunnel was last connected (time.time, on the
        current wall clock)."""
        return time.time() - (time.monotonic() - self._waits[tunnel].last_connected)

    def end_wait_for_client(self, tunnel: Tunnel) -> None:
        """Keep a tunnel no longer for its client, which has bound it or is expected no more."""
        self._waits.pop(tunnel).end.cancel()

    def withdraw_kept(self, tunnel: Tunnel) -> None:
        """Withdraw a tunnel from the client for which it is kept; do nothing if it is not kept."""
        if tunnel in self._waits:
            tunnel.is_withdrawn = True
            self._forget(tunnel)

    def give_up_all(self) -> None:
        """Close all kept tunnels."""
        for tunnel in tuple(self._waits):
            self._forget(tunnel)

    def _expire(self, tunnel: Tunnel) -> None:
        self._forget(tunnel)
        logger.info("the client that held %s did not reconnect in time", tunnel.name)

    def _forget(self, tunnel: Tunnel) -> None:
        self.end_wait_for_client(tunnel)
        tunnel.close()
        self._registry.remove(tunnel)
        if tunnel.tcp_port:
            self._ports.quarantine(tunnel.tcp_port, tunnel.owner)
