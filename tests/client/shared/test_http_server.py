"""The HTTP server of pages: what its end waits for, and the bounds that each user of it sets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn", reason="the extra for pages is not installed")

from quictunnel.shared.http_server import HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class App:
    """An application whose response has two parts, the second when it is told."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], _receive: Any, send: Any) -> None:
        if scope["path"] == "/fails":
            raise ValueError("a fault of ours")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        self.begun.set()
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})


@contextlib.asynccontextmanager
async def serving(http: HttpServer) -> AsyncIterator[Any]:
    """Yield a function that connects to a server, and the server that listens."""
    listener = await asyncio.get_running_loop().create_server(http.connection, "127.0.0.1", 0)
    address = listener.sockets[0].getsockname()
    writers = []

    async def connect(request: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(*address)
        writers.append(writer)
        writer.write(request)
        return reader

    try:
        yield connect, listener
    finally:
        listener.close()
        http.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_drain_waits_for_a_response_and_closes_idle_connections():
    app = App()
    http = HttpServer(app)
    async with serving(http) as (connect, listener):
        busy, idle = await connect(GET), await connect(b"")
        await app.begun.wait()
        listener.close()
        drained = asyncio.create_task(http.drain(30.0))
        assert await asyncio.wait_for(idle.read(), 10) == b""
        assert not drained.done()
        app.go_on.set()
        assert (await asyncio.wait_for(busy.read(), 10)).endswith(b"\r\n\r\nonetwo")
        await asyncio.wait_for(drained, 10)


async def test_drain_aborts_a_response_that_does_not_end():
    app = App()
    http = HttpServer(app)
    async with serving(http) as (connect, listener):
        busy = await connect(GET)
        await app.begun.wait()
        listener.close()
        await asyncio.wait_for(http.drain(0.05), 10)
        with contextlib.suppress(ConnectionResetError):
            assert not (await asyncio.wait_for(busy.read(), 10)).endswith(b"two")
        app.go_on.set()


async def test_a_server_without_connections_drains_at_once():
    await asyncio.wait_for(HttpServer(App()).drain(60.0), 5)


async def test_the_head_of_a_request_is_bounded():
    async with serving(HttpServer(App(), max_head=2000)) as (connect, _):
        reader = await connect(GET[:-2] + b"X: " + b"x" * 40_000)
        assert (await asyncio.wait_for(reader.read(12), 10))[9:12] == b"400"


async def test_an_internal_error_is_logged_and_the_server_goes_on(caplog):
    app = App()
    app.go_on.set()
    async with serving(HttpServer(app)) as (connect, _):
        failed = await connect(GET.replace(b"/ ", b"/fails "))
        assert (await asyncio.wait_for(failed.read(12), 10))[9:12] == b"500"
        assert "a fault of ours" in caplog.text
        assert (await asyncio.wait_for((await connect(GET)).read(12), 10))[9:12] == b"200"
