"""The TLS transport on real sockets, against OpenSSL's client: what a splice relies on."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.tls_records import BATCH_SIZE
from quictunnel.transport.tls_transport import TruncationError
from tests.edge_server.ingress.payload import MEGABYTE, digest, noise

if TYPE_CHECKING:
    import ssl

    from tests.edge_server.ingress.conftest import ListenerRig

NAME = "a.tunnel.localhost"


async def test_application_gets_a_transport(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    transport = app.transport
    assert transport.get_extra_info("server_name") == NAME
    assert transport.get_extra_info("peername") == visitor.sock.getsockname()
    assert transport.get_extra_info("sockname")[1] == rig.port
    assert transport.get_extra_info("sslcontext") is rig.context
    assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert transport.get_extra_info("socket").fileno() > 0
    assert transport.get_extra_info("nothing", 7) == 7
    assert transport.can_write_eof()
    assert transport.is_reading()
    assert not transport.is_closing()
    await visitor.send(b"ping")
    await rig.eventually(lambda: app.data == b"ping")
    transport.writelines([b"po", b"", b"ng"])
    assert await visitor.read() == b"pong"
    assert not rig.listener.pending


@pytest.mark.parametrize("first", ["visitor", "application"])
async def test_directions_end_independently(rig: ListenerRig, version: ssl.TLSVersion, first: str) -> None:
    visitor, app = await rig.pair(version)
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


async def test_both_directions_at_once(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
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


async def test_huge_write_arrives_whole(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    data = noise(3 * BATCH_SIZE + 17)
    reading = asyncio.create_task(visitor.read_all())
    app.transport.write(memoryview(bytearray(data)))
    app.transport.close()
    assert digest(await reading) == digest(data)
    assert await app.lost is None


async def test_abort_is_a_reset(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    app.transport.abort()
    with pytest.raises(ConnectionResetError):
        await visitor.read()
    assert await app.lost is None
    assert app.calls == ["made", "lost"]


async def test_abort_after_write_eof_is_still_a_reset(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
    app.transport.write_eof()
    assert await visitor.read() == b""
    app.transport.abort()
    # After a FIN the kernel tells of a RST in this way alone; a FIN alone leaves no error.
    await rig.eventually(lambda: visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)
    await app.lost


async def test_an_end_for_a_visitor_who_has_left_is_no_fault(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    """On loopback the reset that our close_notify meets is there before the FIN behind it."""
    visitor, app = await rig.pair(version)
    visitor.sock.close()
    app.transport.write_eof()
    await rig.eventually(lambda: "eof" in app.calls or app.lost.done())


async def test_visitors_reset_is_reported(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    visitor.reset()
    assert isinstance(await app.lost, ConnectionError)
    assert app.calls == ["made", "lost"]


async def test_a_fin_without_close_notify_stays_a_fin(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    """Most programs end a connection this way; the answer still reaches them."""
    visitor, app = await rig.pair(version)
    await visitor.send(b"a message")
    visitor.sock.shutdown(socket.SHUT_WR)
    await app.eof.wait()
    assert app.data == b"a message"
    app.transport.write(b"answer")
    app.transport.close()
    assert await visitor.read() == b"answer"
    assert await app.lost is None
    assert app.calls == ["made", "eof", "lost"]


async def test_a_fin_within_a_record_is_never_a_clean_end(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    await visitor.send(b"half a mess")
    visitor.tls.write(b"age")
    await visitor.loop.sock_sendall(visitor.sock, visitor.outgoing.read()[:-1])
    visitor.sock.shutdown(socket.SHUT_WR)
    assert isinstance(await app.lost, TruncationError)
    assert app.data == b"half a mess"
    assert app.calls == ["made", "lost"]


async def test_an_application_that_keeps_nothing_open_closes(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    visitor, app = await rig.pair(version)
    app.keep_open = False
    await visitor.finish()
    assert await visitor.read() == b""
    assert await app.lost is None
    assert app.calls == ["made", "eof", "lost"]


async def test_after_its_end_a_transport_is_quiet(rig: ListenerRig) -> None:
    visitor, app = await rig.pair()
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
