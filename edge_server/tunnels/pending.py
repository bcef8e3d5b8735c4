"""Names that the edge before this one held, whose clients are on their way: visitors already come for them and
wait. A predecessor has told them (``succession``), or they are those of before a restart (``lastheld``)."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_server.ingress.admission import WAIT
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
    """When it was last there (time.monotonic)."""


class PendingTunnels:
    """See the module."""

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
        :data:`WAIT` of them."""
        self._waits: dict[Lease, _Wait] = {}

    async def add(
        self,
        name: TunnelRecord,
        sock: socket.socket | None,
        *,
        seconds: float | None = None,
        left: float | None = None,
    ) -> None:
        """Keep a name, and its TCP port, for whoever shows its ticket; for so many ``seconds``, unless it is a
        predecessor's. Its client ``left`` then (time.time), or was there until now."""
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
        keep = max(self.hold, WAIT) if seconds is None else seconds
        end = asyncio.get_running_loop().call_later(keep, self._forget, lease)
        age = 0.0 if left is None else max(0.0, time.time() - left)
        self._waits[lease] = _Wait(end, time.monotonic() - age)
        if sock is not None:
            lease.hold(sock)
            self._ports.adopt(lease.tcp_port, lease.owner)
            await lease.listen()

    def left(self, lease: Lease) -> float:
        """When the client of one that is waited for was last there (time.time), by the clock as it is now."""
        return time.time() - (time.monotonic() - self._waits[lease].left)

    def claim(self, lease: Lease) -> None:
        """Its owner is here."""
        self._waits.pop(lease).end.cancel()

    def give_up(self, lease: Lease) -> None:
        """Its owner is to have it no more."""
        lease.is_given_up = True
        self._forget(lease)

    def give_up_all(self) -> None:
        """Nobody is waited for any more."""
        for lease in tuple(self._waits):
            self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._waits.pop(lease).end.cancel()
        lease.close()
        self._registry.remove(lease)
        if lease.tcp_port:
            self._ports.release(lease.tcp_port, lease.owner)
        logger.info("the client that held %s did not come", lease.name)
