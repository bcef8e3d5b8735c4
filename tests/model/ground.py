"""What the world stands on: the network of scripted links, and how the client's code is made to use it."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import quictunnel.call
import quictunnel.dialling
import quictunnel.uplink
from quictunnel.errors import EdgeUnavailableError
from quictunnel.transport import tcp
from quictunnel.transport.engine import Closed, CloseCause
from tests.model.program import WatchedCall
from tests.model.quic import QuicLink, ScriptedEngine, ScriptedSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.engine import Address
    from tests.model.clock import SteppedLoop

EDGE_ADDRESS = ("10.0.0.1", 4433)


class NoWatch:
    """Stands for the watch over this machine's network: the rules say when it changes."""

    def __init__(self, on_change: Any) -> None: ...
    def towards(self, address: Address) -> None: ...
    def close(self) -> None: ...


class ScriptedGround:
    """Engines and links that the rules move."""

    edge_name = "edge.test:4433"

    def __init__(self, loop: SteppedLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.links: list[QuicLink] = []
        self.send_buffer = chance.choice([2_000, 20_000, 512 * 1024])
        self.peer_streams = chance.choice([3, 100, 100])
        self.serving: ScriptedEngine | None = None
        """The engine of the edge that takes new connections."""
        self._next_port = 1000
        self.note: Callable[[str], None] | None = None
        """Told of every event, where somebody wants to read a story."""

    # For edges and programs.

    def edge_engine(self, number: int) -> Any:
        self.serving = self._engine()
        return self.serving

    def edge_socket(self, number: int) -> Any:
        return ScriptedSocket(EDGE_ADDRESS)

    def silence(self, endpoint: Endpoint) -> None:
        """A process dies: nothing leaves it any more, and nobody is told."""
        engine: Any = endpoint.engine
        assert isinstance(engine, ScriptedEngine)
        engine.is_dead = True
        if engine is self.serving:
            self.serving = None
        for connection in engine.connections:
            connection.closed = connection.closed or Closed(CloseCause.LOCAL, 0, "")

    # For links.

    def server_at(self, address: Address) -> ScriptedEngine | None:
        return self.serving

    def next_client_address(self) -> Address:
        self._next_port += 10
        return ("10.0.1.1", self._next_port)

    @staticmethod
    def is_well(call: Any) -> bool:
        """Return True if the call's link carries, and its edge is there."""
        end = call._link.connection
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
        if server is None or not server.is_connected:
            return True
        if server.closed is None:
            return False
        return True

    def _engine(self) -> ScriptedEngine:
        return ScriptedEngine(self, send_buffer=self.send_buffer, peer_streams=self.peer_streams)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Make the product's code stand on this ground."""
        ground = self

        class Sockets:
            @staticmethod
            def bind(address: Address) -> ScriptedSocket:
                return ScriptedSocket(("10.0.1.1", 1))

        async def resolve(config: Any) -> list[Address]:
            return [EDGE_ADDRESS]

        async def silence(config: Any, seconds: float) -> EdgeUnavailableError:
            return EdgeUnavailableError("No answer.")

        with contextlib.ExitStack() as stack:
            def patch(target: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(target, name, value))

            patch(quictunnel.call, "UdpSocket", Sockets)
            patch(quictunnel.call, "create_engine", lambda settings, name: ground._engine())
            patch(quictunnel.dialling, "resolve", resolve)
            patch(quictunnel.uplink, "resolve", resolve)
            patch(quictunnel.dialling, "silence", silence)
            patch(quictunnel.uplink, "silence", silence)
            patch(quictunnel.dialling, "Call", WatchedCall)
            patch(quictunnel.uplink, "NetworkWatch", NoWatch)
            patch(tcp, "is_gone", lambda transport: transport.is_gone)
            patch(time, "monotonic", self.loop.time)
            yield
