"""Streams that are given up when one direction has ended and the other ends at that moment, and words get lost."""

import asyncio

import pytest

from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import StreamCode
from tests.simnet.clock import VirtualLoop
from tests.simnet.socket import Network
from tests.transport.sessions.session_pair import WAN, Pump, StartPair

VISITORS = 20
SOON = 30
"""Seconds: far below the deadline of half-open streams."""


class Late(Pump):
    """Reads to the end, and says something when it is told to."""

    def __init__(self, stream: Stream) -> None:
        self.may_push = False
        super().__init__(stream, b"answer")

    def push(self) -> None:
        if self.may_push:
            super().push()

    def answer(self) -> None:
        self.may_push = True
        self.push()


def lose(network: Network, *, up: bool, down: bool) -> None:
    """Lose every packet in these directions from now on, and none in the others."""
    for socket in network.sockets:
        socket.up.conditions.black_hole, socket.down.conditions.black_hole = up, down


@pytest.mark.parametrize("hole", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("lost", ["down", "both"])
async def test_visitor_that_has_ended_and_leaves_is_forgotten_by_both(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop, hole: float, lost: str
) -> None:
    """The origin answers and ends while the reset is lost, so that for QUIC both directions are complete."""
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    clients: list[Late] = []
    pair.client_half.on_stream = lambda stream: clients.append(Late(stream))
    visitors = [Pump(pair.open(), b"question") for _ in range(VISITORS)]
    await asyncio.sleep(1)
    assert sum(client.ended for client in clients) == VISITORS
    lose(network, down=True, up=lost == "both")
    for visitor, client in zip(visitors, clients, strict=True):
        visitor.stream.abort(StreamCode.ABORTED)
        client.answer()
    await asyncio.sleep(hole)
    lose(network, up=False, down=False)
    async with asyncio.timeout(SOON):
        await pair.settled()
    assert pair.client.skipped_numbers == 0


@pytest.mark.parametrize("hole", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("lost", ["up", "both"])
async def test_origin_that_has_ended_and_leaves_is_forgotten_by_both(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop, hole: float, lost: str
) -> None:
    """As above, the other way round: the visitor's upload ends while the client's words are lost."""
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    clients: list[Pump] = []
    pair.client_half.on_stream = lambda stream: clients.append(Pump(stream, b"an early answer"))
    visitors = [Late(pair.open()) for _ in range(VISITORS)]
    await asyncio.sleep(1)
    assert sum(visitor.ended for visitor in visitors) == VISITORS
    lose(network, up=True, down=lost == "both")
    for visitor, client in zip(visitors, clients, strict=True):
        client.stream.abort(StreamCode.ABORTED)
        visitor.answer()
    await asyncio.sleep(hole)
    lose(network, up=False, down=False)
    async with asyncio.timeout(SOON):
        await pair.settled()
