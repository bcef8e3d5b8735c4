"""The splices of an inspected tunnel over real TCP connections: ends and resets as they turn out to be."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from quictunnel.inspect.exchange_store import ExchangeState
from quictunnel.inspect.tap import ORIGIN_RESET, TappedTcpSplice
from quictunnel.transport import splice as splices
from tests.inspect.recorded_connection import Recording
from tests.transport.test_splice import ListeningStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\nsome of it"


class TappedOrigin:
    """An origin's connection that is looked at, and the origin."""

    def __init__(
        self, stream: ListeningStream, splice: TappedTcpSplice, origin: socket.socket, recording: Recording
    ) -> None:
        self.stream = stream
        self.splice = splice
        self.origin = origin
        self.recording = recording
        self.gone = asyncio.Event()
        splice.on_closed = lambda _: self.gone.set()

    async def exchange(self) -> None:
        self.splice.stream_data([GET], len(GET))
        self.origin.sendall(UNTIL_THE_END)
        while self.stream.written != UNTIL_THE_END:
            self.stream.wrote.clear()
            await self.stream.wrote.wait()

    async def state(self) -> tuple[ExchangeState, bool]:
        """Return the final state of the exchange, and True if it is shown as broken."""
        async with asyncio.timeout(10):
            await self.gone.wait()
        self.recording.drain()
        return self.recording.only.state, ORIGIN_RESET in self.recording.only.notes


@pytest.fixture
async def tapped() -> AsyncIterator[TappedOrigin]:
    recording, stream = Recording(), ListeningStream()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as origin:
        origin.connect(listener.getsockname())
        accepted, _ = listener.accept()
        _, splice = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: TappedTcpSplice(lambda made: made.join(stream), recording.tap),  # type: ignore[arg-type]  # as one
            accepted,
        )
        made = TappedOrigin(stream, splice, origin, recording)
        yield made
        if not made.gone.is_set():
            splice.refuse()
            await made.gone.wait()


async def test_an_end_that_turns_out_to_be_a_reset_is_shown_as_one(
    tapped: TappedOrigin, monkeypatch: pytest.MonkeyPatch
):
    """The kernel told a write of the reset, so a read finds the same as after an end."""
    monkeypatch.setattr(splices, "POLL_INTERVAL", 0.01)
    await tapped.exchange()
    tapped.origin.close()  # with the request unread
    sock = tapped.splice.transport.get_extra_info("socket")
    with socket.socket(fileno=socket.dup(sock.fileno())) as other:
        with pytest.raises(ConnectionResetError):
            other.send(b"more")
        assert other.recv(100) == b""
    tapped.splice.eof_received()
    assert await tapped.state() == (ExchangeState.BROKEN, True)


async def test_origin_that_ended_and_vanished_is_an_abort(tapped: TappedOrigin, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splices, "POLL_INTERVAL", 0.01)
    tapped.splice.stream_data([GET], len(GET))
    tapped.origin.shutdown(socket.SHUT_WR)
    await tapped.stream.finished.wait()
    tapped.origin.close()  # with the request unread
    assert await tapped.state() == (ExchangeState.BROKEN, True)


async def test_an_end_is_shown_as_one(tapped: TappedOrigin):
    await tapped.exchange()
    assert tapped.origin.recv(100) == GET
    tapped.origin.shutdown(socket.SHUT_WR)
    await tapped.stream.finished.wait()
    tapped.splice.stream_end()
    assert await tapped.state() == (ExchangeState.DONE, False)
