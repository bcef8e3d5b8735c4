"""Long answers, long silences and long requests: WebSockets, server-sent events, chunked uploads."""

import asyncio
import contextlib
import hashlib
import ssl
import subprocess
import time

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

import quictunnel
from tests.harness.programs import need
from tests.harness.visitors import curl

IDLE = 60.0
"""Seconds of silence: twice the idle time-out of the QUIC connection."""
PROMPT = 0.05
"""Seconds within which an event is seen after it was written."""
EVENTS = 20
ROUNDS = 3
"""A busy machine may stop a process for longer than an event may take. A tunnel that holds events back does so
every time, so the best of a few rounds tells the two apart."""


def trust(edge) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(edge.ca))


@contextlib.asynccontextmanager
async def websocket_origin():
    """Echoes; ``close`` closes with a code of the application's."""

    async def echo(connection):
        with contextlib.suppress(ConnectionClosedError):
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "as you options")
                else:
                    await connection.send(message)

    # Without pings of its own: the tunnel alone keeps the silence alive.
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None, compression=None) as server:
        yield server.sockets[0].getsockname()[1]


def websocket(edge, tunnel):
    return connect(
        f"wss://{tunnel.host}:{tunnel.port}/",
        host="127.0.0.1",
        ssl=trust(edge),
        max_size=None,
        ping_interval=None,
        compression=None,
        proxy=None,
    )


async def test_websocket_echo(edge, client):
    async with (
        websocket_origin() as port,
        quictunnel.forward(port, client=client) as tunnel,
        websocket(edge, tunnel) as visitor,
    ):
        for message in ("text", b"", b"\x00\xff", "ü" * 1000, bytes(range(256)) * 8192):
            await visitor.send(message)
            assert await visitor.recv() == message
        await (await visitor.ping())
        await visitor.send("close")
        with pytest.raises(ConnectionClosedError) as closed:
            await visitor.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you options")


async def test_many_websockets_at_once(edge, client):
    async def talk(tunnel, number):
        async with websocket(edge, tunnel) as visitor:
            for turn in range(20):
                message = f"{number} {turn}"
                await visitor.send(message)
                assert await visitor.recv() == message

    async with (
        websocket_origin() as port,
        quictunnel.forward(port, client=client) as tunnel,
        asyncio.TaskGroup() as group,
    ):
        for number in range(25):
            group.create_task(talk(tunnel, number))


@pytest.mark.early
@pytest.mark.slow
async def test_websockets_survive_a_minute_of_silence(edge, client):
    async with (
        websocket_origin() as port,
        quictunnel.forward(port, client=client) as tunnel,
        contextlib.AsyncExitStack() as stack,
    ):
        visitors = [await stack.enter_async_context(websocket(edge, tunnel)) for _ in range(3)]
        await visitors[0].send("before")
        assert await visitors[0].recv() == "before"
        await asyncio.sleep(IDLE)  # the silence itself is what is tested
        for visitor in visitors:
            await visitor.send("after")
            assert await visitor.recv() == "after"


@contextlib.asynccontextmanager
async def asyncio_origin(answer):
    """``answer(reader, writer)`` is called for each connection, after the request's head was read."""
    serving = set()

    async def serve_one(reader, writer):
        serving.add(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*serving)


@contextlib.asynccontextmanager
async def visit(edge, tunnel):
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tunnel.port, ssl=trust(edge), server_hostname=tunnel.host
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_server_sent_events_arrive_when_written(edge, client):
    async def answer(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(EVENTS):
            writer.write(f"id: {number}\ndata: {time.monotonic_ns()}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(0.03)  # events come one by one, as they do

    async def latest(tunnel) -> float:
        """Seconds from the writing to the reading of the slowest event."""
        late = []
        async with visit(edge, tunnel) as (reader, writer):
            writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            for number in range(EVENTS):
                event = await reader.readuntil(b"\n\n")
                now = time.monotonic_ns()
                assert event.startswith(f"id: {number}\n".encode())
                late.append((now - int(event.rpartition(b"data: ")[2])) / 1e9)
            assert await reader.read() == b""
        return max(late)

    async with asyncio_origin(answer) as port, quictunnel.forward(port, client=client) as tunnel:
        delays = []
        while len(delays) < ROUNDS and min(delays, default=PROMPT) >= PROMPT:
            delays.append(await latest(tunnel))
    assert min(delays) < PROMPT, f"the slowest event of each round took {delays} s"


async def test_an_upload_is_answered_while_it_is_sent(edge, client):
    """Every chunk reaches the origin, and its answer the visitor, before the next is sent."""

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (size := int(await reader.readline(), 16)) > 0:
            chunk = await reader.readexactly(size + 2)
            digest = hashlib.sha256(chunk[:-2]).hexdigest()
            writer.write(b"40\r\n" + digest.encode() + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with (
        asyncio_origin(answer) as port,
        quictunnel.forward(port, client=client) as tunnel,
        visit(edge, tunnel) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        for number in range(40):
            chunk = bytes((number,)) * (1 + number * 5000)
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            assert await reader.readexactly(68) == f"40\r\n{hashlib.sha256(chunk).hexdigest()}".encode()
            assert await reader.readexactly(2) == b"\r\n"
        writer.write(b"0\r\n\r\n")
        assert await reader.readexactly(5) == b"0\r\n\r\n"


def test_a_chunked_upload_by_curl_into_nginx(edge, client, nginx):
    """From a pipe, so that nobody knows its length before its end."""
    size = 20 * 1024 * 1024
    with quictunnel.forward(nginx.port, client=client) as tunnel:
        content = hashlib.shake_128(b"upload").digest(size)
        done = curl(edge, "--fail", "--upload-file", "-", f"{tunnel.url}/up/chunked", input=content)
        assert done.returncode == 0, done.stderr
    assert (nginx.root / "up" / "chunked").read_bytes() == content


def test_curl_shows_each_line_of_an_endless_answer(edge, client, running):
    """An answer that is still being written is read as it comes, by a program in another process."""
    need("curl")

    async def run_conversation():
        go_on = asyncio.Event()

        async def answer(_reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            for number in range(5):
                writer.write(f"line {number}\n".encode())
                await go_on.wait()
                go_on.clear()

        async with asyncio_origin(answer) as port, quictunnel.forward(port, client=client) as tunnel:
            process = await asyncio.create_subprocess_exec(
                *("curl", "--silent", "--no-buffer", "--cacert", str(edge.ca), tunnel.url), stdout=subprocess.PIPE
            )
            for number in range(5):
                assert await process.stdout.readline() == f"line {number}\n".encode()
                go_on.set()  # the next is written only when this one was seen
            assert await process.wait() == 0

    asyncio.run(run_conversation())
