"""The network of an episode, and how the client's code is made to use it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import quictunnel.connection.dialer
import quictunnel.connection.edge_connection
import quictunnel.connection.manager
from quictunnel.errors import EdgeUnavailableError
from quictunnel.transport import tcp
from tests.model.program import WatchedConnection

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.engine import Address, EngineSettings
    from tests.model.stepped_loop import SteppedLoop
    from tests.model.system import ModelSystem


class NoWatch:
    """Stands for the watch over this machine's network: the rules say when it changes."""

    def __init__(self, on_change: Any) -> None: ...
    def watch_route_to(self, address: Address) -> None: ...
    def close(self) -> None: ...


class Network:
    """A network, with engines and sockets for both sides."""

    edge_name = "edge.test:4433"
    authority: Path | None = None

    def __init__(self, loop: SteppedLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.note: Callable[[str], None] | None = None
        """Told of every event, where somebody wants to read a story."""
        self.reach: Callable[[str], None] = lambda _: None
        """Told of interesting states."""

    # For edges and programs.

    def edge_engine(self, number: int) -> Any:
        raise NotImplementedError

    def edge_socket(self, number: int) -> Any:
        raise NotImplementedError

    def client_engine(self, settings: EngineSettings) -> Any:
        raise NotImplementedError

    def sockets(self) -> Any:
        """Return what stands for ``UdpSocket`` in the client's code."""
        raise NotImplementedError

    def edge_address(self) -> Address:
        """Return where an edge takes new connections."""
        raise NotImplementedError

    def isolate(self, endpoint: Endpoint) -> None:
        """Let no datagram of this endpoint through, as when its process is killed."""
        raise NotImplementedError

    # For rules and invariants.

    def is_healthy(self, connection: Any) -> bool:
        """Return True if the connection's link carries, and its edge is there."""
        raise NotImplementedError

    def is_at_rest(self, connection: Any, client: Any) -> bool:
        """Return True if both sides are on one link, on which nothing is under way."""
        raise NotImplementedError

    def mend(self) -> None:
        """Make every link that can carry again do so."""
        raise NotImplementedError

    def carry(self, system: ModelSystem, seconds: float) -> None:
        """Everything arrives, local services accept, and time passes."""
        raise NotImplementedError

    def refused_streams(self, endpoint: Endpoint) -> int:
        """Return how many streams the peer's limit did not allow."""
        return 0

    def left(self) -> list[str]:
        """Return what is left when everybody has ended."""
        return []

    def close(self) -> None:
        """Lose what is under way."""

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Make the product's code use this network."""
        network = self

        async def resolve(config: Any) -> list[Address]:
            return [network.edge_address()]

        async def no_answer_error(config: Any, seconds: float) -> EdgeUnavailableError:
            return EdgeUnavailableError("No answer.")

        async def is_refused(address: Address) -> bool:
            return False

        with contextlib.ExitStack() as stack:

            def patch(target: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(target, name, value))

            patch(quictunnel.connection.edge_connection, "UdpSocket", self.sockets())
            patch(
                quictunnel.connection.edge_connection,
                "create_engine",
                lambda settings, name: network.client_engine(settings),
            )
            patch(quictunnel.connection.dialer, "resolve", resolve)
            patch(quictunnel.connection.manager, "resolve", resolve)
            patch(quictunnel.connection.dialer, "no_answer_error", no_answer_error)
            patch(quictunnel.connection.manager, "no_answer_error", no_answer_error)
            patch(quictunnel.connection.dialer, "wait_until_refused", is_refused)
            patch(quictunnel.connection.dialer, "EdgeConnection", WatchedConnection)
            patch(quictunnel.connection.manager, "NetworkMonitor", NoWatch)
            patch(tcp, "is_gone", lambda transport: transport.is_gone)
            patch(time, "monotonic", self.loop.time)
            yield
