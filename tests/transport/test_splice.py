"""A splice over a real TCP connection, on both event loops, with a stream that only counts."""

import asyncio
import os
import random
import socket
import struct
import sys
from collections.abc import Callable
from typing import Self

import pytest
import uvloop

from quictunnel.transport import tcp
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
        self.stops = 0
        self.on_over: Callable[[CountingStream], None] | None = None

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

    def request_room(self) -> bool:
        return self.room > 0

    def stop_receiving(self) -> None:
        self.stops += 1

    def abort_after_delivery(self, code: StreamCode) -> None:
        if self.is_over:
            return
        self.aborted = code
        if self.on_over is not None:
            self.on_over(self)


class SplicedConnection:
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
    """The receiver of this event may forget the stream and end the process; the rest must not be lost with it."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            payload = bytes(WRITE_HIGH - 1)
            spliced.splice.stream_data([payload], len(payload))
            spliced.splice.stream_end()
            for _ in range(10):
                await asyncio.sleep(0)
            assert spliced.splice.transport.get_write_buffer_size() > 0
            assert not spliced.stream.receive_done
            assert await spliced.read_all() == len(payload)
            await spliced.stream.ended.wait()
            assert spliced.stream.consumed == len(payload)

    run(scenario())


@pytest.mark.parametrize("size", [0, 1000, WRITE_HIGH - 1, 4 * WRITE_HIGH])
def test_both_ends_are_a_clean_close(run, size: int) -> None:
    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.peer.shutdown(socket.SHUT_WR)
            await spliced.stream.finished.wait()
            if size:
                spliced.splice.stream_data([bytes(size)], size)
            spliced.splice.stream_end()
            assert await spliced.read_all() == size
            await spliced.gone.wait()
            assert spliced.stream.receive_done
            assert spliced.stream.consumed == size
            assert spliced.stream.aborted is None

    run(scenario())


def test_close_before_everything_was_sent_is_no_clean_end(run) -> None:
    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.peer.shutdown(socket.SHUT_WR)
            await spliced.stream.finished.wait()
            spliced.splice.stream_data([bytes(WRITE_HIGH - 1)], WRITE_HIGH - 1)
            spliced.splice.stream_end()
            spliced.splice.transport.abort()  # as a deadline for closing does
            await spliced.gone.wait()
            assert spliced.stream.aborted is StreamCode.ABORTED
            assert not spliced.stream.receive_done

    run(scenario())


@pytest.mark.parametrize("size", [0, 1000])
def test_an_end_for_a_connection_that_was_reset_is_no_fault(run, size: int) -> None:
    """The loop has not seen the reset yet: it ends this connection, and not the one that all visitors share."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            spliced.peer.close()
            if size:
                spliced.splice.stream_data([bytes(size)], size)
            spliced.splice.stream_end()
            await spliced.gone.wait()
            assert spliced.stream.aborted is StreamCode.ABORTED

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
def test_data_before_a_client_is_ready_is_delivered(run, is_ended: bool) -> None:
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


def test_data_before_two_clean_ends_is_delivered(run, monkeypatch) -> None:
    """Both ends have closed, and for the kernel the connection is no more; what was not read yet is there."""
    monkeypatch.setattr("quictunnel.transport.splice.POLL_INTERVAL", 0.01)

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            stream = spliced.splice._stream = FullStream()
            spliced.splice.stream_end()
            words = bytes(range(256)) * 10
            spliced.peer.sendall(words)
            spliced.peer.close()
            while not stream.written:
                await stream.wrote.wait()
            stream.room = 0
            spliced.splice.transport.pause_reading()
            spliced.splice._poll_later()
            await asyncio.sleep(0.1)  # many looks
            assert not spliced.gone.is_set()
            stream.room = 1 << 20
            spliced.splice.stream_room()
            await spliced.gone.wait()
            assert stream.written == words
            assert stream.aborted is None

    run(scenario())


class RoomyStream(ListeningStream):
    """Says that it has room again when it is told to."""

    room = 3000

    def write(self, data: bytes) -> None:
        assert len(data) <= self.room
        self.room -= len(data)
        super().write(data)


@pytest.mark.parametrize("ends_first", [False, True], ids=["reset", "end and reset"])
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "paused"])
@pytest.mark.parametrize("size", [6, 20_000])
def test_data_before_a_peers_reset_is_read(run, ends_first: bool, reads: bool, size: int) -> None:
    """A server that answers before it has read its request and closes: a write fails, and the answer is there."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            stream = spliced.splice._stream = RoomyStream()
            if not reads:
                spliced.splice.transport.pause_reading()
            answer = random.Random(1).randbytes(size)
            spliced.splice.stream_data([b"request"], 7)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            if ends_first:
                assert await loop.sock_recv(spliced.peer, 100) == b"request"
            spliced.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            await loop.sock_sendall(spliced.peer, answer)
            spliced.peer.close()
            for _ in range(100):  # without a turn of the loop for reading: a write comes first
                spliced.splice.stream_data([bytes(1000)], 1000)
                if spliced.splice.transport.is_closing():
                    break
            while not spliced.gone.is_set():
                await asyncio.sleep(0)
                if not stream.room and not spliced.gone.is_set():
                    assert stream.aborted is None
                    stream.room = 3000
                    spliced.splice.stream_room()
            assert stream.written == answer
            assert stream.finished.is_set() is ends_first
            assert stream.stops
            assert stream.aborted is StreamCode.ABORTED

    run(scenario())


def test_an_end_that_is_read_behind_a_failed_write_is_none(run) -> None:
    """The kernel tells of a reset once. When a write was told, a read finds the same as after a FIN."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.splice.stream_data([b"request"], 7)
            await asyncio.sleep(0)
            spliced.peer.close()  # with the request unread
            sock = spliced.splice.transport.get_extra_info("socket")
            with socket.socket(fileno=socket.dup(sock.fileno())) as other:
                with pytest.raises(ConnectionResetError):
                    other.send(b"more")
                assert other.recv(100) == b""
            spliced.splice.eof_received()
            assert not spliced.stream.finished.is_set()
            spliced.splice.transport.abort()
            await spliced.gone.wait()
            assert spliced.stream.aborted is StreamCode.ABORTED

    run(scenario())


