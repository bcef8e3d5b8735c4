"""Datagrams between an edge and its successor."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from edge_server.handoff.udp_forwarding import PredecessorUdpSocket, SuccessorUdpSocket, is_for_edge
from quictunnel.transport.engine import Received, Transmit
from quictunnel.transport.udp import READ_BYTES, UdpSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quictunnel.transport.engine import Address

MINE, THEIRS = 7, 6


def short(mark: int, size: int = 40) -> bytes:
    return bytes((0x40, mark)) + os.urandom(size)


def long_header(kind: int, mark: int) -> bytes:
    return bytes((0xC0 | kind << 4, 0, 0, 0, 1, 8, mark)) + os.urandom(40)


@pytest.mark.parametrize(
    ("datagram", "is_mine"),
    [
        (short(MINE), True),
        (short(THEIRS), False),
        (long_header(0, MINE), True),
        (long_header(0, THEIRS), True),  # a first packet: the client made the ID up
        (long_header(2, MINE), True),
        (long_header(2, THEIRS), False),
        (b"\x40", True),
        (b"\xe0\0\0\0\1\0", True),
    ],
    ids=[
        "short",
        "short, theirs",
        "Initial",
        "Initial, any",
        "Handshake",
        "Handshake, theirs",
        "stub",
        "long stub",
    ],
)
def test_datagram_is_assigned_by_connection_id(datagram: bytes, is_mine: bool) -> None:
    assert is_for_edge(datagram, MINE) is is_mine


class Source:
    """A socket with what the test puts into it."""

    local_address: Address = ("127.0.0.1", 4433)

    def __init__(self) -> None:
        self.waiting: list[Received] = []
        self.sent: list[Transmit] = []
        self.is_closed = False

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None: ...
    def detach(self) -> None: ...

    def receive(self) -> list[Received]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def send(self, transmits: Sequence[Transmit]) -> None:
        self.sent += transmits

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


PEER: Address = ("192.0.2.7", 1234)
PEER6: Address = ("2001:db8::7", 1234, 0, 0)


def test_both_edges_get_their_datagrams_in_order(pipe: tuple[socket.socket, socket.socket]) -> None:
    source, end = Source(), Source()
    successor, passed = SuccessorUdpSocket(source, pipe[0], MINE), PredecessorUdpSocket(end, pipe[1])
    largest = short(THEIRS, READ_BYTES - 2)
    theirs = [
        Received(short(THEIRS) + short(THEIRS), 42, PEER),
        Received(largest, len(largest), PEER6),
        Received(short(THEIRS), 42, PEER),
    ]
    mine = [Received(short(MINE), 42, PEER), Received(long_header(0, 99), 47, PEER6)]
    source.waiting = [theirs[0], mine[0], theirs[1], mine[1], theirs[2]]
    assert successor.receive() == mine
    assert [(r.payload, r.segment, tuple(r.address)) for r in passed.receive()] == [tuple(r) for r in theirs]
    assert passed.receive() == []
    answer = [Transmit((b"x",), 1, PEER)]
    passed.send(answer)
    successor.send(answer * 2)
    assert (end.sent, source.sent) == (answer, answer * 2)
    successor.close()
    passed.close()
    assert source.is_closed
    assert end.is_closed


def test_a_full_pipe_drops_and_a_broken_one_is_left(pipe: tuple[socket.socket, socket.socket]) -> None:
    source = Source()
    successor = SuccessorUdpSocket(source, pipe[0], MINE)
    for _ in range(1000):
        source.waiting = [Received(short(THEIRS, 60_000), 60_002, PEER)]
        assert successor.receive() == []  # never waits, however little the other one reads
    assert successor.has_predecessor
    pipe[1].close()
    source.waiting = [Received(short(THEIRS), 42, PEER)]
    assert successor.receive() == []
    assert not successor.has_predecessor
    late = [Received(short(THEIRS), 42, PEER)]
    source.waiting = late
    assert successor.receive() == late  # for the engine, which tells the peer by a stateless reset


def test_a_second_succession_keeps_the_first_pipe(pipe: tuple[socket.socket, socket.socket]) -> None:
    """The middle one of three reads what the third passes on, and passes on what is the first's."""
    source, end = Source(), Source()
    middle = SuccessorUdpSocket(source, pipe[0], MINE)
    first = PredecessorUdpSocket(end, pipe[1])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    third_source = Source()
    third = SuccessorUdpSocket(third_source, theirs, 8)
    moved = middle.with_source(PredecessorUdpSocket(Source(), ours))
    source.waiting = [Received(short(THEIRS), 42, PEER)]
    assert middle.receive() == []  # what had come before goes the old way
    middle.close()
    third_source.waiting = [Received(short(mark), 42, PEER) for mark in (8, MINE, THEIRS)]
    assert [received.payload[1] for received in third.receive()] == [8]
    assert [received.payload[1] for received in moved.receive()] == [MINE]
    assert [received.payload[1] for received in first.receive()] == [THEIRS, THEIRS]
    for each in (first, moved, third):
        each.close()


async def test_a_successor_that_is_gone_does_not_keep_the_loop_busy(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    passed = PredecessorUdpSocket(Source(), pipe[1])
    woken = 0

    def readable() -> None:
        nonlocal woken
        woken += 1
        passed.receive()

    passed.attach(asyncio.get_running_loop(), readable)
    pipe[0].close()
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert woken == 1
    passed.close()


async def test_two_handles_of_one_socket_send_from_one_address() -> None:
    first = UdpSocket.bind(("127.0.0.1", 0))
    second = UdpSocket.adopt(first.duplicate())
    assert second.local_address == first.local_address
    assert second.largest_datagram == first.largest_datagram
    first.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        second.send([Transmit((b"still here",), 10, peer.getsockname())])
        assert peer.recvfrom(100) == (b"still here", second.local_address)
    second.close()
