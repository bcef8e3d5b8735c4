"""Visitors of a lease whose origin or client does not take them, and of one that is throttled."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING

from edge_server.tunnels.lease import BY_PORT, Lease
from edge_server.tunnels.load_balancer import LoadBalancer
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.visitor_log import EndReason
from quictunnel.transport.splice import TcpSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.codes import StreamCode
from tests.edge_server.tunnels.bind_rig import FakeSession, FakeStream

if TYPE_CHECKING:
    from edge_server.wiring import EdgeServices


async def connected(splice: TcpSplice) -> socket.socket:
    """The visitor's end of a splice."""
    visitor, ours = socket.socketpair()
    visitor.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: splice, ours)  # type: ignore[arg-type,return-value]
    await asyncio.sleep(0.01)
    return visitor


def pool_of(services: EdgeServices, count: int) -> list[Lease]:
    pool, leases = LoadBalancer(), []
    for number in range(count):
        lease = Lease(
            FakeSession(),  # type: ignore[arg-type]
            number,
            "n",
            owner="a",
            admission=services.admission,
            ledger=services.ledger,
            terms=TunnelOptions(),
        )
        lease.pool = pool
        pool.add(lease)
        leases.append(lease)
    return leases


async def test_a_visitor_who_waited_and_is_refused_goes_on_to_the_next(services: EdgeServices):
    a, b, c = pool_of(services, 3)
    for lease in (a, c):
        lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: a.came(splice, BY_PORT))
    visitor = await connected(splice)
    a.pool.remove(a)  # type: ignore[union-attr]
    a.close()
    assert list(b.visitors) == [splice]
    c.session.can_carry = True  # type: ignore[union-attr]
    splice.stream_lost(StreamCode.REFUSED, [b"said"])
    assert list(c.visitors) == [splice]
    assert c.session.streams[0].log == [b"said"]  # type: ignore[union-attr]
    splice.transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_visitor_who_resets_while_it_waits_gives_its_place_back(services: EdgeServices, monkeypatch):
    """Nothing is read from it meanwhile, so its reset has to be looked for."""
    monkeypatch.setattr("quictunnel.transport.splice.WAITING_LOOK", 0.01)
    (lease,) = pool_of(services, 1)
    lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: lease.came(splice, BY_PORT))
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


async def test_a_visitor_whom_nobody_takes_is_refused_after_each_was_asked_once(services: EdgeServices):
    leases = pool_of(services, 3)
    splice = TcpSplice(lambda splice: leases[0].came(splice, BY_PORT))
    visitor = await connected(splice)
    for _ in range(3):
        assert splice.stream is not None
        splice.stream_lost(StreamCode.UNKNOWN_LEASE, [b"said"])
    assert splice.stream is None
    assert [len(lease.session.streams) for lease in leases] == [1, 1, 1]  # type: ignore[union-attr]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_a_visitor_whom_no_client_took_in_time_is_said_to_be_sent_away(
    services: EdgeServices, monkeypatch, caplog
):
    monkeypatch.setattr("edge_server.tunnels.lease.MAX_WAIT", 0.02)
    (lease, *_) = pool_of(services, 1)
    lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: lease.came(splice, BY_PORT))
    with caplog.at_level("INFO", "edge_server.tunnels.visitor_log"):
        visitor = await connected(splice)
        async with asyncio.timeout(10):
            while services.ledger.now:  # noqa: ASYNC110 - what is waited for is the kernel's doing
                await asyncio.sleep(0.005)
    assert services.ledger.endings == {EndReason.SENT_AWAY: 1}
    assert caplog.records[-1].fields["ending"] == "sent_away"
    assert 0.02 <= caplog.records[-1].fields["seconds"] < 10
    visitor.close()


class Meter:
    def __init__(self, wait: float) -> None:
        self.wait = wait

    def spend(self, size: int) -> float:
        return self.wait


async def test_the_end_of_a_throttled_visitor_is_no_reset():
    stream = FakeStream()
    splice = TcpSplice(lambda splice: splice.join(stream))  # type: ignore[arg-type]
    splice.throttle = Throttle(Meter(0.0), Meter(60.0))
    visitor = await connected(splice)
    gone = asyncio.Event()
    splice.on_gone = lambda _: gone.set()
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


async def test_of_a_pool_one_whose_origin_refused_comes_before_one_that_is_silent(services: EdgeServices):
    (refuses, silent) = leases = pool_of(services, 2)
    refuses._troubled_until = math.inf
    refuses.session.can_carry = True
    silent.session.can_carry = False
    refuses.visitors.update(dict.fromkeys(range(9)))  # type: ignore[arg-type]
    pool = leases[0].pool
    assert pool is not None
    assert [pool.choose() for _ in range(3)] == [refuses] * 3
    silent.session.can_carry = True
    assert pool.choose() is silent
