"""Tests of what a link does to datagrams."""

import asyncio
import random

import pytest

from tests.simnet.clock import VirtualLoop
from tests.simnet.link import HEADER_BYTES, Conditions, Link, Packet

A, B = ("10.0.0.1", 1), ("10.0.0.2", 2)


class LinkBed:
    """A link, and what came out of it when."""

    def __init__(self, loop: VirtualLoop, conditions: Conditions, seed: int = 7) -> None:
        self.loop = loop
        self.start = loop.time()
        self.out: list[tuple[float, bytes]] = []
        self.link = Link("test", loop, random.Random(seed), self.arrived, conditions)

    def arrived(self, packet: Packet) -> None:
        self.out.append((self.loop.time() - self.start, packet.payload))

    def send(self, payload: bytes) -> None:
        self.link.send(Packet(payload, A, B))

    def numbers(self) -> list[int]:
        return [int.from_bytes(payload[:4], "big") for _, payload in self.out]


def numbered(count: int, size: int = 1200) -> list[bytes]:
    return [number.to_bytes(4, "big").ljust(size, b".") for number in range(count)]


async def test_a_perfect_link_delivers_at_once(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions())
    bed.send(b"x")
    assert bed.out == [(0.0, b"x")]


async def test_rate_and_delay_of_100_mbit_and_50_ms(virtual_time: VirtualLoop) -> None:
    rate = 100e6 / 8
    bed = LinkBed(virtual_time, Conditions(delay=0.050, rate=rate, queue=10**9))
    for payload in numbered(10_000):
        bed.send(payload)
    await asyncio.sleep(10)
    assert bed.numbers() == list(range(10_000))
    each = (1200 + HEADER_BYTES) / rate
    assert bed.out[0][0] == pytest.approx(0.050 + each, abs=1e-9)
    assert bed.out[-1][0] == pytest.approx(0.050 + 10_000 * each, abs=1e-6)
    first, last = bed.out[0][0], bed.out[-1][0]
    assert 9_999 * (1200 + HEADER_BYTES) / (last - first) == pytest.approx(rate, rel=1e-6)


async def test_full_queue_drops_the_newest(virtual_time: VirtualLoop) -> None:
    packet = 1000 + HEADER_BYTES
    bed = LinkBed(virtual_time, Conditions(rate=1e6, queue=10 * packet))
    for payload in numbered(25, 1000):
        bed.send(payload)
    await asyncio.sleep(1)
    assert bed.numbers() == list(range(10))
    assert bed.link.counters.overflowed == 15
    bed.send(numbered(1, 1000)[0])  # and there is room again
    await asyncio.sleep(1)
    assert len(bed.out) == 11


async def test_loss_duplication_and_corruption_strike_at_their_shares(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions(delay=0.01, loss=0.05, duplicate=0.02, corrupt=0.01))
    sent = [number.to_bytes(4, "big") * 25 for number in range(20_000)]  # a flipped bit cannot make another
    for payload in sent:
        bed.send(payload)
    await asyncio.sleep(1)
    counters = bed.link.counters
    assert counters.lost / 20_000 == pytest.approx(0.05, rel=0.15)
    assert counters.duplicated / 20_000 == pytest.approx(0.02, rel=0.2)
    assert counters.corrupted / 20_000 == pytest.approx(0.01, rel=0.3)
    assert len(bed.out) == counters.arrived == 20_000 - counters.lost + counters.duplicated
    known = set(sent)
    damaged = [payload for _, payload in bed.out if payload not in known]
    assert counters.corrupted <= len(damaged) <= counters.corrupted + counters.duplicated
    assert all(len(payload) == 100 for payload in damaged)


async def test_jitter_reorders_and_without_it_order_holds(virtual_time: VirtualLoop) -> None:
    shaken = LinkBed(virtual_time, Conditions(delay=0.01, jitter=0.005))
    steady = LinkBed(virtual_time, Conditions(delay=0.01))
    for payload in numbered(500):
        shaken.send(payload)
        steady.send(payload)
        await asyncio.sleep(0.0001)
    await asyncio.sleep(1)
    assert steady.numbers() == list(range(500))
    assert shaken.numbers() != list(range(500))
    assert sorted(shaken.numbers()) == list(range(500))


async def test_a_black_hole_swallows_until_it_is_gone(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions(delay=0.01))
    bed.send(b"before")
    bed.link.conditions.black_hole = True
    bed.send(b"during")
    bed.link.conditions.black_hole = False
    bed.send(b"after")
    await asyncio.sleep(1)
    assert [payload for _, payload in bed.out] == [b"before", b"after"]
    assert bed.link.counters.swallowed == 1


async def test_conditions_change_while_it_runs(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions(delay=0.5))
    bed.send(b"slow")
    bed.link.conditions.delay = 0.1
    bed.send(b"fast")
    await asyncio.sleep(1)
    assert [(round(at, 6), payload) for at, payload in bed.out] == [(0.1, b"fast"), (0.5, b"slow")]


async def test_datagram_above_the_mtu_is_dropped(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions(mtu=1280))
    bed.send(bytes(1281))
    bed.send(bytes(1280))
    assert [len(payload) for _, payload in bed.out] == [1280]
    assert bed.link.counters.oversize == 1


async def test_coalesced_arrivals_share_an_instant(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions(delay=0.01, rate=12.5e6, coalesce=0.001))
    for payload in numbered(50):
        bed.send(payload)
    await asyncio.sleep(1)
    assert bed.numbers() == list(range(50))
    assert len({at for at, _ in bed.out}) < 8


async def test_a_tap_takes_out_the_one_it_aims_at(virtual_time: VirtualLoop) -> None:
    bed = LinkBed(virtual_time, Conditions())
    bed.link.tap = lambda packet: None if packet.payload == b"2" else packet
    for payload in (b"1", b"2", b"3"):
        bed.send(payload)
    assert [payload for _, payload in bed.out] == [b"1", b"3"]


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
async def test_the_same_seed_gives_the_same_trace(virtual_time: VirtualLoop, seeds: tuple[int, int]) -> None:
    everything = Conditions(delay=0.02, jitter=0.01, loss=0.1, duplicate=0.1, corrupt=0.1, rate=1e6, queue=50_000)
    traces = []
    for seed in seeds:
        bed = LinkBed(virtual_time, everything.copy(), seed)
        bed.link.trace = []
        for payload in numbered(300):
            bed.send(payload)
            await asyncio.sleep(0.0005)
        await asyncio.sleep(5)
        traces.append([(round(at - bed.start, 9), *rest) for at, *rest in bed.link.trace])
        assert bed.link.under_way == 0
    assert (traces[0] == traces[1]) is (seeds[0] == seeds[1])
