"""An engine and a socket over scripted links: what an endpoint stands on in the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quictunnel.transport.engine import CloseCause, Closed, EngineCounters
from tests.model.quic import HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, End, QuicLink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from quictunnel.transport.engine import Address, Event, Received, Transmit


class ScriptedEngine:
    """An engine whose connections a scheduler moves (a ``transport.engine.Engine``)."""

    name = "scripted"
    version = "1"

    def __init__(self, network: Any, *, send_buffer: int, peer_streams: int) -> None:
        self.network = network
        self.send_buffer = send_buffer
        self.peer_streams = peer_streams
        self.refused_streams = 0
        """Streams that could not be opened because of the peer's limit."""
        self.connections: list[End] = []
        self.counters = EngineCounters()
        self.is_dead = False
        self._is_awake = False
        self._events: list[tuple[End, Event]] = []
        self.on_readable: Callable[[], None] | None = None

    def now(self) -> float:
        return self.network.loop.time()

    def acks_at_once(self) -> bool:
        """Return True if the sender of a stream's end hears of its arrival before it does anything else."""
        return self.network.chance.random() < 0.5

    def tell(self, connection: End, event: Event) -> None:
        """Tell the endpoint at its next turn."""
        if self.is_dead:
            return
        note = self.network.note
        if note is not None:
            side = "client" if connection.is_client else "edge"
            note(f"{side} end of link {connection.link.number}: {str(event)[:120]}")
        self._events.append((connection, event))
        if not self._is_awake:
            self._is_awake = True
            self.network.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_awake = False
        if self.on_readable is not None:
            self.on_readable()

    # From the endpoint (transport.engine.Engine).

    def connect(self, address: Address, server_name: str, now: float) -> End:
        link = QuicLink(self.network, self, address)
        self.network.links.append(link)
        self.connections.append(link.client)
        return link.client

    def receive(self, batch: Sequence[Received], now: float) -> None: ...

    def timeout(self) -> float | None:
        times = [self._deadline(connection) for connection in self.connections if connection.closed is None]
        return min(times) if times else None

    def expire(self, now: float) -> None:
        for connection in self.connections:
            if connection.closed is None and self._deadline(connection) <= now:
                connection.die(CloseCause.TIMEOUT if connection.is_connected else CloseCause.HANDSHAKE)

    @staticmethod
    def _deadline(connection: End) -> float:
        if connection.is_connected:
            return connection.last_heard + IDLE_TIMEOUT
        return connection.began + HANDSHAKE_TIMEOUT

    def poll(self) -> Iterable[tuple[Any, Event]]:
        events, self._events = self._events, []
        return events

    def transmit(self, now: float) -> Iterable[Transmit]:
        return ()

    def has_connections(self) -> bool:
        return any(connection.closed is None for connection in self.connections)


class ScriptedSocket:
    """Stands where an endpoint wants a socket, and wakes the endpoint when its engine has events."""

    largest_datagram = 0

    def __init__(self, address: Address) -> None:
        self.local_address = address
        self._engine: ScriptedEngine | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Any) -> None:
        engine = on_readable.__self__.engine
        assert isinstance(engine, ScriptedEngine)
        self._engine = engine
        engine.on_readable = on_readable

    def detach(self) -> None:
        if self._engine is not None:
            self._engine.on_readable = None
            self._engine = None

    def receive(self) -> list[Received]:
        return []

    def send(self, transmits: Iterable[Transmit]) -> None:
        for _ in transmits:
            raise AssertionError("a scripted engine has no datagrams")

    def close(self) -> None:
        """With the socket the engine is gone; its connections are not told and tell nobody."""
        if self._engine is not None:
            self._engine.is_dead = True
            for connection in self._engine.connections:
                connection.closed = connection.closed or Closed(CloseCause.LOCAL, 0, "")
            self._engine = None
