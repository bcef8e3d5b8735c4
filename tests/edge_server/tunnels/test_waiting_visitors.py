"""Visitors who wait for a client that is away: how many, and who waits no longer when there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.ingress.admission import MAX_WAITING, MAX_WAITING_PER_LEASE, WAITING_SHARE, Admission
from edge_server.tunnels.lease import BY_PORT, Lease
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.visitor_log import VisitorLog
from quictunnel.transport.splice import TcpSplice
from tests.edge_server.tunnels.bind_rig import FakeSession
from tests.harness.waiting import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Room:
    """Leases whose clients are away, and a listener by which visitors come to whichever of them is said."""

    def __init__(self) -> None:
        self.admission = Admission(cap=1000)
        self.ledger = VisitorLog()
        self.leases: list[Lease] = []
        self.sockets: list[socket.socket] = []
        self.server: asyncio.Server
        self._next: Lease

    async def open(self) -> None:
        def visitor() -> Any:
            lease = self._next
            return TcpSplice(lambda splice: lease.newest.came(splice, BY_PORT))

        self.server = await asyncio.get_running_loop().create_server(visitor, "127.0.0.1", 0)

    def lease(self, name: str, owner: str) -> Lease:
        session: Any = FakeSession()
        session.can_carry = False
        lease = Lease(
            session, 1, name, owner=owner, admission=self.admission, ledger=self.ledger, terms=TunnelOptions()
        )
        self.leases.append(lease)
        return lease

    async def visit(self, lease: Lease, source: str) -> socket.socket:
        self._next = lease
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        self.sockets.append(sock)
        before = lease.came_so_far
        await asyncio.get_running_loop().sock_connect(sock, self.server.sockets[0].getsockname())
        await soon(lambda: lease.came_so_far > before)
        return sock


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    await room.open()
    yield room
    for sock in room.sockets:
        sock.close()
    for lease in room.leases:
        for splice in lease.visitors:
            splice.transport.abort()
    room.server.close()
    await soon(lambda: not room.ledger.now)
    assert (room.admission.active, len(room.admission.waiting)) == (0, 0)


def come_back(lease: Lease) -> int:
    """Let the client come back; return how many visitors are connected."""
    session: Any = lease.session
    session.can_carry = True
    lease.client_is_back()
    return len(session.streams)


async def gone(sock: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    return True


def test_a_share_of_all_places_is_for_who_waits():
    for cap in (10, 1000, 1_000_000):
        waiting = Admission(cap=cap).waiting
        assert 1 <= waiting.limit <= min(cap // WAITING_SHARE, MAX_WAITING)
        assert waiting.limit_per_lease == MAX_WAITING_PER_LEASE


@pytest.mark.parametrize("flood", ["127.9.9.9", "127.9.9.{}"])
async def test_a_flood_at_a_lease_does_not_take_the_places_of_others_who_wait(room: Room, flood: str):
    room.admission.waiting.limit_per_lease = 8
    lease = room.lease("a", "owner")
    early = await room.visit(lease, "127.0.0.1")
    for number in range(40):
        await room.visit(lease, flood.format(1 + number))
    late = await room.visit(lease, "127.0.1.1")
    await soon(lambda: len(lease.visitors) == 8)
    assert room.admission.waiting.evictions == 34
    assert come_back(lease) == 8
    for sock in (early, late):
        sock.send(b"?")
    # What they say is read: they are in.
    streams = lease.session.streams  # type: ignore[union-attr]
    await soon(lambda: sum(stream.log == [b"?"] for stream in streams) == 2)


async def test_visitors_of_one_token_do_not_take_the_places_of_another_ones(room: Room):
    """From everywhere, for as many tunnels as it likes."""
    room.admission.waiting.limit = 16
    floods = [room.lease(f"flood{number}", "one") for number in range(4)]
    for number in range(40):
        await room.visit(floods[number % 4], f"127.8.{number}.1")
    victim = room.lease("victim", "other")
    for _ in range(6):
        await room.visit(victim, "127.0.0.1")
    for number in range(40, 60):
        with contextlib.suppress(ConnectionResetError):
            await room.visit(floods[number % 4], f"127.8.{number}.1")
    assert room.admission.waiting.evictions >= 40
    assert come_back(victim) == 6
    await soon(lambda: sum(len(flood.visitors) for flood in floods) == 10)


async def test_who_has_to_go_is_reset_and_what_it_held_is_free(room: Room):
    room.admission.waiting.limit_per_lease = 1
    lease = room.lease("a", "owner")
    first = await room.visit(lease, "127.0.0.1")
    await room.visit(lease, "127.0.0.1")
    assert await gone(first)
    await soon(lambda: room.admission.active == 1)
    assert len(room.admission.waiting) == 1


async def test_a_client_that_comes_back_in_the_middle_of_a_flood_takes_who_waits(room: Room):
    """And one that is gone again at once leaves them waiting."""
    room.admission.waiting.limit_per_lease = 4
    ghost, heir = room.lease("a", "owner"), room.lease("a", "owner")
    for number in range(6):
        await room.visit(ghost, f"127.9.9.{1 + number}")
    heir.take_over(ghost)
    assert len(room.admission.waiting) == len(heir._waiting) == 4
    for number in range(6, 9):
        with contextlib.suppress(ConnectionResetError):
            await room.visit(heir, f"127.9.9.{1 + number}")
    await soon(lambda: len(heir.visitors) == 4)
    assert come_back(heir) == 4
    assert len(room.admission.waiting) == 0
