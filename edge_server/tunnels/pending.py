"""Tunnels that are kept for clients who are on their way, while visitors already come and wait.

A predecessor has told their names in a hot restart, or they are those of the snapshot before a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_server.ingress.admission import MAX_WAIT
from edge_server.tunnels.lease import Lease

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
    """For one client."""

    end: asyncio.TimerHandle
    left: float
    """Time at which the client was last there (time.monotonic)."""


class PendingTunnels:
    """Keeps names for clients that are expected back, and lets visitors wait for them."""

    def __init__(
        self, registry: Registry, ports: TcpPorts, admission: Admission, *, ledger: VisitorLog, hold: float
    ) -> None:
        """``hold``: as :attr:`hold`."""
        self._registry = registry
        self._ports = ports
        self._admission = admission
        self._ledger = ledger
        self.hold = hold
        """Seconds for which a name of a predecessor's is kept for its owner; visitors wait for at least
        :data:`MAX_WAIT` of them."""
        self._waits: dict[Lease, _Wait] = {}

    async def add(
        self,
        name: TunnelRecord,
        sock: socket.socket | None,
        *,
        seconds: float | None = None,
        left: float | None = None,
    ) -> None:
        """Keep a name and its TCP port for the client that shows its ticket.

        Args:
            name: the record of the tunnel.
            sock: the listening socket of its TCP port.
            seconds: how long to keep it; by default as long as the name of a predecessor.
            left: when its client was last there (time.time); None if it was there until now.
        """
        lease = Lease(
            None,
            0,
            name.name,
            owner=name.owner,
            admission=self._admission,
            ledger=self._ledger,
            terms=name.terms,
            generation=name.generation,
        )
        lease.program, lease.is_first_ask = name.program, name.is_first_ask
        self._registry.add(lease)
        keep = max(self.hold, MAX_WAIT) if seconds is None else seconds
        end = asyncio.get_running_loop().call_later(keep, self._forget, lease)
        age = 0.0 if left is None else max(0.0, time.time() - left)
        self._waits[lease] = _Wait(end, time.monotonic() - age)
        if sock is not None:
            lease.hold(sock)
            self._ports.adopt(lease.tcp_port, lease.owner)
            await lease.listen()

    def left(self, lease: Lease) -> float:
        """Return the time at which the client of a kept name was last there (time.time), by the current clock."""
        return time.time() - (time.monotonic() - self._waits[lease].left)

    def claim(self, lease: Lease) -> None:
        """Stop waiting for a client that has come."""
        self._waits.pop(lease).end.cancel()

    def give_up(self, lease: Lease) -> None:
        """Keep a name no longer, because its owner is not to have it."""
        lease.is_given_up = True
        self._forget(lease)

    def give_up_all(self) -> None:
        """Keep no name any longer."""
        for lease in tuple(self._waits):
            self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._waits.pop(lease).end.cancel()
        lease.close()
        self._registry.remove(lease)
        if lease.tcp_port:
            self._ports.release(lease.tcp_port, lease.owner)
        logger.info("the client that held %s did not come", lease.name)
