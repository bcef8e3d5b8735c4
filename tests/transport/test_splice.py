"""A splice over a real TCP connection, on both event loops, with a stream that only counts."""

import asyncio
import socket
from collections.abc import Callable
from typing import Self

import pytest
import uvloop

from quictunnel.transport.splice import WRITE_HIGH, TcpSplice
from quictunnel.wire.codes import StreamCode

SMALL = 4096
"""Bytes of a kernel buffer: what is written mostly stays in the transport."""


class CountingStream:
    """Stands for a stream: takes everything, and counts what was consumed."""

    room = 1 << 20
    is_over = False

    def __init__(self) -> None:
        self.consumed = 0
        self.ended = asyncio.Event()
        self.finished = asyncio.Event()
        self.aborted: StreamCode | None = None

    def attach(self, side: TcpSplice) -> None: ...

    def write(self, data: bytes) -> None: ...

    @property
    def receive_done(self) -> bool:
        return self.ended.is_set()

    def finish(self) -> None:
        self.finished.set()

    def consume(self, size: int) -> None:
        self.consumed += size

    def consume_end(self) -> None:
        self.ended.set()

    def abort(self, code: StreamCode) -> None:
        self.aborted = code


class Scene:
    """A spliced connection and its peer."""

    def __init__(self) -> None:
        self.stream = CountingStream()
        self.gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.peer = socket.socket()
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            self.peer.connect(listener.getsockname())
            accepted, _ = listener.accept()
        self.peer.setblocking(False)
        _, self.splice = await loop.connect_accepted_socket(
            lambda: TcpSplice(lambda splice: splice.join(self.stream), lambda _: self.gone.set()), accepted
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.peer.close()
        if not self.gone.is_set():
            self.splice.refuse()
            await self.gone.wait()

    async def read_all(self) -> int:
        loop = asyncio.get_running_loop()
        total = 0
        while data := await loop.sock_recv(self.peer, 65536):
            total += len(data)
        return total


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    def run(coroutine) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(coroutine, 20))

    return run


def test_an_end_is_consumed_when_everything_before_it_has_left(run) -> None:
    """Whoever was told of it may forget the stream and end the process, and the rest must not end with it."""

    async def scenario() -> None:
        async with Scene() as scene:
            payload = bytes(WRITE_HIGH - 1)
            scene.splice.stream_data([payload], len(payload))
            scene.splice.stream_end()
            for _ in range(10):
                await asyncio.sleep(0)
            assert scene.splice.transport.get_write_buffer_size() > 0
            assert not scene.stream.receive_done
            assert await scene.read_all() == len(payload)
            await scene.stream.ended.wait()
            assert scene.stream.consumed == len(payload)

    run(scenario())


@pytest.mark.parametrize("size", [0, 1000, WRITE_HIGH - 1, 4 * WRITE_HIGH])
def test_both_ends_are_a_clean_close(run, size: int) -> None:
    async def scenario() -> None:
        async with Scene() as scene:
            scene.peer.shutdown(socket.SHUT_WR)
            await scene.stream.finished.wait()
            if size:
                scene.splice.stream_data([bytes(size)], size)
            scene.splice.stream_end()
            assert await scene.read_all() == size
            await scene.gone.wait()
            assert scene.stream.receive_done
            assert scene.stream.consumed == size
            assert scene.stream.aborted is None

    run(scenario())


def test_a_connection_that_closes_before_everything_has_left_is_no_clean_end(run) -> None:
    async def scenario() -> None:
        async with Scene() as scene:
            scene.peer.shutdown(socket.SHUT_WR)
            await scene.stream.finished.wait()
            scene.splice.stream_data([bytes(WRITE_HIGH - 1)], WRITE_HIGH - 1)
            scene.splice.stream_end()
            scene.splice.transport.abort()  # as a deadline for closing does
            await scene.gone.wait()
            assert scene.stream.aborted is StreamCode.ABORTED
            assert not scene.stream.receive_done

    run(scenario())


class ListeningStream(CountingStream):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.wrote = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written += data
        self.wrote.set()


@pytest.mark.parametrize("is_ended", [False, True])
def test_who_speaks_before_anybody_listens_is_heard_whole(run, is_ended: bool) -> None:
    """A visitor whose words came with the connection, and who waits for a client that is away."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[TcpSplice] = asyncio.Queue()
        server = await loop.create_server(lambda: TcpSplice(made.put_nowait), "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            words = bytes(range(256)) * 100
            peer.sendall(words)
            if is_ended:
                peer.shutdown(socket.SHUT_WR)
            splice = await made.get()
            for _ in range(20):  # turns in which more could be read and lost
                await asyncio.sleep(0.001)
            stream = ListeningStream()
            splice.join(stream)
            while len(stream.written) < len(words):
                await stream.wrote.wait()
                stream.wrote.clear()
            assert stream.written == words
            if is_ended:
                await stream.finished.wait()
        splice.refuse()
        server.close()
        await server.wait_closed()

    run(scenario())


class FullStream(ListeningStream):
    """Has room for little, until it is told otherwise."""

    room = 1000


def test_what_came_before_two_clean_ends_is_not_lost_with_them(run, monkeypatch) -> None:
    """Both ends have closed, and for the kernel the connection is no more; what was not read yet is there."""
    monkeypatch.setattr("quictunnel.transport.splice.LOOK", 0.01)

    async def scenario() -> None:
        async with Scene() as scene:
            stream = scene.splice._stream = FullStream()
            scene.splice.stream_end()
            words = bytes(range(256)) * 10
            scene.peer.sendall(words)
            scene.peer.close()
            while not stream.written:
                await stream.wrote.wait()
            stream.room = 0
            scene.splice.transport.pause_reading()
            scene.splice._keep_looking()
            await asyncio.sleep(0.1)  # many looks
            assert not scene.gone.is_set()
            stream.room = 1 << 20
            scene.splice.stream_room()
            await scene.gone.wait()
            assert stream.written == words
            assert stream.aborted is None

    run(scenario())
