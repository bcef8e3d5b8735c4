"""The network of scripted links: nothing arrives on them unless a rule says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quictunnel.transport.engine import CloseCause, Closed
from tests.model.invariants import check_step
from tests.model.network import Network
from tests.model.scripted_engine import ScriptedEngine, ScriptedSocket
from tests.model.tcp import BrokenError

if TYPE_CHECKING:
    import random

    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.engine import Address, EngineSettings
    from tests.model.quic import QuicLink
    from tests.model.stepped_loop import SteppedLoop
    from tests.model.system import ModelSystem

EDGE_ADDRESS: Final = ("10.0.0.1", 4433)
MAX_ROUNDS: Final = 2000
"""Rounds in which everything that was said has to have been answered."""


class Sockets:
    """Stands for ``UdpSocket`` in the client's code."""

    @staticmethod
    def bind(address: Address) -> ScriptedSocket:
        return ScriptedSocket(("10.0.1.1", 1))


class ScriptedNetwork(Network):
    """Engines and links that the rules move."""

    def __init__(self, loop: SteppedLoop, chance: random.Random) -> None:
        super().__init__(loop, chance)
        self.links: list[QuicLink] = []
        self.send_buffer = chance.choice([2_000, 20_000, 512 * 1024])
        self.peer_streams = chance.choice([3, 100, 100])
        self.serving: ScriptedEngine | None = None
        """The engine of the edge that takes new connections."""
        self._next_port = 1000

    # For edges and programs.

    def edge_engine(self, number: int) -> Any:
        self.serving = self._engine()
        return self.serving

    def edge_socket(self, number: int) -> Any:
        return ScriptedSocket(EDGE_ADDRESS)

    def isolate(self, endpoint: Endpoint) -> None:
        engine: Any = endpoint.engine
        assert isinstance(engine, ScriptedEngine)
        engine.is_dead = True
        if engine is self.serving:
            self.serving = None
        for connection in engine.connections:
            connection.closed = connection.closed or Closed(CloseCause.LOCAL, 0, "")

    def client_engine(self, settings: EngineSettings) -> Any:
        return self._engine()

    def sockets(self) -> Any:
        return Sockets

    def edge_address(self) -> Address:
        return EDGE_ADDRESS

    # For rules and invariants.

    def is_at_rest(self, connection: Any, client: Any) -> bool:
        link = connection._link.connection.link
        if link.is_paused or client.session.link.connection is not link.server:
            return False
        return not any(piece[0] != "pong" for end in link.ends for piece in end.pieces())

    def mend(self) -> None:
        for link in self.live_links():
            link.is_paused = False

    def refused_streams(self, endpoint: Endpoint) -> int:
        engine: Any = endpoint.engine
        refused: int = engine.refused_streams
        return refused

    def carry(self, system: ModelSystem, seconds: float) -> None:
        self.deliver_all(system)
        while system.dials:
            system.loop.call(system.accept, system.dials[0])
            self.deliver_all(system)
        for link in self.live_links():
            if not link.is_cut:
                for end in link.ends:
                    if ("pong", 0) in end.pieces():
                        system.loop.call(end.deliver, ("pong", 0))
        system.loop.advance(seconds)
        check_step(system)

    def deliver_all(self, system: ModelSystem) -> None:
        """Let everything arrive that can."""
        for _ in range(MAX_ROUNDS):
            has_moved = self._carry_once(system)
            check_step(system)
            if not has_moved:
                return
        raise BrokenError("no rest", f"{system.programs}")

    def _carry_once(self, system: ModelSystem) -> bool:
        has_moved = False
        for link in list(self.live_links()):
            if link.is_cut or link.is_paused:
                continue
            for end in link.ends:
                for piece in end.pieces():
                    if piece[0] != "pong" and piece in end.pieces():
                        system.loop.call(end.deliver, piece)
                        has_moved = True
        return has_moved

    # For links.

    def server_at(self, address: Address) -> ScriptedEngine | None:
        return self.serving

    def next_client_address(self) -> Address:
        self._next_port += 10
        return ("10.0.1.1", self._next_port)

    def is_healthy(self, connection: Any) -> bool:
        end = connection._link.connection
        return not end.link.is_cut and end.closed is None and end.peer is not None and end.peer.closed is None

    def live_links(self) -> list[QuicLink]:
        """Return links on which something can still happen; forget the others."""
        self.links = [link for link in self.links if not self._is_dead(link)]
        return self.links

    @staticmethod
    def _is_dead(link: QuicLink) -> bool:
        if link.client.closed is None:
            return False
        server = link.server
        return server is None or not server.is_connected or server.closed is not None

    def _engine(self) -> ScriptedEngine:
        return ScriptedEngine(self, send_buffer=self.send_buffer, peer_streams=self.peer_streams)
