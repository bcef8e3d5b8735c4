"""The TLS transport when a visitor resets, breaks a record or asks for keys without end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from quictunnel.transport.splice import TlsSplice
from quictunnel.transport.tls_records import TlsProtocolError
from quictunnel.transport.tls_transport import MAX_UNSOLICITED
from quictunnel.wire.codes import StreamCode
from tests.transport.test_splice import ListeningStream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_server.ingress.conftest import App, ListenerRig, Visitor


async def test_data_after_close_notify_is_ignored(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
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
    rig: ListenerRig, version: ssl.TLSVersion, garbage: bytes
) -> None:
    visitor, app = await rig.pair(version)
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
async def test_a_broken_record_that_is_read_behind_a_reset_is_no_fault(rig: ListenerRig, garbage: bytes) -> None:
    visitor, app = await rig.pair()
    await app.send(b"unread")
    await asyncio.sleep(0)
    break_off(visitor, app, garbage)
    assert isinstance(await app.lost, ConnectionError)
    assert app.data == b""


async def test_a_visitor_who_has_ended_and_resets_while_paused_has_ended(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
    await app.send(b"unread")
    received = app.data_received
    app.data_received = lambda data: (app.transport.pause_reading(), received(data))
    visitor.tls.write(b"all of it")
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    await visitor.flush()
    await rig.eventually(lambda: app.data == b"all of it")
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


async def broken_splice(rig: ListenerRig) -> tuple[TlsSplice, BriefStream, asyncio.Event]:
    """Return a splice that does not read, whose visitor has said a last word and reset the connection. A write has
    found out, and the splice has not been told."""
    stream, gone = BriefStream(), asyncio.Event()
    rig.make_app = lambda: TlsSplice(lambda splice: splice.join(stream), lambda _: gone.set())
    visitor, splice = await rig.pair()
    rig.apps.clear()
    splice.stream_data([b"unread"], 6)
    visitor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await visitor.send(b"first, ")
    await rig.eventually(lambda: stream.written == b"first, ")
    visitor.tls.write(b"last")
    break_off(visitor, splice, visitor.outgoing.read())
    assert not stream.stops
    return splice, stream, gone


async def test_write_room_during_a_failure_is_used(rig: ListenerRig) -> None:
    splice, stream, gone = await broken_splice(rig)
    stream.room = 1 << 20
    splice.stream_room()
    await asyncio.wait_for(gone.wait(), 5)
    assert stream.written == b"first, last"
    assert stream.aborted is StreamCode.ABORTED


async def test_broken_connection_drops_unread_data(rig: ListenerRig) -> None:
    splice, stream, gone = await broken_splice(rig)
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


async def test_a_visitor_cannot_fill_memory_by_asking_for_keys(rig: ListenerRig, tmp_path: Path) -> None:
    visitor = await rig.visitor()
    visitor.tls.context.keylog_filename = str(tmp_path / "keys")
    await visitor.handshake()
    await rig.eventually(lambda: len(rig.apps) == 1)
    assert visitor.tls.cipher()[0] == "TLS_AES_256_GCM_SHA384"
    app = rig.apps[0]
    updates = KeyUpdates(tmp_path / "keys")
    while not app.blocked:
        app.transport.write(bytes(100_000))
        await asyncio.sleep(0)
    before = app.transport.get_write_buffer_size()
    loop = asyncio.get_running_loop()
    few = MAX_UNSOLICITED // 27 // 2
    await loop.sock_sendall(visitor.sock, b"".join(updates.record() for _ in range(few)))
    await rig.eventually(lambda: app.transport.get_write_buffer_size() > before)
    assert app.transport.get_write_buffer_size() <= before + MAX_UNSOLICITED
    assert not app.lost.done()
    await loop.sock_sendall(visitor.sock, b"".join(updates.record() for _ in range(2 * few)))
    assert isinstance(await asyncio.wait_for(app.lost, 5), TlsProtocolError)
