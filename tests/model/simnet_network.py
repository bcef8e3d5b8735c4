"""The real engines over the simulated network of ``tests.simnet``."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from edge_server.wiring import CLIENT_LIMITS
from quictunnel.transport.engine import EngineSettings
from quictunnel.transport.engines import create_engine
from quictunnel.wire.codes import ALPN
from tests.model.invariants import check_step
from tests.model.network import Network
from tests.simnet.link import Conditions
from tests.simnet.socket import Network as Simnet

if TYPE_CHECKING:
    import random

    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.engine import Address
    from tests.model.stepped_loop import SteppedLoop
    from tests.model.system import ModelSystem

RESET_KEY = bytes(range(32))


@functools.cache
def certificates() -> Path:
    """Return a directory with an authority and a certificate of the edge."""
    directory = Path(tempfile.mkdtemp(prefix="model-"))
    atexit.register(shutil.rmtree, directory)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaf = authority.issue_cert("edge.test")
    leaf.cert_chain_pems[0].write_to_path(directory / "leaf.pem")
    leaf.private_key_pem.write_to_path(directory / "leaf.key")
    return directory


class SimSockets:
    """Stands for ``UdpSocket`` in the client's code."""

    def __init__(self, network: SimnetNetwork) -> None:
        self._network = network

    def bind(self, address: Address) -> Any:
        return self._network.client_socket()


class SimnetNetwork(Network):
    """Real engines, one for clients and one for edges, over lossy lines."""

    def __init__(self, loop: SteppedLoop, chance: random.Random, engines: tuple[str, str]) -> None:
        super().__init__(loop, chance)
        self.engines = engines
        self.authority = certificates() / "ca.pem"
        self.simnet = Simnet(loop, chance.randrange(1 << 30))
        self.paused: list[Any] = []
        self._edges: list[Any] = []
        self._clients = 0
        self._conditions = Conditions.wan(mbit=chance.choice([5, 100]), rtt=chance.choice([0.01, 0.05]))

    # For edges and programs.

    def edge_engine(self, number: int) -> Any:
        settings = EngineSettings(
            is_server=True,
            alpn=ALPN,
            trusted=CLIENT_LIMITS,
            reset_key=RESET_KEY,
            certificate=certificates() / "leaf.pem",
            private_key=certificates() / "leaf.key",
        )
        return create_engine(settings, self.engines[1])

    def edge_socket(self, number: int) -> Any:
        taken = {socket.local_address for socket in self.simnet.sockets}
        port = next(port for port in range(4433, 4500) if ("10.0.0.1", port) not in taken)
        self._edges.append(self.simnet.socket(("10.0.0.1", port)))
        return self._edges[-1]

    def client_engine(self, settings: EngineSettings) -> Any:
        return create_engine(settings, self.engines[0])

    def client_socket(self) -> Any:
        socket = self.simnet.socket(self.fresh_address(), both=self._conditions.copy())
        socket.largest_datagram = 0
        return socket

    def sockets(self) -> Any:
        return SimSockets(self)

    def edge_address(self) -> Address:
        address: Address = self._edges[-1].local_address
        return address

    def isolate(self, endpoint: Endpoint) -> None:
        socket: Any = endpoint.socket
        socket.up.conditions.black_hole = socket.down.conditions.black_hole = True

    # For rules.

    def fresh_address(self) -> Address:
        """Return an address that nobody has had."""
        self._clients += 1
        return (f"10.0.{2 + self._clients // 200}.{1 + self._clients % 200}", 6000)

    def client_sockets(self) -> list[Any]:
        """Return the sockets of calls that are there."""
        return [socket for socket in self.simnet.sockets if socket not in self._edges]

    def is_healthy(self, connection: Any) -> bool:
        socket = connection._endpoint.socket
        return not connection._link.is_down and not socket.up.conditions.black_hole

    def is_at_rest(self, connection: Any, client: Any) -> bool:
        """Return True if both sides are on one link, on which nothing is under way."""
        mine, theirs = connection._link.connection, client.session.link.connection
        is_one = tuple(theirs.address[:2]) == tuple(connection._endpoint.socket.local_address[:2])
        return is_one and not mine.stats().bytes_in_flight and not theirs.stats().bytes_in_flight

    def mend(self) -> None:
        for socket in self.client_sockets():
            conditions = socket.up.conditions, socket.down.conditions
            if socket in self.paused:
                for each in conditions:
                    each.black_hole = False
            for each in conditions:
                each.loss = each.jitter = each.duplicate = 0.0
                each.rate = None

    def carry(self, system: ModelSystem, seconds: float) -> None:
        while seconds > 0:
            while system.dials:
                system.loop.call(system.accept, system.dials[0])
            system.loop.advance(min(seconds, 0.1))
            check_step(system)
            seconds -= 0.1

    def left(self) -> list[str]:
        return [f"socket {socket.local_address}" for socket in self.simnet.sockets]

    def close(self) -> None:
        self.simnet.close()
