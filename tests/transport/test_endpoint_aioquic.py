"""Two endpoints with the reference engine between them, on the simulated network and on real sockets."""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import pytest

from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import CloseCause, Connection, EngineSettings
from quictunnel.transport.engines.aioquic.engine import AioquicEngine
from quictunnel.transport.udp import DatagramSocket, UdpSocket
from quictunnel.wire.codes import ALPN, SessionCode
from tests.simnet.link import Conditions
from tests.simnet.socket import Network

STREAMS = 50
SIZE = 100 * 1024


class Streams:
    """Writes what it is given to each stream, as the engine takes it; base of both sides here."""

    def __init__(self) -> None:
        self.connection: Connection
        self.schedule_transmit: Callable[[], None]
        self.is_connected = asyncio.Event()
        self.is_closed = asyncio.Event()
        self.cause: CloseCause | None = None
        self.code: int | None = None
        self.pending: dict[int, deque[bytes | memoryview]] = {}
        self.ended: set[int] = set()

    def put(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        self.pending.setdefault(stream, deque()).extend(chunks)
        if end:
            self.ended.add(stream)
        self.push(stream)

    def push(self, stream: int) -> None:
        queue = self.pending[stream]
        while queue:
            chunk = memoryview(queue[0])
            taken = self.connection.write(stream, chunk)
            if taken < len(chunk):
                queue[0] = chunk[taken:]
                break
            queue.popleft()
        if not queue and stream in self.ended:
            self.ended.remove(stream)
            del self.pending[stream]
            self.connection.finish(stream)
        self.schedule_transmit()

    def connected(self) -> None:
        self.is_connected.set()

    def writable(self, stream: int) -> None:
        if stream in self.pending:
            self.push(stream)

    def reset(self, stream: int, code: int) -> None:
        raise AssertionError("nobody resets anything here")

    stopped = reset

    def streams_available(self) -> None: ...
    def batch_ended(self) -> None: ...

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        self.cause, self.code = cause, code
        self.is_closed.set()


class Echo(Streams):
    def connected(self) -> None:
        super().connected()
        self.connection.admit()
        self.schedule_transmit()

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        self.put(stream, chunks, end=end)


class Asking(Streams):
    """Opens streams, sends one payload on each and half-closes it; checks what comes back."""

    def __init__(self, payloads: list[bytes]) -> None:
        super().__init__()
        self.waiting = deque(payloads)
        self.expected: dict[int, bytes] = {}
        self.hashes: dict[int, hashlib._Hash] = {}
        self.is_done = asyncio.Event()

    def ask(self) -> None:
        while self.waiting:
            stream = self.connection.open()
            if stream is None:
                return
            payload = self.waiting.popleft()
            self.expected[stream] = hashlib.sha256(payload).digest()
            self.hashes[stream] = hashlib.sha256()
            self.put(stream, [payload], end=True)

    def connected(self) -> None:
        super().connected()
        self.ask()

    streams_available = ask

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        for chunk in chunks:
            self.hashes[stream].update(chunk)
        if end:
            assert self.hashes.pop(stream).digest() == self.expected.pop(stream)
            if not self.expected and not self.waiting:
                self.is_done.set()


class Pair:
    """A client and an edge on two sockets."""

    def __init__(self, certificates: Path, client_socket: DatagramSocket, edge_socket: DatagramSocket) -> None:
        self.echoes: list[Echo] = []
        self.edge = Endpoint(
            AioquicEngine(
                EngineSettings(
                    is_server=True,
                    alpn=ALPN,
                    certificate=certificates / "leaf.pem",
                    private_key=certificates / "leaf.key",
                )
            ),
            edge_socket,
            on_connection=self.accept,
        )
        self.client = Endpoint(
            AioquicEngine(EngineSettings(is_server=False, alpn=ALPN, authority=certificates / "ca.pem")),
            client_socket,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.abort()
        self.edge.abort()

    def accept(self, connection: Connection) -> Echo:
        echo = Echo()
        echo.connection, echo.schedule_transmit = connection, self.edge.schedule_transmit
        self.echoes.append(echo)
        return echo

    def ask(self, payloads: list[bytes]) -> Asking:
        asking = Asking(payloads)
        asking.schedule_transmit = self.client.schedule_transmit
        asking.connection = self.client.connect(self.edge.local_address, "edge.test", asking)
        return asking

    async def echo_everything(self, patience: float) -> None:
        """Connect, open 50 streams, have 100 KiB echoed on each, half-close, close; nothing is left."""
        chance = random.Random(5)
        asking = self.ask([chance.randbytes(SIZE) for _ in range(STREAMS)])
        async with asyncio.timeout(patience):
            await asking.is_done.wait()
            (echo,) = self.echoes
            assert (asking.pending, echo.pending) == ({}, {})
            for _ in range(100):  # the last acknowledgements are under way, and nobody is told of them
                if not asking.connection.stats().streams_open and not echo.connection.stats().streams_open:
                    break
                await asyncio.sleep(0.05)
            assert (asking.connection.stats().streams_open, echo.connection.stats().streams_open) == (0, 0)
            await self.client.close(grace=2)
            await echo.is_closed.wait()
            await self.edge.close(grace=2)
        assert (asking.cause, asking.code) == (CloseCause.LOCAL, SessionCode.DONE)
        assert (echo.cause, echo.code) == (CloseCause.PEER, SessionCode.DONE)
        assert self.client.faults == self.edge.faults == 0
        assert not self.edge.engine.has_connections()


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.usefixtures("nothing_left")
async def test_fifty_echoes_over_a_simulated_wan(network: Network, certificates: Path, loss: float) -> None:
    wan = Conditions.wan(mbit=100, rtt=0.04, loss=loss)
    edge = network.socket(("10.0.0.1", 4433))
    with Pair(certificates, network.socket(("10.0.0.2", 5000), both=wan), edge) as pair:
        await pair.echo_everything(patience=60)


@pytest.mark.parametrize("offload", [True, False], ids=["joined", "singly"])
@pytest.mark.parametrize("here", [("127.0.0.1", 0), ("::1", 0)], ids=["IPv4", "IPv6"])
@pytest.mark.usefixtures("nothing_left")
async def test_fifty_echoes_over_loopback(certificates: Path, here: tuple[str, int], *, offload: bool) -> None:
    client, edge = (UdpSocket.bind(here, gro=offload, gso=offload) for _ in range(2))
    with Pair(certificates, client, edge) as pair:
        await pair.echo_everything(patience=30)


def test_fifty_echoes_on_uvloop(certificates: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        here = ("127.0.0.1", 0)
        with Pair(certificates, UdpSocket.bind(here), UdpSocket.bind(here)) as pair:
            await pair.echo_everything(patience=30)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.usefixtures("nothing_left")
async def test_a_transfer_goes_on_from_another_socket(network: Network, certificates: Path) -> None:
    wan = Conditions.wan(mbit=20, rtt=0.04)
    edge = network.socket(("10.0.0.1", 4433))
    with Pair(certificates, network.socket(("10.0.0.2", 5000), both=wan), edge) as pair:
        asking = pair.ask([bytes(1024 * 1024)])
        async with asyncio.timeout(60):
            await asyncio.sleep(0.3)
            assert not asking.is_done.is_set()
            pair.client.rebind(network.socket(("10.0.0.3", 6000), both=wan))
            await asking.is_done.wait()
            assert pair.echoes[0].connection.address == ("10.0.0.3", 6000)
            await pair.client.close(grace=2)
            await pair.edge.close(grace=2)


async def test_silent_address_is_reported_at_the_deadline(network: Network, certificates: Path) -> None:
    client, edge = network.socket(("10.0.0.2", 5000)), network.socket(("10.0.0.1", 4433))
    with Pair(certificates, client, edge) as pair:
        asking = Asking([])
        asking.schedule_transmit = pair.client.schedule_transmit
        asking.connection = pair.client.connect(("10.0.0.9", 9), "edge.test", asking)
        async with asyncio.timeout(10):
            await asking.is_closed.wait()
        assert asking.cause is CloseCause.HANDSHAKE