def is_reset(peer: socket.socket) -> bool:
    """Read to the end: is it a reset?"""
    try:
        while peer.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def test_writes_before_a_reset_are_delivered_first(run) -> None:
    """More than the kernel takes; and what the peer still says is read, or it would not read either."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            payload = random.Random(1).randbytes(8 * WRITE_HIGH)
            spliced.splice.stream_data([payload], len(payload))
            spliced.splice.stream_lost(StreamCode.ABORTED, None)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(spliced.peer, bytes(1 << 20))
            got = b""
            while len(got) < len(payload):
                got += await loop.sock_recv(spliced.peer, 65536)
            assert got == payload
            await spliced.gone.wait()
            assert spliced.splice.lost is StreamCode.ABORTED
            assert is_reset(spliced.peer)

    run(scenario())


def test_a_reset_of_the_visitor_ends_a_delivery_to_it(run) -> None:
    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.splice.stream_data([bytes(WRITE_HIGH)], WRITE_HIGH)
            spliced.splice.stream_lost(StreamCode.ABORTED, None)
            await asyncio.sleep(0.01)
            assert not spliced.gone.is_set()
            spliced.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            spliced.peer.close()
            await spliced.gone.wait()

    run(scenario())


def test_connection_broken_after_its_stream_frees_its_place(run) -> None:
    """Both ends had been exchanged and credited, and the visitor resets before its connection is closed."""

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.peer.shutdown(socket.SHUT_WR)
            await spliced.stream.finished.wait()
            spliced.stream.is_over = True
            spliced.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            spliced.peer.close()
            spliced.splice.transport.write(b"x")
            await asyncio.wait_for(spliced.gone.wait(), 5)
            assert not spliced.splice.is_complete

    run(scenario())


def test_a_peer_that_never_reads_is_reset_after_all(run, monkeypatch) -> None:
    monkeypatch.setattr(tcp, "LINGER_TIMEOUT", 0.2)

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.splice.stream_data([bytes(WRITE_HIGH)], WRITE_HIGH)
            spliced.splice.stream_lost(StreamCode.ABORTED, None)
            await spliced.gone.wait()
            assert is_reset(spliced.peer)

    run(scenario())


@pytest.mark.parametrize("code", [code for code in StreamCode if code is not StreamCode.ABORTED])
def test_other_endings_do_not_wait_for_delivery(run, code: StreamCode) -> None:
    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.splice.stream_data([bytes(WRITE_HIGH)], WRITE_HIGH)
            spliced.splice.stream_lost(code, None)
            async with asyncio.timeout(1):
                await spliced.gone.wait()

    run(scenario())


def test_a_sender_that_never_reads_is_reset_after_so_many_bytes(run, monkeypatch) -> None:
    monkeypatch.setattr("quictunnel.transport.splice.MAX_DISCARDED", 100_000)

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            spliced.splice.stream_data([bytes(WRITE_HIGH)], WRITE_HIGH)
            spliced.splice.stream_lost(StreamCode.ABORTED, None)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await asyncio.get_running_loop().sock_sendall(spliced.peer, bytes(64 << 20))
            await spliced.gone.wait()
            assert 100_000 < spliced.splice._uncredited < 500_000

    run(scenario())


TCP_REPAIR = 19
"""Linux: a socket that is closed in this mode vanishes without a word (tcp_repair; needs CAP_NET_ADMIN)."""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root makes a peer vanish")
@pytest.mark.parametrize("ends_first", [False, True], ids=["open", "half-closed"])
def test_a_peer_that_vanished_is_noticed_by_keep_alive(run, monkeypatch, ends_first: bool) -> None:
    """Nothing is read from a half-closed connection, and nothing is written to it."""
    monkeypatch.setattr(tcp, "KEEPALIVE_IDLE", 1)
    monkeypatch.setattr("quictunnel.transport.splice.POLL_INTERVAL", 0.05)

    async def scenario() -> None:
        async with SplicedConnection() as spliced:
            if ends_first:
                spliced.peer.shutdown(socket.SHUT_WR)
                await spliced.stream.finished.wait()
            spliced.peer.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            spliced.peer.close()
            await spliced.gone.wait()
            assert spliced.stream.aborted is StreamCode.ABORTED

    run(scenario())
