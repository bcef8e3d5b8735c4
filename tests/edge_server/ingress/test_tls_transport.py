"""The TLS transport on real sockets, against OpenSSL's client: what a splice relies on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from edge_server.ingress.tls_records import BATCH_SIZE, TlsProtocolError
from edge_server.ingress.tls_transport import MAX_UNSOLICITED, TruncationError
from quictunnel.transport.splice import TlsSplice
from quictunnel.wire.codes import StreamCode
from tests.transport.test_splice import ListeningStream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_server.ingress.conftest import App, Doorstep, Visitor

MEGABYTE = 1_000_000
NAME = "a.tunnel.localhost"


def digest(data: bytes | bytearray) -> tuple[int, str]:
    """To compare by: the difference of two large byte strings takes minutes to draw."""
    return len(data), hashlib.sha256(data).hexdigest()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_the_application_sees_a_transport(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    transport = app.transport
    assert transport.get_extra_info("server_name") == NAME
    assert transport.get_extra_info("peername") == visitor.sock.getsockname()
    assert transport.get_extra_info("sockname")[1] == doorstep.port
    assert transport.get_extra_info("sslcontext") is doorstep.context
    assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert transport.get_extra_info("socket").fileno() > 0
    assert transport.get_extra_info("nothing", 7) == 7
    assert transport.can_write_eof()
    assert transport.is_reading()
    assert not transport.is_closing()
    await visitor.send(b"ping")
    await doorstep.eventually(lambda: app.data == b"ping")
    transport.writelines([b"po", b"", b"ng"])
    assert await visitor.read() == b"pong"
    assert not doorstep.front.pending


@pytest.mark.parametrize("first", ["visitor", "application"])
async def test_each_direction_ends_alone(doorstep: Doorstep, version: ssl.TLSVersion, first: str) -> None:
    visitor, app = await doorstep.pair(version)
    there, back = noise(20 * MEGABYTE, 1), noise(20 * MEGABYTE, 2)
    if first == "visitor":
        await visitor.send(there)
        await visitor.finish()
        await asyncio.wait_for(app.eof.wait(), 20)
        assert digest(app.data) == digest(there)
        reading = asyncio.create_task(visitor.read_all())
        await app.send(back)
        app.transport.write_eof()
        assert digest(await reading) == digest(back)
    else:
        reading = asyncio.create_task(visitor.read_all())
        await app.send(back)
        app.transport.write_eof()
        assert digest(await reading) == digest(back)
        assert await asyncio.get_running_loop().sock_recv(visitor.sock, 1) == b""  # the FIN too
        await visitor.send(there)
        await visitor.finish()
        await asyncio.wait_for(app.eof.wait(), 20)
        assert digest(app.data) == digest(there)
    assert not app.lost.done()
    app.transport.close()
    assert await app.lost is None


async def test_both_directions_at_once(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    there, back = noise(20 * MEGABYTE, 3), noise(20 * MEGABYTE, 4)

    async def from_visitor() -> None:
        await visitor.send(there)
        await visitor.finish()

    async def from_application() -> None:
        await app.send(back)
        app.transport.write_eof()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        reading = group.create_task(visitor.read_all())
        group.create_task(from_visitor())
        group.create_task(from_application())
        group.create_task(app.eof.wait())
    assert digest(app.data) == digest(there)
    assert digest(reading.result()) == digest(back)
    assert max(app.reads) <= 256 * 1024  # one read of the socket, one call


async def test_one_huge_write_arrives_whole(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    data = noise(3 * BATCH_SIZE + 17)
    reading = asyncio.create_task(visitor.read_all())
    app.transport.write(memoryview(bytearray(data)))
    app.transport.close()
    assert digest(await reading) == digest(data)
    assert await app.lost is None


async def test_abort_is_a_reset(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    app.transport.abort()
    with pytest.raises(ConnectionResetError):
        await visitor.read()
    assert await app.lost is None
    assert app.calls == ["made", "lost"]


async def test_abort_after_write_eof_is_still_a_reset(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
    app.transport.write_eof()
    assert await visitor.read() == b""
    app.transport.abort()
    # After a FIN the kernel tells of a RST in this way alone; a FIN alone leaves no error.
    await doorstep.eventually(lambda: visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)
    await app.lost


async def test_an_end_for_a_visitor_who_has_left_is_no_fault(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    """On loopback the reset that our close_notify meets is there before the FIN behind it."""
    visitor, app = await doorstep.pair(version)
    visitor.sock.close()
    app.transport.write_eof()
    await doorstep.eventually(lambda: "eof" in app.calls or app.lost.done())


async def test_a_visitors_reset_is_told(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    visitor.reset()
    assert isinstance(await app.lost, ConnectionError)
    assert app.calls == ["made", "lost"]


async def test_a_fin_without_close_notify_stays_a_fin(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    """Most programs end a connection this way; the answer still reaches them."""
    visitor, app = await doorstep.pair(version)
    await visitor.send(b"a message")
    visitor.sock.shutdown(socket.SHUT_WR)
    await app.eof.wait()
    assert app.data == b"a message"
    app.transport.write(b"answer")
    app.transport.close()
    assert await visitor.read() == b"answer"
    assert await app.lost is None
    assert app.calls == ["made", "eof", "lost"]


async def test_a_fin_while_the_application_is_paused_waits_for_it(
    doorstep: Doorstep, version: ssl.TLSVersion
) -> None:
    visitor, app = await doorstep.pair(version)
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


async def test_a_fin_within_a_record_is_never_a_clean_end(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    await visitor.send(b"half a mess")
    visitor.tls.write(b"age")
    await visitor.loop.sock_sendall(visitor.sock, visitor.outgoing.read()[:-1])
    visitor.sock.shutdown(socket.SHUT_WR)
    assert isinstance(await app.lost, TruncationError)
    assert app.data == b"half a mess"
    assert app.calls == ["made", "lost"]


async def test_an_application_that_keeps_nothing_open_closes(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    app.keep_open = False
    await visitor.finish()
    assert await visitor.read() == b""
    assert await app.lost is None
    assert app.calls == ["made", "eof", "lost"]


async def test_a_paused_application_is_left_alone(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
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
    assert app.transport._held == b""
    app.transport.resume_reading()
    await sending
    await asyncio.wait_for(app.eof.wait(), 20)
    assert digest(app.data) == digest(data)


async def test_paused_between_two_reads_nothing_is_lost(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
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


async def test_write_eof_while_ciphertext_waits(doorstep: Doorstep, version: ssl.TLSVersion) -> None:
    visitor, app = await doorstep.pair(version)
    app.transport.pause_reading()
    await visitor.send(noise(100_000))
    app.transport.write_eof()
    assert await visitor.read() == b""
    app.transport.resume_reading()
    await visitor.finish()
    await asyncio.wait_for(app.eof.wait(), 5)
    assert app.data == noise(100_000)


async def test_bytes_beside_the_end_of_the_handshake_wait_for_a_paused_application(doorstep: Doorstep) -> None:
    doorstep.make_app = lambda: doorstep.app(pause=True)
    visitor = await doorstep.visitor()
    await visitor.handshake(and_send=b"early")
    await doorstep.eventually(lambda: len(doorstep.apps) == 1)
    await visitor.finish()
    app = doorstep.apps[0]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(app.eof.wait(), 0.1)
    assert app.data == b""
    app.transport.resume_reading()
    await asyncio.wait_for(app.eof.wait(), 5)
    assert app.data == b"early"


async def test_an_end_beside_data_waits_while_paused(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
    received = app.data_received

    def pause(chunk: bytes) -> None:
        received(chunk)
        app.transport.pause_reading()

    app.data_received = pause
    visitor.tls.write(b"last words")
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    await visitor.flush()  # one segment: data and close_notify
    await doorstep.eventually(lambda: app.data == b"last words")
    await asyncio.sleep(0)
    assert not app.eof.is_set()
    app.transport.resume_reading()
    await asyncio.wait_for(app.eof.wait(), 5)


async def test_a_visitor_that_never_reads_blocks_the_writer(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
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


class Timed:
    """An event loop that remembers which timers it was asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.delays: list[float] = []

    def call_later(self, delay: float, *rest: Any) -> asyncio.TimerHandle:
        self.delays.append(delay)
        return self.loop.call_later(delay, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


async def test_a_closed_transport_waits_for_a_visitor_who_does_not_read(doorstep: Doorstep) -> None:
    """As TCP does: however long that takes."""
    doorstep.front.loop = loop = Timed(asyncio.get_running_loop())
    visitor, app = await doorstep.pair()
    assert loop.delays
    loop.delays.clear()
    app.transport.write(bytes(20 * MEGABYTE))
    app.transport.close()
    assert app.transport.is_closing()
    await asyncio.sleep(0)
    assert loop.delays == []
    assert len(await visitor.read_all()) == 20 * MEGABYTE
    await asyncio.wait_for(app.lost, 5)


async def test_after_its_end_a_transport_is_quiet(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
    transport = app.transport
    transport.write_eof()
    transport.write_eof()
    with pytest.raises(RuntimeError):
        transport.write(b"more")
    transport.close()
    transport.close()
    transport.write(b"more")
    transport.write_eof()
    transport.pause_reading()
    transport.resume_reading()
    await app.lost
    transport.abort()
    assert await visitor.read_all() == b""


async def test_what_follows_close_notify_is_ignored(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    await asyncio.get_running_loop().sock_sendall(visitor.sock, visitor.outgoing.read() + b"garbage" * 100)
    await asyncio.wait_for(app.eof.wait(), 5)
    await asyncio.get_running_loop().sock_sendall(visitor.sock, b"garbage" * 100)
    await app.send(b"still here")
    assert await visitor.read() == b"still here"
    assert not app.lost.done()


@pytest.mark.parametrize("garbage", [b"\x17\x03\x03\x00\x20" + bytes(32), b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_broken_record_ends_with_an_alert(
    doorstep: Doorstep, version: ssl.TLSVersion, garbage: bytes
) -> None:
    visitor, app = await doorstep.pair(version)
    await asyncio.get_running_loop().sock_sendall(visitor.sock, garbage)
    assert isinstance(await app.lost, ConnectionError)
    with pytest.raises(ssl.SSLError, match="alert"):
        await visitor.read()
    assert app.data == b""
    assert app.transport.is_closing()


def break_off(visitor: Visitor, app: App, last: bytes) -> None:
    """Have the visitor say something and reset the connection, and a write find out before a read does."""
    visitor.sock.send(last)
    visitor.sock.close()  # with bytes of ours unread
    for _ in range(100):
        app.transport.write(bytes(1000))
        if app.transport.is_closing():
            return
    raise AssertionError("no write has failed")


@pytest.mark.parametrize("garbage", [b"\x17\x03\x03\x00\x20" + bytes(32), b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_broken_record_that_is_read_behind_a_reset_is_no_fault(doorstep: Doorstep, garbage: bytes) -> None:
    visitor, app = await doorstep.pair()
    await app.send(b"unread")
    await asyncio.sleep(0)
    break_off(visitor, app, garbage)
    assert isinstance(await app.lost, ConnectionError)
    assert app.data == b""


async def test_a_visitor_who_has_ended_and_resets_while_paused_has_ended(doorstep: Doorstep) -> None:
    visitor, app = await doorstep.pair()
    await app.send(b"unread")
    received = app.data_received
    app.data_received = lambda data: (app.transport.pause_reading(), received(data))
    visitor.tls.write(b"all of it")
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    await visitor.flush()
    await doorstep.eventually(lambda: app.data == b"all of it")
    assert "eof" not in app.calls
    break_off(visitor, app, b"")
    await app.lost
    assert app.calls == ["made", "eof", "lost"]


class BriefStream(ListeningStream):
    """Has no room after the first bytes, until it is told otherwise."""

    def write(self, data: bytes) -> None:
        if not self.written:
            self.room = 0
        super().write(data)


async def broken_splice(doorstep: Doorstep) -> tuple[TlsSplice, BriefStream, asyncio.Event]:
    """Return a splice that does not read, whose visitor has said a last word and reset the connection. A write has
    found out, and the splice has not been told."""
    stream, gone = BriefStream(), asyncio.Event()
    doorstep.make_app = lambda: TlsSplice(lambda splice: splice.join(stream), lambda _: gone.set())
    visitor, splice = await doorstep.pair()
    doorstep.apps.clear()
    splice.stream_data([b"unread"], 6)
    visitor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await visitor.send(b"first, ")
    await doorstep.eventually(lambda: stream.written == b"first, ")
    visitor.tls.write(b"last")
    break_off(visitor, splice, visitor.outgoing.read())
    assert not stream.stops
    return splice, stream, gone


async def test_room_that_comes_while_a_connection_breaks_is_used(doorstep: Doorstep) -> None:
    splice, stream, gone = await broken_splice(doorstep)
    stream.room = 1 << 20
    splice.stream_room()
    await asyncio.wait_for(gone.wait(), 5)
    assert stream.written == b"first, last"
    assert stream.aborted is StreamCode.ABORTED


async def test_nothing_is_kept_of_a_broken_connection_whose_words_nobody_wants(doorstep: Doorstep) -> None:
    splice, stream, gone = await broken_splice(doorstep)
    splice.stream_lost(StreamCode.ABORTED, None)
    await asyncio.wait_for(gone.wait(), 5)
    assert stream.written == b"first, "


class KeyUpdates:
    """The records of a TLS 1.3 client that asks for new keys again and again (RFC 8446 section 4.6.3). No
    client program does, so they are made by hand, from the secret that OpenSSL logs for debuggers."""

    def __init__(self, key_log: Path) -> None:
        lines = (line.split() for line in key_log.read_text().splitlines())
        self.secret = next(bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0")

    def expand(self, label: bytes, size: int) -> bytes:
        info = size.to_bytes(2) + bytes((6 + len(label),)) + b"tls13 " + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self.secret)

    def record(self) -> bytes:
        header = b"\x17\3\3\0\x16"
        sealed = AESGCM(self.expand(b"key", 32)).encrypt(self.expand(b"iv", 12), b"\x18\0\0\1\1\x16", header)
        self.secret = self.expand(b"traffic upd", 48)
        return header + sealed


async def test_a_visitor_cannot_fill_memory_by_asking_for_keys(doorstep: Doorstep, tmp_path: Path) -> None:
    visitor = await doorstep.visitor()
    visitor.tls.context.keylog_filename = str(tmp_path / "keys")
    await visitor.handshake()
    await doorstep.eventually(lambda: len(doorstep.apps) == 1)
    assert visitor.tls.cipher()[0] == "TLS_AES_256_GCM_SHA384"
    app = doorstep.apps[0]
    updates = KeyUpdates(tmp_path / "keys")
    while not app.blocked:
        app.transport.write(bytes(100_000))
        await asyncio.sleep(0)
    before = app.transport.get_write_buffer_size()
    loop = asyncio.get_running_loop()
    few = MAX_UNSOLICITED // 27 // 2
    await loop.sock_sendall(visitor.sock, b"".join(updates.record() for _ in range(few)))
    await doorstep.eventually(lambda: app.transport.get_write_buffer_size() > before)
    assert app.transport.get_write_buffer_size() <= before + MAX_UNSOLICITED
    assert not app.lost.done()
    await loop.sock_sendall(visitor.sock, b"".join(updates.record() for _ in range(2 * few)))
    assert isinstance(await asyncio.wait_for(app.lost, 5), TlsProtocolError)
