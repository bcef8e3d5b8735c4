"""Visitors of a tunnel whose clients come, go, and do not take them; and one that is throttled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from edge_server.tunnels.visitor_log import BY_PORT, EndReason
from quictunnel.transport.splice import TcpSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.codes import StreamCode
from tests.edge_server.tunnels.bind_rig import A, Client, FakeStream, new_backend, new_tunnel

if TYPE_CHECKING:
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.tunnel import Tunnel
    from edge_server.wiring import EdgeServices
    from tests.edge_server.tunnels.bind_rig import FakeSession


async def connect(splice: TcpSplice) -> socket.socket:
    """The visitor's end of a splice."""
    visitor, ours = socket.socketpair()
    visitor.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: splice, ours)  # type: ignore[arg-type,return-value]
    await asyncio.sleep(0.01)
    return visitor


def pool_of(services: EdgeServices, count: int) -> tuple[Tunnel, list[Backend], list[FakeSession]]:
    tunnel = new_tunnel(services)
    tunnel.is_pool = True
    made = [new_backend(tunnel, number) for number in range(count)]
    return tunnel, [backend for backend, _ in made], [session for _, session in made]


def visitor_of(tunnel: Tunnel) -> TcpSplice:
    return TcpSplice(lambda splice: tunnel.admit(splice, BY_PORT))


async def test_a_visitor_who_waited_and_is_refused_goes_on_to_the_next(services: EdgeServices):
    tunnel, (a, b, c), sessions = pool_of(services, 3)
    for session in sessions:
        session.is_ready = False
    splice = visitor_of(tunnel)
    visitor = await connect(splice)
    assert (len(tunnel.waiting), [each.active for each in (a, b, c)]) == (1, [0, 0, 0])
    tunnel.balancer.remove(a)
    sessions[1].is_ready = True
    tunnel.serve_waiting()
    assert (len(tunnel.waiting), [each.active for each in (a, b, c)]) == (0, [0, 1, 0])
    sessions[2].is_ready = True
    splice.stream_lost(StreamCode.REFUSED, [b"said"])
    assert [each.active for each in (a, b, c)] == [0, 0, 1]
    assert not b.is_healthy
    assert sessions[2].streams[0].log == [b"said"]
    splice.transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == c.active == 0
    visitor.close()


async def test_visitors_wait_for_the_rest_of_a_pool_when_one_of_it_leaves(services: EdgeServices):
    tunnel, (a, _), sessions = pool_of(services, 2)
    for session in sessions:
        session.is_ready = False
    visitor = await connect(visitor_of(tunnel))
    services.registry.add(tunnel)
    assert not services.registry.remove_backend(tunnel, a)
    tunnel.serve_waiting()
    assert len(tunnel.waiting) == 1
    sessions[1].is_ready = True
    tunnel.serve_waiting()
    assert (len(tunnel.waiting), len(sessions[1].streams)) == (0, 1)
    next(iter(tunnel.visitors)).transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_visitor_of_a_client_without_a_link_waits(services: EdgeServices):
    """Another client takes the name over meanwhile: nothing moves, for the visitor belongs to the tunnel."""
    first = Client(services, A)
    first.got(name="shop")
    first.session.is_ready = False
    tunnel = services.registry.find("shop")
    assert tunnel is not None
    visitor = await connect(visitor_of(tunnel))
    assert len(tunnel.waiting) == 1
    second = Client(services, A)
    second.got(name="shop")
    assert services.registry.find("shop") is tunnel
    assert (len(tunnel.waiting), len(first.session.streams), len(second.session.streams)) == (0, 0, 1)
    next(iter(tunnel.visitors)).transport.abort()
    await asyncio.sleep(0)
    visitor.close()


async def test_a_queued_visitor_is_refused_by_the_filter_of_the_client_that_comes(services: EdgeServices):
    """The one that takes the name over allows fewer visitors than the one for which they waited."""
    first = Client(services, A)
    first.got(name="shop")
    first.session.is_ready = False
    tunnel = services.registry.find("shop")
    assert tunnel is not None
    splice = visitor_of(tunnel)
    visitor = await connect(splice)
    assert len(tunnel.waiting) == 1
    second = Client(services, A)
    second.got(name="shop", allow=["192.0.2.0/24"])
    assert services.registry.find("shop") is tunnel
    assert splice.is_refused
    assert (len(tunnel.waiting), len(services.admission.waiting), len(second.session.streams)) == (0, 0, 0)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(visitor, 1) == b""
    assert services.admission.active == 0
    visitor.close()


async def test_visitors_are_refused_after_the_last_release(services: EdgeServices):
    client = Client(services, A)
    client.got(name="shop")
    client.session.is_ready = False
    tunnel = services.registry.find("shop")
    assert tunnel is not None
    visitor = await connect(visitor_of(tunnel))
    client.bindings.unbind(1)
    assert (len(tunnel.waiting), len(services.admission.waiting)) == (0, 0)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(visitor, 1) == b""
    assert services.visitor_log.ended_total == {EndReason.REJECTED: 1}
    visitor.close()


