"""A session of each side over two real endpoints, and consumers of their streams that need no TCP."""

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import Closed, Connection, EngineSettings, Limits
from quictunnel.transport.engines import create_engine
from quictunnel.transport.link import Link
from quictunnel.transport.session import Session
from quictunnel.transport.stream import Stream
from quictunnel.transport.udp import DatagramSocket
from quictunnel.wire.codes import ALPN, PROTOCOL_VERSION, SessionCode, StreamCode
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import AnyMessage, Hello, Welcome
from tests.simnet.link import Conditions
from tests.simnet.socket import Network

CHUNK = 64 * 1024

WAN = Conditions.wan(mbit=100, rtt=0.05)
"""A wide-area network; tests use copies of it."""


class Pump:
    """Stands at one end of a stream: sends a payload as room allows, takes in what comes, says when both are done.

    A pump with ``reading=False`` takes bytes and never consumes them, like a TCP peer that never reads.
    """

    def __init__(
        self, stream: Stream, payload: bytes, *, reading: bool = True, note: Callable[[], None] | None = None
    ):
        self.stream = stream
        self.payload = memoryview(payload)
        self.sent = 0
        self.received = 0
        self.hash = hashlib.sha256()
        self.lost: StreamCode | None = None
        self.ended = False
        self.reading = reading
        self.note = note
        self.said = asyncio.Event()
        """Set after everything is written."""
        self.done = asyncio.Event()
        stream.attach(self)
        self.push()

    def read_on(self) -> None:
        """Consume what came while it was not reading, and whatever comes from now on."""
        self.reading = True
        window = self.stream.receive_window
        if not self.stream.is_over:
            self.stream.consume(window.received - window.consumed)
            if self.ended:
                self.stream.consume_end()

    def push(self) -> None:
        while (room := self.stream.room) and self.sent < len(self.payload):
            part = bytes(self.payload[self.sent : self.sent + min(room, CHUNK)])
            self.sent += len(part)
            self.stream.write(part)
        if self.sent == len(self.payload):
            self.stream.finish()
            self.said.set()
            self.sent += 1

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        self.received += size
        for chunk in chunks:
            self.hash.update(chunk)
        if self.note is not None:
            self.note()
        if self.reading:
            self.stream.consume(size)

    def stream_end(self) -> None:
        self.ended = True
        if self.reading:
            self.stream.consume_end()
        self.done.set()

    def stream_room(self) -> None:
        self.push()

    def stream_lost(self, code: StreamCode, unconsumed: object) -> None:
        self.lost = code
        self.done.set()


