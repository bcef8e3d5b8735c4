"""Tests that overtaken packets are not lost: the end of the handshake, and acknowledgements on a full path."""

import asyncio

import pytest

from tests.simnet.clock import VirtualLoop
from tests.simnet.link import Conditions, Packet
from tests.simnet.socket import Network
from tests.transport.sessions.session_pair import StartPair
from tests.transport.sessions.test_busy_streams import SIZE, STREAMS, all_busy

RTT = 0.05
LATE = 0.005


async def test_packets_before_the_end_of_the_handshake_are_kept(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    """Without that, the client's Hello waits for a probe time-out, and counts as congestion."""
    pair = start_pair(both=Conditions.wan(mbit=100, rtt=RTT))
    up = next(socket.up for socket in network.sockets if socket.local_address[1] == 5000)
    overtaken = 0

    def hold_handshake_back(packet: Packet) -> Packet | None:
        nonlocal overtaken
        is_hello = virtual_time.time() < begun + 1.5 * RTT  # the first, and the one that answers Retry
        if packet.payload[0] & 0x80 == 0 or is_hello:
            return packet
        overtaken += 1

        def deliver() -> None:
            up.tap = None
            up.send(packet)
            up.tap = hold_handshake_back

        virtual_time.call_later(LATE, deliver)
        return None

    begun = virtual_time.time()
    up.tap = hold_handshake_back
    await pair.greet()
    took = virtual_time.time() - begun
    print(f"greeted after {took * 1000:.0f} ms, {overtaken} datagrams were overtaken")
    assert overtaken
    # Retry, handshake, greeting: a round trip each.
    assert took <= 3 * RTT + 2 * LATE
    assert pair.client.stats().packets_lost == 0


@pytest.mark.slow
async def test_full_directions_recover_from_early_losses(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    """Acknowledgements that wait for the congestion window of the other direction would make the peer take for
    lost what arrived, again and again: a rate of a hundredth, for ever."""
    conditions = Conditions.wan(mbit=100, rtt=RTT, loss=0.1, jitter=0.01)
    pair = start_pair(both=conditions)

    async def heal() -> None:
        await asyncio.sleep(1)
        for socket in network.sockets:
            socket.up.conditions.loss = socket.down.conditions.loss = 0

    async with asyncio.timeout(60):
        run = await all_busy(pair, virtual_time, SIZE, during=heal)
    seconds = STREAMS * SIZE * 8 / run.rate / 1e6
    print(f"{run}, {seconds:.1f} s")
    assert seconds <= 15
