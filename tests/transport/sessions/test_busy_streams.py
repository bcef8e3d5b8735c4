"""The judge of engines: many streams busy in both directions over a delayed, bad link all arrive, equal, in time.

Runs the real engines, endpoints and sessions on the simulated network, on every pairing of engines. A fast engine
can pass every run on loopback and still stall here for ever.

With ``--seeds 20`` each case is run with twenty seeds. A seed fixes what the network does to the first, second,
... datagram of each link, no more: keys, connection IDs and the sizes of signatures come from the system in both
engines, and quinn-proto leaves out packet numbers by chance, so a run with the same seed is alike but not the
same.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import pytest

from tests.simnet.clock import VirtualLoop
from tests.simnet.link import Conditions
from tests.simnet.socket import Network
from tests.transport.sessions.session_pair import Pump, SessionPair, StartPair, payloads

STREAMS = 200
SIZE = 64 * 1024
MBIT = 100
RTT = 0.05
LONGEST_PAUSE = 3.0
SINGLE = ({"loss": 0.01}, {"loss": 0.05}, {"duplicate": 0.02}, {"corrupt": 0.01}, {"jitter": 0.01})
"""Impairments one at a time; all of them together run on every pairing of engines."""

pytestmark = pytest.mark.usefixtures("seed")


@dataclass
class Run:
    """Measurement of one direction: Mbit/s; the longest time in which nothing arrived anywhere; and what the
    stream that was served worst had received when half of everything had come, as a share of the average."""

    rate: float
    pause: float
    evenness: float

    def __str__(self) -> str:
        return f"{self.rate:.1f} Mbit/s each way, longest pause {self.pause:.2f} s, evenness {self.evenness:.2f}"


class Watch:
    """Takes a run's measures."""

    def __init__(self, loop: VirtualLoop, size: int) -> None:
        self.loop = loop
        self.size = size
        self.begin = self.last = loop.time()
        self.pause = 0.0
        self.readers: tuple[list[Pump], list[Pump]] = ([], [])
        self.evenness = 0.0

    def note(self) -> None:
        now = self.loop.time()
        self.pause = max(self.pause, now - self.last)
        self.last = now
        if not self.evenness:
            self._look()

    def _look(self) -> None:
        for readers in self.readers:
            if sum(pump.received for pump in readers) * 2 < STREAMS * self.size:
                return
        shares = [[pump.received / self.size for pump in readers] for readers in self.readers]
        self.evenness = min(min(share) * STREAMS / sum(share) for share in shares)

    def result(self) -> Run:
        rate = STREAMS * self.size * 8 / (self.loop.time() - self.begin) / 1e6
        return Run(rate, self.pause, self.evenness)


async def all_busy(pair: SessionPair, loop: VirtualLoop, size: int, during=None) -> Run:
    """Every stream sends ``size`` bytes each way; checks every byte."""
    await pair.greet()
    down, up = payloads(1, STREAMS, size), payloads(2, STREAMS, size)
    watch = Watch(loop, size)
    clients, edges = watch.readers
    pair.client_half.on_stream = lambda s: clients.append(Pump(s, up[s.number], note=watch.note))
    edges += [Pump(pair.open(), down[n], note=watch.note) for n in range(STREAMS)]
    task = asyncio.create_task(during()) if during else None
    for pump in edges:
        await pump.done.wait()
    for pump in clients:
        await pump.done.wait()
    run = watch.result()
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
    assert run.pause <= LONGEST_PAUSE
    return run


def bad(**trouble: float) -> Conditions:
    conditions = Conditions.wan(mbit=MBIT, rtt=RTT)
    for name, value in trouble.items():
        setattr(conditions, name, value)
    return conditions


@pytest.mark.slow
@pytest.mark.aioquic_is_long
async def test_clean_link_is_filled_and_reordering_costs_at_most_half(
    start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    clean = await all_busy(start_pair(both=bad()), virtual_time, 4 * SIZE)
    print(f"clean: {clean}")
    assert clean.rate >= 0.7 * MBIT
    reordered = await all_busy(start_pair(both=bad(jitter=0.01)), virtual_time, 2 * SIZE)
    print(f"10 ms of reordering: {reordered}")
    assert reordered.rate >= 0.5 * clean.rate


@pytest.mark.parametrize(
    "trouble",
    [
        *(pytest.param(trouble, marks=[pytest.mark.slow, pytest.mark.aioquic_is_long]) for trouble in SINGLE),
        {"loss": 0.01, "duplicate": 0.02, "corrupt": 0.01, "jitter": 0.01},
    ],
    ids=lambda trouble: "+".join(f"{k}={v}" for k, v in trouble.items()),
)
async def test_a_bad_link_delays_but_loses_nothing(
    start_pair: StartPair, virtual_time: VirtualLoop, trouble: dict[str, float]
) -> None:
    pair = start_pair(both=bad(**trouble))
    async with asyncio.timeout(600):
        run = await all_busy(pair, virtual_time, SIZE)
    print(f"{trouble}: {run}")


@pytest.mark.slow
@pytest.mark.aioquic_is_long
async def test_the_client_may_move_every_half_second(
    network: Network, start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    pair = start_pair(both=bad())

    async def move() -> None:
        for step in range(1, 100):
            await asyncio.sleep(0.5)
            socket = network.socket((f"10.0.1.{step}", 5000 + step), both=bad())
            pair.client_endpoint.rebind(socket)

    async with asyncio.timeout(600):
        run = await all_busy(pair, virtual_time, 2 * SIZE, during=move)
    print(f"moving: {run}")
