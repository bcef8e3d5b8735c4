"""Real TLS visitors on real sockets, and an application protocol that remembers what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

from edge_server.certificates.context_store import new_context
from edge_server.ingress.tls_listener import Alert, ClientHello, RedirectTarget, Route, TlsListener
from tests.harness.waiting import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

NAME = "a.tunnel.localhost"
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[TLS12, TLS13], ids=["tls12", "tls13"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = new_context(h2=False)
    authority.issue_cert("*.tunnel.localhost").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA) -> Iterator[str]:
    with authority.cert_pem.tempfile() as path:
        yield path


class App(asyncio.Protocol):
    """An application protocol: what a splice would be."""

    def __init__(self, *, pause: bool = False, keep_open: bool = True) -> None:
        self.pause_first = pause
        self.keep_open = keep_open
        self.data = bytearray()
        self.calls: list[str] = []
        self.reads: list[int] = []
        self.eof = asyncio.Event()
        self.blocked = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")
        if self.pause_first:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        assert not self.lost.done()
        self.data += data
        self.reads.append(len(data))

    def eof_received(self) -> bool:
        self.calls.append("eof")
        self.eof.set()
        return self.keep_open

    def pause_writing(self) -> None:
        self.blocked = True
        self.writable.clear()

    def resume_writing(self) -> None:
        self.blocked = False
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)

    async def send(self, data: bytes, step: int = 100_000) -> None:
        """As a well-behaved application writes."""
        for start in range(0, len(data), step):
            await self.writable.wait()
            self.transport.write(data[start : start + step])


class TruncatedError(Exception):
    """TCP ended without close_notify."""


class Visitor:
    """A client with each step of TLS and TCP in its own hand; the TLS is OpenSSL's."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.loop = asyncio.get_running_loop()
        self.ended = False

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def fill(self) -> None:
        data = await self.loop.sock_recv(self.sock, 262144)
        if not data:
            raise TruncatedError
        self.incoming.write(data)

    async def handshake(self, *, and_send: bytes = b"") -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                await self.fill()
        if and_send:
            self.tls.write(and_send)
        await self.flush()

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            self.tls.write(data[start : start + 65536])
            await self.flush()

    async def read(self) -> bytes:
        """Some bytes, or nothing for a clean end."""
        while True:
            try:
                return self.tls.read(262144)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self.fill()

    async def read_all(self) -> bytes:
        data = bytearray()
        while chunk := await self.read():
            data += chunk
        return bytes(data)

    async def finish(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class ListenerRig:
    """A listening :class:`TlsListener` and the visitors a test sends to it."""

    app = App
    eventually = staticmethod(soon)

    def __init__(self, context: ssl.SSLContext, ca_file: str) -> None:
        self.context = context
        self.ca_file = ca_file
        self.apps: list[App] = []
        self.sockets: list[socket.socket] = []
        self.make_app: Callable[[], App] = App
        self.hellos: list[ClientHello] = []

    def redirect_target(self, name: str, _host: str) -> RedirectTarget | None:
        return RedirectTarget(f"https://{name}:{self.port}") if name == NAME else None

    def route(self, hello: ClientHello, _host: str = "") -> Route | Alert:
        self.hellos.append(hello)
        if hello.server_name is None:
            return Alert.MISSING_EXTENSION
        return self.accepting_route if hello.server_name == NAME else Alert.UNRECOGNIZED_NAME

    def _ask(self, hello: ClientHello, host: str) -> Route | Alert:
        return self.route(hello, host)  # which a test may have replaced

    @property
    def accepting_route(self) -> Route:
        return Route(self.context, self.new_app)

    def new_app(self) -> App:
        self.apps.append(app := self.make_app())
        return app

    async def open(self, **settings: Any) -> None:
        self.listener = TlsListener(self._ask, redirect_target=self.redirect_target, **settings)
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.listener, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.server.close()
        for sock in self.sockets:
            sock.close()
        for app in self.apps:
            app.transport.abort()
            await app.lost
        await soon(lambda: not self.listener.pending)
        await self.server.wait_closed()
        assert self.listener.shared_bios.incoming.pending == self.listener.shared_bios.outgoing.pending == 0

    async def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        self.sockets.append(sock)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return sock

    async def visitor(self, version: ssl.TLSVersion = TLS13, name: str | None = NAME) -> Visitor:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = name is not None
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        return Visitor(await self.connect(), context, name)

    async def pair(self, version: ssl.TLSVersion = TLS13) -> tuple[Visitor, App]:
        visitor = await self.visitor(version)
        before = len(self.apps)
        await visitor.handshake()
        await soon(lambda: len(self.apps) > before)
        return visitor, self.apps[-1]


def _internet_sockets() -> int:
    """The TCP sockets of this process. Other descriptors, socket pairs too, are a loop's own affair."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of this very listing is gone by now
            found.add(str(descriptor.readlink()))
    table = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return len(found & {f"socket:[{line.split()[9]}]" for line in table})


@pytest.fixture
async def rig(context: ssl.SSLContext, ca_file: str) -> AsyncIterator[ListenerRig]:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, told: complaints.append(told))
    before = _internet_sockets()
    rig = ListenerRig(context, ca_file)
    await rig.open()
    yield rig
    await rig.close()
    await soon(lambda: _internet_sockets() <= before)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == []
