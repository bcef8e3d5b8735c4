"""Simulated sockets keep to what real ones do."""

import asyncio

from quictunnel.transport.engine import Transmit
from quictunnel.transport.udp import MAX_SEGMENTS, RECEIVE_DATAGRAMS
from tests.simnet.link import Conditions
from tests.simnet.socket import INBOX_BYTES, Network

A, B, C = ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3)


def burst(count: int, size: int, to: tuple[str, int], last: int | None = None) -> Transmit:
    datagrams = [bytes([number % 256]) * size for number in range(count)]
    if last is not None:
        datagrams.append(b"z" * last)
    return Transmit(datagrams, size, to)


async def test_a_burst_is_cut_and_joined_again(network: Network) -> None:
    a, b = network.socket(A), network.socket(B)
    a.send([burst(5, 100, B, last=40)])
    (received,) = b.receive()
    assert (len(received.payload), received.segment, received.address) == (540, 100, A)
    assert b.receive() == []
    a.close()
    b.close()


async def test_only_neighbours_of_one_size_sender_and_instant_are_joined(network: Network) -> None:
    a, b, c = network.socket(A), network.socket(B), network.socket(C)
    a.send([burst(2, 100, B, last=40), burst(2, 100, B), burst(1, 200, B)])
    c.send([burst(1, 200, B)])
    await asyncio.sleep(0.001)
    c.send([burst(1, 200, B)])
    assert [(len(one.payload), one.segment, one.address) for one in b.receive()] == [
        (240, 100, A),
        (200, 100, A),
        (200, 200, A),
        (200, 200, C),
        (200, 200, C),
    ]
    for socket in (a, b, c):
        socket.close()


async def test_without_joining_each_read_brings_one(network: Network) -> None:
    a, b = network.socket(A), network.socket(B)
    b.joins = False
    a.send([burst(5, 100, B)])
    assert [one.segment for one in b.receive()] == [100] * 5
    a.close()
    b.close()


async def test_a_call_brings_a_bounded_batch_and_the_reader_is_called_again(network: Network) -> None:
    a, b = network.socket(A), network.socket(B)
    sizes: list[int] = []
    b.attach(network.loop, lambda: sizes.append(sum(len(one.payload) // one.segment for one in b.receive())))
    a.send([burst(1000, 100, B)])
    await asyncio.sleep(0.001)
    assert sum(sizes) == 1000
    assert max(sizes) < RECEIVE_DATAGRAMS + MAX_SEGMENTS
    a.close()
    b.close()


async def test_unread_inbox_is_bounded(network: Network) -> None:
    a, b = network.socket(A), network.socket(B)
    count = INBOX_BYTES // 60_000 + 5
    for _ in range(count):
        a.send([burst(1, 60_000, B)])
    assert b.overflowed == 5
    a.close()
    b.close()


async def test_traffic_passes_the_senders_uplink_and_the_receivers_downlink(network: Network) -> None:
    a = network.socket(A, up=Conditions(delay=0.01))
    b = network.socket(B, down=Conditions(delay=0.02))
    arrivals: list[float] = []
    start = network.loop.time()
    b.attach(network.loop, lambda: (b.receive(), arrivals.append(round(network.loop.time() - start, 9))))
    a.send([burst(1, 100, B)])
    await asyncio.sleep(1)
    assert arrivals == [0.03]
    a.close()
    b.close()


async def test_moved_socket_is_reached_at_the_new_address_only(network: Network) -> None:
    a, b = network.socket(A, down=Conditions(delay=0.01)), network.socket(B)
    b.send([burst(1, 100, A)])
    a.move(C)
    b.send([burst(1, 200, A)])
    b.send([burst(1, 300, C)])
    await asyncio.sleep(1)
    assert [one.segment for one in a.receive()] == [300]
    assert (a.astray, network.unroutable, a.local_address) == (1, 1, C)
    a.send([burst(1, 100, B)])
    assert b.receive()[0].address == C
    a.close()
    b.close()


async def test_an_empty_or_oversize_datagram_is_never_delivered(network: Network) -> None:
    a, b = network.socket(A), network.socket(B)
    a.send([burst(1, 65_508, B)])
    assert a.counters.dropped_oversize == 1
    assert b.receive() == []
    a.close()
    b.close()


async def test_two_runs_of_one_seed_are_one(network: Network) -> None:
    traces = []
    for _ in range(2):
        net = Network(network.loop, seed=3)
        start = network.loop.time()
        a = net.socket(A, both=Conditions.wan(mbit=10, rtt=0.04, loss=0.05, jitter=0.01))
        b = net.socket(B)
        a.up.trace = []
        a.send([burst(60, 1200, B)])
        await asyncio.sleep(1)
        a.send([burst(60, 1200, B)])
        await asyncio.sleep(1)
        traces.append([(round(at - start, 9), *rest) for at, *rest in a.up.trace])
        a.close()
        b.close()
    assert traces[0] == traces[1]
    assert any(what == "lost" for _, what, *_ in traces[0])
