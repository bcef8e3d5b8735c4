"""Visitors who wait for a client that is away: how many, and who waits no longer when there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.ingress.admission import MAX_WAITING, MAX_WAITING_PER_TUNNEL, WAITING_DIVISOR, Admission
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel import Tunnel
from edge_server.tunnels.visitor_log import BY_PORT, VisitorLog
from quictunnel.transport.splice import TcpSplice
from tests.edge_server.tunnels.bind_rig import new_backend
from tests.harness.waiting import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class WaitingRig:
    """Tunnels whose clients are away, and a listener whose visitors go to the chosen one of them."""

    def __init__(self) -> None:
        self.admission = Admission(cap=1000)
        self.visitor_log = VisitorLog()
        self.tunnels: list[Tunnel] = []
        self.sockets: list[socket.socket] = []
        self.server: asyncio.Server
        self._next: Tunnel

    async def open(self) -> None:
        def visitor() -> Any:
            tunnel = self._next
            return TcpSplice(lambda splice: tunnel.admit(splice, BY_PORT))

        self.server = await asyncio.get_running_loop().create_server(visitor, "127.0.0.1", 0)

    def tunnel(self, name: str, owner: str) -> Tunnel:
        tunnel = Tunnel(
            name, owner=owner, options=TunnelOptions(), admission=self.admission, visitor_log=self.visitor_log
        )
        self.tunnels.append(tunnel)
        _, session = new_backend(tunnel)
        session.is_ready = False
        return tunnel

    async def visit(self, tunnel: Tunnel, source: str) -> socket.socket:
        self._next = tunnel
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        self.sockets.append(sock)
        before = tunnel.total_visitors
        await asyncio.get_running_loop().sock_connect(sock, self.server.sockets[0].getsockname())
        await soon(lambda: tunnel.total_visitors > before)
        return sock


@pytest.fixture
async def rig() -> AsyncIterator[WaitingRig]:
    rig = WaitingRig()
    await rig.open()
    yield rig
    for sock in rig.sockets:
        sock.close()
    for tunnel in rig.tunnels:
        for splice in tunnel.visitors:
            splice.transport.abort()
    rig.server.close()
    await soon(lambda: not rig.visitor_log.active)
    assert (rig.admission.active, len(rig.admission.waiting)) == (0, 0)


def come_back(tunnel: Tunnel) -> int:
    """Let the client come back; return how many visitors are connected."""
    session: Any = tunnel.backends[0].session
    session.is_ready = True
    tunnel.serve_waiting()
    return len(session.streams)


async def is_closed(sock: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    return True


def test_a_share_of_all_places_is_for_who_waits():
    for cap in (10, 1000, 1_000_000):
        waiting = Admission(cap=cap).waiting
        assert 1 <= waiting.limit <= min(cap // WAITING_DIVISOR, MAX_WAITING)
        assert waiting.limit_per_tunnel == MAX_WAITING_PER_TUNNEL


@pytest.mark.parametrize("flood", ["127.9.9.9", "127.9.9.{}"])
async def test_flooded_tunnel_takes_no_waiting_places_of_others(rig: WaitingRig, flood: str):
    rig.admission.waiting.limit_per_tunnel = 8
    tunnel = rig.tunnel("a", "owner")
    early = await rig.visit(tunnel, "127.0.0.1")
    for number in range(40):
        await rig.visit(tunnel, flood.format(1 + number))
    late = await rig.visit(tunnel, "127.0.1.1")
    await soon(lambda: len(tunnel.visitors) == 8)
    assert rig.admission.waiting.evictions == 34
    assert come_back(tunnel) == 8
    for sock in (early, late):
        sock.send(b"?")
    # What they say is read: they are in.
    streams = tunnel.backends[0].session.streams  # type: ignore[attr-defined]
    await soon(lambda: sum(stream.log == [b"?"] for stream in streams) == 2)


async def test_visitors_of_one_token_do_not_take_the_places_of_another_ones(rig: WaitingRig):
    """From everywhere, for as many tunnels as it likes."""
    rig.admission.waiting.limit = 16
    floods = [rig.tunnel(f"flood{number}", "one") for number in range(4)]
    for number in range(40):
        await rig.visit(floods[number % 4], f"127.8.{number}.1")
    victim = rig.tunnel("victim", "other")
    for _ in range(6):
        await rig.visit(victim, "127.0.0.1")
    for number in range(40, 60):
        with contextlib.suppress(ConnectionResetError):
            await rig.visit(floods[number % 4], f"127.8.{number}.1")
    assert rig.admission.waiting.evictions >= 40
    assert come_back(victim) == 6
    await soon(lambda: sum(len(flood.visitors) for flood in floods) == 10)


async def test_evicted_visitor_is_reset_and_its_place_free(rig: WaitingRig):
    rig.admission.waiting.limit_per_tunnel = 1
    tunnel = rig.tunnel("a", "owner")
    first = await rig.visit(tunnel, "127.0.0.1")
    await rig.visit(tunnel, "127.0.0.1")
    assert await is_closed(first)
    await soon(lambda: rig.admission.active == 1)
    assert len(rig.admission.waiting) == 1


async def test_returning_client_takes_waiting_visitors_in_a_flood(rig: WaitingRig):
    """And one that is gone again at once leaves them waiting, until the moment that was theirs before."""
    rig.admission.waiting.limit_per_tunnel = 4
    tunnel = rig.tunnel("a", "owner")
    for number in range(6):
        await rig.visit(tunnel, f"127.9.9.{1 + number}")
    ends = [each.timer.when() for each in tunnel.waiting._waiting.values()]
    tunnel.serve_waiting()
    assert len(rig.admission.waiting) == len(tunnel.waiting) == 4
    assert [each.timer.when() for each in tunnel.waiting._waiting.values()] == pytest.approx(ends)
    for number in range(6, 9):
        with contextlib.suppress(ConnectionResetError):
            await rig.visit(tunnel, f"127.9.9.{1 + number}")
    await soon(lambda: len(tunnel.visitors) == 4)
    assert come_back(tunnel) == 4
    assert len(rig.admission.waiting) == 0
