"""Names that a predecessor held, whose clients are on their way: visitors already come for them and wait."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from edge_server.leases import WAIT, Lease

if TYPE_CHECKING:
    import socket

    from edge_server.admission import Admission
    from edge_server.ports import Ports
    from edge_server.registry import Registry
    from edge_server.succession import Name
    from edge_server.visits import Ledger

logger = logging.getLogger(__name__)


class Expected:
    """See the module."""

    def __init__(
        self, registry: Registry, ports: Ports, admission: Admission, *, ledger: Ledger, hold: float
    ) -> None:
        """``hold``: as :attr:`hold`."""
        self._registry = registry
        self._ports = ports
        self._admission = admission
        self._ledger = ledger
        self.hold = hold
        """Seconds for which a name is kept for its owner; visitors wait for at least :data:`WAIT` of them."""
        self._timers: dict[Lease, asyncio.TimerHandle] = {}

    async def add(self, name: Name, sock: socket.socket | None) -> None:
        """Keep a name, and its TCP port, for whoever shows its ticket."""
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
        self._registry.add(lease)
        self._timers[lease] = asyncio.get_running_loop().call_later(max(self.hold, WAIT), self._forget, lease)
        if sock is not None:
            lease.hold(sock)
            await lease.listen()

    def claim(self, lease: Lease) -> None:
        """Its owner is here."""
        self._timers.pop(lease).cancel()

    def give_up(self, lease: Lease) -> None:
        """Its owner is not waited for any more."""
        self._forget(lease)

    def give_up_all(self) -> None:
        """Nobody is waited for any more."""
        for lease in tuple(self._timers):
            self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._timers.pop(lease).cancel()
        lease.close()
        self._registry.remove(lease)
        if lease.tcp_port:
            self._ports.release(lease.tcp_port, lease.owner)
        logger.info("the client that held %s did not come", lease.name)
