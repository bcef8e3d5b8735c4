"""The judge of engines: many streams busy in both directions over a delayed, bad link all arrive, equal, in time.

Runs the real engine, endpoint and session on the simulated network. A fast engine can pass every run on
loopback and still stall here for ever.
"""

import asyncio
import hashlib

import pytest

from tests.simnet.clock import VirtualLoop
from tests.simnet.link import Conditions
from tests.simnet.socket import Network
from tests.transport.sessions.pair import Pump, StartPair, payloads

STREAMS = 200
SIZE = 64 * 1024
MBIT = 100
RTT = 0.05
LONGEST_PAUSE = 3.0


class Pauses:
    """The longest time in which nothing arrived anywhere."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.last = loop.time()
        self.longest = 0.0

    def note(self) -> None:
        now = self.loop.time()
        self.longest = max(self.longest, now - self.last)
        self.last = now


async def all_busy(pair, loop: VirtualLoop, size: int, during=None) -> tuple[float, float]:
    """Every stream sends ``size`` bytes each way. Returns (seconds, longest pause); checks every byte."""
    await pair.greet()
    down, up = payloads(1, STREAMS, size), payloads(2, STREAMS, size)
    pauses = Pauses(loop)
    clients: list[Pump] = []
    pair.client_half.on_stream = lambda s: clients.append(Pump(s, up[s.number], note=pauses.note))
    begin = loop.time()
    edges = [Pump(pair.open(), down[n], note=pauses.note) for n in range(STREAMS)]
    task = asyncio.create_task(during()) if during else None
    for pump in edges:
        await pump.done.wait()
    for pump in clients:
        await pump.done.wait()
    seconds = loop.time() - begin
    if task:
        task.cancel()
        await asyncio.wait([task])
    assert len(clients) == STREAMS
    for pump in edges:
        assert pump.lost is None
        assert pump.hash.digest() == hashlib.sha256(up[pump.stream.number]).digest()
    for pump in clients:
        assert pump.lost is None
        assert pump.hash.digest() == hashlib.sha256(down[pump.stream.number]).digest()
    async with asyncio.timeout(30):
        await pair.settled()
    return seconds, pauses.longest


async def test_a_clean_link_is_filled_in_both_directions(start_pair: StartPair, virtual_time: VirtualLoop) -> None:
    size = 4 * SIZE
    pair = start_pair(both=Conditions.wan(mbit=MBIT, rtt=RTT))
    seconds, pause = await all_busy(pair, virtual_time, size)
    rate = STREAMS * size * 8 / seconds / 1e6
    print(f"{rate:.1f} of {MBIT} Mbit/s each way, longest pause {pause:.2f} s")
    assert rate >= 0.7 * MBIT
    assert pause <= LONGEST_PAUSE


@pytest.mark.parametrize(
    "trouble",
    [
        {"loss": 0.01},
        {"loss": 0.05},
        {"duplicate": 0.02},
        {"corrupt": 0.01},
        {"jitter": 0.01},
        {"loss": 0.01, "duplicate": 0.02, "corrupt": 0.01, "jitter": 0.01},
    ],
    ids=lambda trouble: "+".join(f"{k}={v}" for k, v in trouble.items()),
)
async def test_a_bad_link_delays_but_loses_nothing(
    start_pair: StartPair, virtual_time: VirtualLoop, trouble: dict[str, float]
) -> None:
    conditions = Conditions.wan(mbit=MBIT, rtt=RTT)
    for name, value in trouble.items():
        setattr(conditions, name, value)
    pair = start_pair(both=conditions)
    async with asyncio.timeout(600):
        seconds, pause = await all_busy(pair, virtual_time, SIZE)
    print(f"{trouble}: {STREAMS * SIZE * 8 / seconds / 1e6:.1f} Mbit/s each way, longest pause {pause:.2f} s")
    assert pause <= LONGEST_PAUSE


async def test_reordering_costs_at_most_half(start_pair: StartPair, virtual_time: VirtualLoop) -> None:
    conditions = Conditions.wan(mbit=MBIT, rtt=RTT)
    conditions.jitter = 0.01
    pair = start_pair(both=conditions)
    async with asyncio.timeout(600):
        seconds, _ = await all_busy(pair, virtual_time, 2 * SIZE)
    rate = STREAMS * 2 * SIZE * 8 / seconds / 1e6
    print(f"{rate:.1f} Mbit/s each way with 10 ms of reordering")
    assert rate >= 0.35 * MBIT


async def test_the_client_may_move_every_half_second(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    conditions = Conditions.wan(mbit=20, rtt=RTT)
    pair = start_pair(both=conditions)

    async def move() -> None:
        for step in range(1, 20):
            await asyncio.sleep(0.5)
            pair.client_endpoint.rebind(network.socket((f"10.0.1.{step}", 5000 + step), both=conditions))

    async with asyncio.timeout(600):
        _, pause = await all_busy(pair, virtual_time, SIZE, during=move)
    assert pause <= LONGEST_PAUSE