class Half:
    """Session of one side, and the events that it reports (SessionHandler)."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.session: Session
        self.greeted = asyncio.Event()
        self.keeps = False
        """True if the session survives the loss of its link."""
        self.is_away = asyncio.Event()
        self.resumed = asyncio.Event()
        self.down: Closed | None = None
        self.is_down = asyncio.Event()
        self.streams: list[Stream] = []
        self.on_stream: Callable[[Stream], None] = self.streams.append
        self.messages: list[AnyMessage] = []

    def session_up(self) -> None:
        if self.side is Side.CLIENT:
            self.session.send(Hello(PROTOCOL_VERSION, "token", INITIAL_WINDOW, "test", b""))

    def session_resumed(self) -> None:
        self.resumed.set()

    def session_away(self, closed: Closed) -> bool:
        if self.keeps:
            self.is_away.set()
        return self.keeps

    def session_message(self, message: AnyMessage) -> None:
        if isinstance(message, Hello):
            self.session.link.connection.admit()
            self.session.peer_window = message.window
            self.session.version = PROTOCOL_VERSION
            self.session.send(Welcome(PROTOCOL_VERSION, INITIAL_WINDOW, 10, "test", b"", False, 0, 0, 0))
            self.greeted.set()
        elif isinstance(message, Welcome):
            self.session.peer_window = message.window
            self.session.version = message.version
            self.greeted.set()
        else:
            self.messages.append(message)

    def session_stream(self, stream: Stream) -> None:
        self.on_stream(stream)

    def session_streams_available(self) -> None: ...

    def session_down(self, closed: Closed) -> None:
        self.down = closed
        self.is_down.set()


class Redial(Half):
    """Greeting of one side on a new link, with which the session of ``half`` goes on."""

    def __init__(self, half: Half, schedule_transmit: Callable[[], None]) -> None:
        super().__init__(half.side)
        self.half = half
        half.resumed.clear()
        self.session = Session(half.side, self, schedule_transmit)

    def session_up(self) -> None:
        if self.side is Side.CLIENT:
            self.session.send(Hello(PROTOCOL_VERSION, "token", INITIAL_WINDOW, "test", b"secret"))

    def session_message(self, message: AnyMessage) -> None:
        session = self.half.session
        if self.side is Side.EDGE:
            self.session.link.connection.admit()
        session.resume(self.session.link, self.half)
        if self.side is Side.EDGE:
            session.send(Welcome(PROTOCOL_VERSION, INITIAL_WINDOW, 10, "test", b"secret", True, 120, 0, 0))
        session.send_resume_state()


class SessionPair:
    """A client's and an edge's session, connected and greeted, over any two datagram sockets."""

    def __init__(
        self,
        certificates: Path,
        client_socket: DatagramSocket,
        edge_socket: DatagramSocket,
        engines: tuple[str, str],
    ) -> None:
        """``engines``: the client's and the edge's."""
        self._engine = lambda: create_engine(
            EngineSettings(is_server=False, alpn=ALPN, authority=certificates / "ca.pem"), engines[0]
        )
        self._old_endpoints: list[Endpoint] = []
        self.client_half, self.edge_half = Half(Side.CLIENT), Half(Side.EDGE)
        limits = Limits(streams=1, stream_window=2 << 20, connection_window=4 << 20)
        settings = EngineSettings(
            is_server=True,
            alpn=ALPN,
            certificate=certificates / "leaf.pem",
            private_key=certificates / "leaf.key",
            trusted=limits,
        )
        self.edge_endpoint = Endpoint(create_engine(settings, engines[1]), edge_socket, on_connection=self.accept)
        self.client_endpoint = Endpoint(self._engine(), client_socket)
        self.client = self.client_half.session = Session(
            Side.CLIENT, self.client_half, self.client_endpoint.schedule_transmit
        )
        connection = self.client_endpoint.connect(self.edge_endpoint.local_address, "edge.test", self.client.link)
        self.client.link.attach(connection)

    def redial(self, socket: DatagramSocket) -> None:
        """Both sessions are to go on with another link, from another socket of the client's."""
        self._old_endpoints.append(self.client_endpoint)
        self.client_endpoint = Endpoint(self._engine(), socket)
        redial = Redial(self.client_half, self.client_endpoint.schedule_transmit)
        link = redial.session.link
        link.attach(self.client_endpoint.connect(self.edge_endpoint.local_address, "edge.test", link))

    def accept(self, connection: Connection) -> Link:
        if self.edge_half.keeps and hasattr(self.edge_half, "session"):
            redial = Redial(self.edge_half, self.edge_endpoint.schedule_transmit)
            redial.session.link.attach(connection)
            return redial.session.link
        self.edge_half.session = Session(Side.EDGE, self.edge_half, self.edge_endpoint.schedule_transmit)
        self.edge_half.session.link.attach(connection)
        return self.edge_half.session.link

    @property
    def edge(self) -> Session:
        return self.edge_half.session

    async def greet(self) -> None:
        await self.client_half.greeted.wait()
        await self.edge_half.greeted.wait()

    def open(self, lease: int = 1) -> Stream:
        stream = self.edge.open(lease=lease, tls=False, host="192.0.2.1", port=1)
        assert stream is not None
        return stream

    def open_or_none(self, lease: int = 1) -> Stream | None:
        return self.edge.open(lease=lease, tls=False, host="192.0.2.1", port=1)

    async def settled(self) -> None:
        """Until no stream is left on either side, in sessions and engines."""
        while True:
            left = [
                self.client.stream_count,
                self.edge.stream_count,
                self.client.stats().streams_open - 1,  # the control stream stays
                self.edge.stats().streams_open - 1,
            ]
            if not any(left):
                return
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End both, and see that nothing is left."""
        self.client_half.keeps = self.edge_half.keeps = False
        for endpoint in self._old_endpoints:
            await endpoint.close(0.5)
        if not self.client.link.is_down:
            self.client.close(SessionCode.DONE)
            await self.client_half.is_down.wait()
        await self.client_endpoint.close(0.5)
        await self.edge_endpoint.close(0.5)
        assert self.client_endpoint.faults == self.edge_endpoint.faults == 0
        assert not self.client.stream_count
        assert not self.edge.stream_count
        assert self.client.window_pool.used == self.edge.window_pool.used == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


def payloads(seed: int, count: int, size: int) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(size) for _ in range(count)]


StartPair = Callable[..., SessionPair]


@pytest.fixture
async def start_pair(network: Network, certificates: Path, engines: tuple[str, str]):
    """``start_pair(both=Conditions...)``: a pair on the simulated network; closed and checked at the end."""
    pairs: list[SessionPair] = []

    def start(**conditions) -> SessionPair:
        edge = network.socket(("10.0.0.1", 4433 + len(pairs)))
        client = network.socket(("10.0.0.2", 5000 + len(pairs)), **conditions)
        pairs.append(SessionPair(certificates, client, edge, engines))
        return pairs[-1]

    yield start
    for pair in pairs:
        async with asyncio.timeout(60):
            await pair.close()
