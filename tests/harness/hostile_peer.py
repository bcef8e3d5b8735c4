"""Peers that break the protocol on purpose: the real endpoint and engine with a script in place of a session.

What QUIC itself forbids is the engine's business and tested there; these speak flawless QUIC, and whatever a
test likes inside its streams. They speak it with aioquic, which can be talked past its own brakes; the engine that
has to bear it is the one across.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Self, TypeVar

import trustme

from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import UNADMITTED, CloseCause, EngineSettings, Limits
from quictunnel.transport.engines import create_engine
from quictunnel.transport.link import CONTROL_STREAM
from quictunnel.transport.udp import UdpSocket
from quictunnel.wire.codes import ALPN, PROTOCOL_VERSION, SessionCode
from quictunnel.wire.framing import FrameReader, frame
from quictunnel.wire.messages import AnyMessage, Bind, Bound, Hello, Unbind, Unbound, Welcome
from quictunnel.wire.preface import Preface, encode_preface
from tests.harness import engine_pairing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quictunnel.transport.engine import Connection

T = TypeVar("T")

MESSAGE_TIMEOUT = 15.0
WINDOW = 64 * 1024
PROTOCOL = (CloseCause.PEER, SessionCode.PROTOCOL)
"""The end of a session after a protocol error of this side."""
HUGE_FRAME = (1 << 31).to_bytes(4, "big")
"""The length of a frame of 2 GiB."""


class Peer:
    """End of a connection that records received messages and sends what the test asks for (ConnectionHandler)."""

    def __init__(self) -> None:
        self.connection: Connection
        self.schedule_transmit: Callable[[], None]
        self.is_up = asyncio.Event()
        self.messages: asyncio.Queue[AnyMessage] = asyncio.Queue()
        self.over: asyncio.Future[tuple[CloseCause, int]] = asyncio.get_running_loop().create_future()
        self.received: dict[int, bytearray] = {}
        self.resets: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.opened: asyncio.Queue[int] = asyncio.Queue()
        self._news = asyncio.Event()
        self._frames = FrameReader()
        self._waiting: dict[int, deque[bytes | memoryview]] = {}

    # For tests.

    def write(self, stream: int, data: bytes) -> None:
        """Queue bytes of any number."""
        self._waiting.setdefault(stream, deque()).append(data)
        self.writable(stream)

    def say(self, *messages: AnyMessage) -> None:
        """Send well-formed messages, whether they are allowed or not."""
        self.write(CONTROL_STREAM, b"".join(map(frame, messages)))

    def finish(self, stream: int) -> None:
        """End a direction."""
        self.connection.finish(stream)
        self.schedule_transmit()

    def reset(self, stream: int, code: int) -> None:
        self.resets.put_nowait((stream, code))

    async def heard(self, kind: type[T]) -> T:
        """Return the next message of that kind, skipping others."""
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            while True:
                message = await self.messages.get()
                if isinstance(message, kind):
                    return message

    async def has_come(self, stream: int, data: bytes) -> None:
        """Wait until the received bytes of a stream end with ``data``."""
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            while not self.received.get(stream, b"").endswith(data):
                self._news.clear()
                await self._news.wait()

    async def end(self) -> tuple[CloseCause, int]:
        """Return the cause and the code with which the other side ended the connection."""
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            return await asyncio.shield(self.over)

    # From the endpoint.

    def connected(self) -> None:
        self.is_up.set()

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        if stream == CONTROL_STREAM:
            for message in self._frames.feed(b"".join(chunks)):
                self.hear(message)
            return
        if stream not in self.received:
            self.received[stream] = bytearray()
            self.opened.put_nowait(stream)
        self.received[stream] += b"".join(chunks)
        self._news.set()

    def hear(self, message: AnyMessage) -> None:
        """Record a received message."""
        self.messages.put_nowait(message)

    def stopped(self, stream: int, code: int) -> None: ...

    def writable(self, stream: int) -> None:
        queue = self._waiting.get(stream)
        while queue:
            taken = self.connection.write(stream, queue[0])
            if taken < len(queue[0]):
                queue[0] = memoryview(queue[0])[taken:]
                break
            queue.popleft()
        self.schedule_transmit()

    def streams_available(self) -> None: ...
    def batch_ended(self) -> None: ...

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        self.over.set_result((cause, code))


class HostileClient(Peer):
    """A client that may break the protocol, connected to a real edge during an ``async with`` block."""

    def __init__(self, config: ClientConfig) -> None:
        super().__init__()
        self.token = config.token.reveal()
        settings = EngineSettings(is_server=False, alpn=ALPN, authority=config.ca)
        self._endpoint = Endpoint(create_engine(settings, "aioquic"), UdpSocket.bind(("127.0.0.1", 0)))
        self.descriptor: int = self._endpoint.socket._sock.fileno()  # type: ignore[attr-defined]  # to write past it
        self.schedule_transmit = self._endpoint.schedule_transmit
        self.connection = self._endpoint.connect(config.address, config.address[0], self)

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            await self.is_up.wait()
        assert self.connection.open() == CONTROL_STREAM
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.close(grace=0.05)
        assert self._endpoint.faults == 0

    @property
    def good_hello(self) -> Hello:
        return Hello(PROTOCOL_VERSION, self.token, WINDOW, "hostile/1", b"")

    async def greet(self) -> None:
        """Send a valid Hello and wait for the Welcome."""
        self.say(self.good_hello)
        await self.heard(Welcome)

    async def lease(self, number: int = 1) -> Bound:
        """Bind a random name and a port."""
        self.say(Bind(number, unencrypted=True, h2=False, ticket=b""))
        return await self.heard(Bound)

    def open_beyond_limit(self) -> int:
        """Open a second stream, beyond the limit of the edge."""
        table = self.connection.quic.table  # type: ignore[attr-defined]  # the engine's own, past its brake
        table.peer_max_streams += 1
        stream = self.connection.open()
        assert stream is not None
        return stream


class ReturningClient(HostileClient):
    """A client that sends a resume secret."""

    def show(self, secret: bytes) -> None:
        """Send a Hello with the secret."""
        self.say(Hello(PROTOCOL_VERSION, self.token, WINDOW, "hostile/1", secret))

    async def come_back(self, secret: bytes) -> Welcome:
        """Send a Hello with the secret and wait for the Welcome."""
        self.show(secret)
        return await self.heard(Welcome)


class HostileEdge:
    """An edge that may break the protocol, for real clients, during an ``async with`` block.

    It greets each client and confirms each Bind as a correct edge does; the test does the rest.
    """

    def __init__(self, directory: Path, limits: Limits = UNADMITTED) -> None:
        """``limits``: limits of clients before their Hello is accepted."""
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(directory / "ca.pem")
        leaf.cert_chain_pems[0].write_to_path(directory / "leaf.pem")
        leaf.private_key_pem.write_to_path(directory / "leaf.key")
        settings = EngineSettings(
            is_server=True,
            alpn=ALPN,
            certificate=directory / "leaf.pem",
            private_key=directory / "leaf.key",
            unadmitted=limits,
        )
        self.sessions: asyncio.Queue[ServedClient] = asyncio.Queue()
        self.greetings: deque[Callable[[ServedClient, Hello], None]] = deque()
        """Functions that answer the Hellos of the next clients; later ones get a valid Welcome."""
        self._endpoint = Endpoint(
            create_engine(settings, "aioquic"), UdpSocket.bind(("127.0.0.1", 0)), on_connection=self._accept
        )
        host, port = self._endpoint.local_address[:2]
        self.client_config = ClientConfig(
            edge=f"{host}:{port}",
            token=Secret("any-token"),
            ca=directory / "ca.pem",
            engine=os.environ[engine_pairing.VARIABLE],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.close(grace=0.05)
        assert self._endpoint.faults == 0

    async def session(self) -> ServedClient:
        """Return the next client that has connected and bound a lease."""
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            served = await self.sessions.get()
            await served.is_bound.wait()
            return served

    def _accept(self, connection: Connection) -> ServedClient:
        served = ServedClient(self.greetings)
        served.connection, served.schedule_transmit = connection, self._endpoint.schedule_transmit
        self.sessions.put_nowait(served)
        return served


class ServedClient(Peer):
    """A hostile edge's end of the connection to one client."""

    def __init__(self, greetings: deque[Callable[[ServedClient, Hello], None]]) -> None:
        super().__init__()
        self.is_bound = asyncio.Event()
        self._greetings = greetings
        self._next = 0

    def connected(self) -> None:
        self.connection.admit()

    def hear(self, message: AnyMessage) -> None:
        super().hear(message)
        match message:
            case Hello() if self._greetings:
                self._greetings.popleft()(self, message)
            case Hello():
                self.say(Welcome(PROTOCOL_VERSION, WINDOW, 10, "hostile/1", b"", False, 0, 0, 0))
            case Bind(lease=lease):
                self.say(Bound(lease, "a.test", 443, "127.0.0.1", 1, b"ticket"))
                self.is_bound.set()
            case Unbind(lease=lease):
                self.say(Unbound(lease))

    def visit(self, lease: int = 1, number: int | None = None, *, tls: bool = False) -> int:
        """Open a stream for a visitor, with a valid preface."""
        number = self._next if number is None else number
        self._next += 1
        return self.visit_raw(encode_preface(Preface(number, lease, tls, "192.0.2.1", 1234)))

    def visit_raw(self, preface: bytes) -> int:
        """Open a stream with any bytes as the preface."""
        stream = self.connection.open()
        assert stream is not None
        if preface:
            self.write(stream, preface)
        return stream

    async def is_reset(self, stream: int) -> int:
        """Return the code with which the client reset a stream."""
        async with asyncio.timeout(MESSAGE_TIMEOUT):
            while True:
                reset, code = await self.resets.get()
                if reset == stream:
                    return code