async def test_tunnel_is_looked_up_after_the_handshake(services: EdgeServices):
    """The tunnel was given back during the handshake, and the name bound again with another filter."""
    client = Client(services, A)
    client.got(1, name="shop")
    router = services.make_router()
    before, during = router.passing_visitor("shop.example.com"), router.passing_visitor("shop.example.com")
    client.bindings.unbind(1)
    gone = await connect(before)
    assert before.is_refused
    client.got(2, name="shop")
    visitor = await connect(during)
    assert len(client.session.streams) == 1
    client.bindings.unbind(2)
    client.got(3, name="shop", allow=["192.0.2.0/24"])
    refused = router.passing_visitor("shop.example.com")
    late = await connect(refused)
    assert refused.is_refused
    during.transport.abort()
    await asyncio.sleep(0)
    for sock in (gone, visitor, late):
        sock.close()


async def test_waiting_visitor_that_resets_frees_its_place(services: EdgeServices, monkeypatch):
    """Nothing is read from it meanwhile, so its reset has to be looked for."""
    monkeypatch.setattr("quictunnel.transport.splice.PENDING_POLL_INTERVAL", 0.01)
    tunnel, _, (session,) = pool_of(services, 1)
    session.is_ready = False
    splice = visitor_of(tunnel)
    server = await asyncio.get_running_loop().create_server(lambda: splice, "127.0.0.1", 0)
    visitor = socket.create_connection(server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        while not services.admission.active:  # noqa: ASYNC110 - what is waited for is the kernel's doing
            await asyncio.sleep(0.005)
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()
        while services.admission.active:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
    server.close()
    await server.wait_closed()


async def test_visitor_is_refused_after_each_backend_was_tried(services: EdgeServices):
    tunnel, _, sessions = pool_of(services, 3)
    splice = visitor_of(tunnel)
    visitor = await connect(splice)
    for _ in range(3):
        assert splice.stream is not None
        splice.stream_lost(StreamCode.UNKNOWN_LEASE, [b"said"])
    assert splice.stream is None
    assert [len(session.streams) for session in sessions] == [1, 1, 1]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_visitor_without_a_client_in_time_is_logged_as_refused(services: EdgeServices, monkeypatch, caplog):
    monkeypatch.setattr("edge_server.tunnels.tunnel.MAX_WAIT", 0.02)
    tunnel, _, (session,) = pool_of(services, 1)
    session.is_ready = False
    splice = visitor_of(tunnel)
    with caplog.at_level("INFO", "edge_server.tunnels.visitor_log"):
        visitor = await connect(splice)
        async with asyncio.timeout(10):
            while services.visitor_log.active:  # noqa: ASYNC110 - what is waited for is the kernel's doing
                await asyncio.sleep(0.005)
    assert services.visitor_log.ended_total == {EndReason.REJECTED: 1}
    assert caplog.records[-1].fields["ending"] == "sent_away"
    assert 0.02 <= caplog.records[-1].fields["seconds"] < 10
    visitor.close()


class FixedRateLimiter:
    def __init__(self, wait: float) -> None:
        self.wait = wait

    def spend(self, size: int) -> float:
        return self.wait


async def test_the_end_of_a_throttled_visitor_is_no_reset():
    stream = FakeStream()
    splice = TcpSplice(lambda splice: splice.join(stream))  # type: ignore[arg-type]
    splice.throttle = Throttle(FixedRateLimiter(0.0), FixedRateLimiter(60.0))
    visitor = await connect(splice)
    gone = asyncio.Event()
    splice.on_closed = lambda _: gone.set()
    loop = asyncio.get_running_loop()
    splice.stream_data([b"x" * 1000], 1000)
    splice.stream_end()
    assert len(await loop.sock_recv(visitor, 5000)) == 1000
    await loop.sock_sendall(visitor, b"tail")
    visitor.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        await gone.wait()
    assert stream.log == [b"tail", "finish", 1000, "end"]
    visitor.close()


async def test_refusing_member_is_preferred_to_a_silent_one(services: EdgeServices):
    tunnel, (refuses, silent), sessions = pool_of(services, 2)
    refuses.note_refusal()
    sessions[1].is_ready = False
    refuses.active = 9
    assert [tunnel.balancer.choose() for _ in range(3)] == [refuses] * 3
    sessions[1].is_ready = True
    assert tunnel.balancer.choose() is silent


async def test_of_a_pool_each_has_its_turn(services: EdgeServices):
    tunnel, backends, _ = pool_of(services, 3)
    assert [tunnel.balancer.choose() for _ in range(6)] == [*backends, *backends]
    assert tunnel.backends == backends, "the order of coming, which tells whose ticket is shown to a successor"
