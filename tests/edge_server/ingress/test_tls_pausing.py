"""The TLS transport while one side does not read: nothing is lost, nothing piles up, an end waits for its turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge_server.ingress.payload import MEGABYTE, digest, noise

if TYPE_CHECKING:
    from tests.edge_server.ingress.conftest import ListenerRig


async def test_a_fin_while_the_application_is_paused_waits_for_it(
    rig: ListenerRig, version: ssl.TLSVersion
) -> None:
    visitor, app = await rig.pair(version)
    app.transport.pause_reading()
    data = noise(MEGABYTE)
    sending = asyncio.create_task(visitor.send(data))
    while not sending.done():
        app.transport.resume_reading()
        await asyncio.sleep(0)
        app.transport.pause_reading()
        await asyncio.sleep(0)
    visitor.sock.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0)
    app.transport.resume_reading()
    await app.eof.wait()
    assert app.data == data
    app.transport.abort()
    await app.lost


async def test_a_paused_application_is_left_alone(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    data = noise(8 * MEGABYTE)
    app.transport.pause_reading()
    app.transport.pause_reading()
    assert not app.transport.is_reading()

    async def send() -> None:
        await visitor.send(data)
        await visitor.finish()

    sending = asyncio.create_task(send())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(sending), 0.2)  # the kernel's buffers are full
    assert app.data == b""
    assert app.transport._unread_ciphertext == b""
    app.transport.resume_reading()
    await sending
    await asyncio.wait_for(app.eof.wait(), 20)
    assert digest(app.data) == digest(data)


async def test_paused_between_two_reads_nothing_is_lost(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
    data = noise(2 * MEGABYTE)
    received = app.data_received

    def pause_each_time(chunk: bytes) -> None:
        received(chunk)
        app.transport.pause_reading()
        asyncio.get_running_loop().call_soon(app.transport.resume_reading)

    app.data_received = pause_each_time
    await visitor.send(data)
    await visitor.finish()
    await asyncio.wait_for(app.eof.wait(), 20)
    assert digest(app.data) == digest(data)


async def test_write_eof_while_ciphertext_waits(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    app.transport.pause_reading()
    await visitor.send(noise(100_000))
    app.transport.write_eof()
    assert await visitor.read() == b""
    app.transport.resume_reading()
    await visitor.finish()
    await asyncio.wait_for(app.eof.wait(), 5)
    assert app.data == noise(100_000)


async def test_data_with_the_finished_message_waits_while_paused(rig: ListenerRig) -> None:
    rig.make_app = lambda: rig.app(pause=True)
    visitor = await rig.visitor()
    await visitor.handshake(and_send=b"early")
    await rig.eventually(lambda: len(rig.apps) == 1)
    await visitor.finish()
    app = rig.apps[0]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(app.eof.wait(), 0.1)
    assert app.data == b""
    app.transport.resume_reading()
    await asyncio.wait_for(app.eof.wait(), 5)
    assert app.data == b"early"


async def test_an_end_beside_data_waits_while_paused(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
    received = app.data_received

    def pause(chunk: bytes) -> None:
        received(chunk)
        app.transport.pause_reading()

    app.data_received = pause
    visitor.tls.write(b"last words")
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    await visitor.flush()  # one segment: data and close_notify
    await rig.eventually(lambda: app.data == b"last words")
    await asyncio.sleep(0)
    assert not app.eof.is_set()
    app.transport.resume_reading()
    await asyncio.wait_for(app.eof.wait(), 5)


async def test_a_visitor_that_never_reads_blocks_the_writer(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
    app.transport.set_write_buffer_limits(high=100_000)
    assert app.transport.get_write_buffer_limits()[1] == 100_000
    written = 0
    while not app.blocked:
        app.transport.write(bytes(50_000))
        written += 50_000
        assert written < 50 * MEGABYTE
        await asyncio.sleep(0)
    assert app.transport.get_write_buffer_size() <= 100_000 + 60_000
    got = 0
    while app.blocked or got < written:
        got += len(await visitor.read())
    assert got == written


class TimerLog:
    """An event loop that remembers which timers it was asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.delays: list[float] = []

    def call_later(self, delay: float, *rest: Any) -> asyncio.TimerHandle:
        self.delays.append(delay)
        return self.loop.call_later(delay, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


async def test_a_closed_transport_waits_for_a_visitor_who_does_not_read(rig: ListenerRig) -> None:
    """As TCP does: however long that takes."""
    rig.listener.loop = loop = TimerLog(asyncio.get_running_loop())
    visitor, app = await rig.pair()
    assert loop.delays
    loop.delays.clear()
    app.transport.write(bytes(20 * MEGABYTE))
    app.transport.close()
    assert app.transport.is_closing()
    await asyncio.sleep(0)
    assert loop.delays == []
    assert len(await visitor.read_all()) == 20 * MEGABYTE
    await asyncio.wait_for(app.lost, 5)
