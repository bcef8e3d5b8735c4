"""An endpoint over a scripted engine and simulated sockets, for its tests."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import (
    Address,
    CloseCause,
    Connected,
    Event,
    Received,
    Stats,
    Transmit,
)
from tests.simnet.socket import Network

HERE, THERE, ELSEWHERE = ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3)


class ScriptedConnection:
    def __init__(self, address: Address, *, is_client: bool) -> None:
        self.address = address
        self.is_client = is_client
        self.closed_with: list[int] = []
        self.migrations = 0

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with.append(code)

    def migrate(self) -> None:
        self.migrations += 1

    def stats(self) -> Stats:
        return Stats(0.05, 0, 0, 0, 100, 200, 3, 4, 1, 0, 0, 0.0)


class ScriptedEngine:
    """Events, datagrams and the deadline are what the test put there; what it was told is kept."""

    name, version = "scripted", "0"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.events: list[tuple[ScriptedConnection, Event]] = []
        self.outbox: list[Transmit] = []
        self.deadline: float | None = None
        self.alive = False
        self.batches: list[Sequence[Received]] = []
        self.expired_at: list[float] = []
        self.transmitted_at: list[float] = []
        self.fault: Exception | None = None
        self.on_expire: Callable[[], None] = lambda: None

    def connect(self, address: Address, server_name: str, now: float) -> ScriptedConnection:
        assert now == self.loop.time()
        return ScriptedConnection(address, is_client=True)

    def receive(self, batch: Sequence[Received], now: float) -> None:
        assert now == self.loop.time()
        self.batches.append(batch)
        if self.fault is not None:
            raise self.fault

    def expire(self, now: float) -> None:
        assert self.deadline is not None
        assert now >= self.deadline
        self.deadline = None
        self.expired_at.append(now)
        self.on_expire()

    def timeout(self) -> float | None:
        return self.deadline

    def poll(self) -> Iterable[tuple[ScriptedConnection, Event]]:
        events, self.events = self.events, []
        return events

    def transmit(self, now: float) -> Sequence[Transmit]:
        self.transmitted_at.append(now)
        outbox, self.outbox = self.outbox, []
        return outbox

    def has_connections(self) -> bool:
        return self.alive


class Sink:
    """Writes down what it is told; raises when told something in ``faults``."""

    def __init__(self, *faults: str) -> None:
        self.told: list[tuple] = []
        self.faults = faults

    def _note(self, *what: object) -> None:
        self.told.append(what)
        if what[0] in self.faults:
            raise RuntimeError(f"no good at {what[0]}")

    def connected(self) -> None:
        self._note("connected")

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        self._note("data", stream, chunks, end)

    def reset(self, stream: int, code: int) -> None:
        self._note("reset", stream, code)

    def stopped(self, stream: int, code: int) -> None:
        self._note("stopped", stream, code)

    def writable(self, stream: int) -> None:
        self._note("writable", stream)

    def streams_available(self) -> None:
        self._note("streams_available")

    def batch_ended(self) -> None:
        self._note("batch_ended")

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        self._note("closed", cause, code, reason)


class Bed:
    """An endpoint at HERE over the scripted engine, and a bare socket at THERE."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.loop = network.loop
        self.engine = ScriptedEngine(network.loop)
        self.peer = network.socket(THERE)
        self.sinks: list[Sink] = []
        self.faults: list[str] = []
        self.endpoint = Endpoint(self.engine, network.socket(HERE), on_connection=self.accept)

    def accept(self, connection: ScriptedConnection) -> Sink:
        sink = Sink(*self.faults)
        self.sinks.append(sink)
        return sink

    def accepted(self, *faults: str) -> tuple[ScriptedConnection, Sink]:
        """A connection that a peer began, as the endpoint learns of it."""
        self.faults = list(faults)
        connection = ScriptedConnection(THERE, is_client=False)
        self.engine.events.append((connection, Connected()))
        self.nudge()
        return connection, self.sinks[-1]

    def nudge(self) -> None:
        """Run a loop turn's worth of the endpoint now."""
        self.endpoint._dispatch()

    async def turn(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def datagrams(count: int, size: int = 100) -> Transmit:
    return Transmit([bytes(size) for _ in range(count)], size, HERE)
