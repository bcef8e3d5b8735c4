"""Many streams over links that delay, lose, repeat, corrupt and reorder packets, or carry none for a while."""

from __future__ import annotations

import hashlib
import random

import pytest

from quictunnel.transport.engine import Closed, Connected, Data, Writable
from tests.transport.engine_pair import EDGE, Link, Pair

KIB = 1024
STREAMS = 200
RATE = 100e6 / 8


def shape(pair: Pair, *, delay: float = 0.025, rate: float = RATE, **faults: float) -> None:
    pair.up = Link(delay=delay, rate=rate, queue=625_000, **faults)
    pair.down = Link(delay=delay, rate=rate, queue=625_000, **faults)


class Bulk:
    """Writes ``size`` seeded bytes to each stream as it takes them, and checks what arrives by digest."""

    def __init__(self, pair: Pair, size: int, streams: int = STREAMS) -> None:
        self.pair = pair
        rng = random.Random(7)
        self.blocks = [rng.randbytes(size) for _ in range(8)]
        self.sent = {}
        self.digests = {}
        self.ended = set()
        self.last = pair.now
        self.longest_pause = 0.0
        self.bytes = 0
        self.size = size
        client, edge = pair.connection, pair.edge.connections[-1]
        pair.client.on_event = self.on_event
        pair.edge.on_event = self.on_event
        self.total = 0
        for _ in range(streams):
            stream = edge.open()
            assert stream is not None
            for side in (edge, client):
                self.sent[side, stream] = 0
                self.total += 1
        self.edge = edge
        for stream in {number for _, number in self.sent}:
            self.push(edge, stream)

    def push(self, side, stream: int) -> None:
        at = self.sent[side, stream]
        block = self.blocks[stream % 8]
        if at < self.size:
            self.sent[side, stream] = at = at + side.write(stream, memoryview(block)[at:])
            if at == self.size:
                side.finish(stream)

    def on_event(self, side, event) -> None:
        match event:
            case Data(stream, chunks, end):
                self.longest_pause = max(self.longest_pause, self.pair.now - self.last)
                self.last = self.pair.now
                digest = self.digests.get((side, stream))
                if digest is None:
                    digest = self.digests[side, stream] = hashlib.sha256()
                    if side is not self.edge:
                        self.push(side, stream)
                for chunk in chunks:
                    digest.update(chunk)
                    self.bytes += len(chunk)
                if end:
                    self.ended.add((side, stream))
            case Writable(stream):
                self.push(side, stream)
            case Closed():
                pytest.fail(f"{event}")

    def done(self) -> bool:
        return len(self.ended) == self.total

    def check(self) -> None:
        for (_, stream), digest in self.digests.items():
            assert digest.digest() == hashlib.sha256(self.blocks[stream % 8]).digest()


FAULTS = {
    "clean": {},
    "loss-1": {"loss": 0.01},
    "loss-5": {"loss": 0.05},
    "repeated": {"duplicate": 0.02},
    "corrupted": {"corrupt": 0.01},
    "overtaken": {"jitter": 0.01},
    "all": {"loss": 0.01, "duplicate": 0.02, "corrupt": 0.01, "jitter": 0.01},
}


SLOW = [pytest.mark.slow, pytest.mark.aioquic_is_long]


@pytest.mark.parametrize(
    "faults",
    [pytest.param(faults, id=name, marks=[] if name == "all" else SLOW) for name, faults in FAULTS.items()],
)
def test_200_streams_busy_both_ways(make_pair, engines, faults):
    pair = make_pair()
    shape(pair, **faults)
    pair.connect()
    size = 40_000 if faults else 100_000
    bulk = Bulk(pair, size)
    began = pair.now
    assert pair.run(bulk.done, limit=600)
    bulk.check()
    assert bulk.longest_pause < 3
    took = pair.now - began
    goodput = bulk.bytes / took
    pair.settle(2)
    assert pair.connection.stats().streams_open == bulk.edge.stats().streams_open == 0
    if not faults and engines == ("aioquic", "aioquic"):
        # Both directions together; slow start and the last round trip are part of it.
        assert goodput > 2 * 0.7 * RATE


@pytest.mark.parametrize("seconds", [3, 12])
def test_bytes_move_soon_after_a_black_hole(make_pair, seconds):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 2e6
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100_000))
    pair.settle(0.03)
    pair.up.down = pair.down.down = True
    pair.run(limit=seconds)
    before = len(pair.client.received.get(stream, b""))
    assert before < 100_000
    pair.up.down = pair.down.down = False
    healed = pair.now
    assert pair.run(lambda: len(pair.client.received.get(stream, b"")) == 100_000, limit=10)
    assert pair.now - healed < 2


@pytest.mark.parametrize("outage", [2, 5, 10, 20, 40])
def test_bytes_written_in_a_black_hole_move_soon_after_it(make_pair, outage):
    pair = make_pair(client={"idle_timeout": 60.0}, edge={"idle_timeout": 60.0})
    _, edge = pair.connect()
    pair.up.delay = pair.down.delay = 0.02
    stream = edge.open()
    edge.write(stream, bytes(20 * KIB))
    pair.settle(1)
    pair.up.down = pair.down.down = True
    edge.write(stream, bytes(100 * KIB))
    pair.run(limit=outage)
    pair.up.down = pair.down.down = False
    healed = pair.now
    pair.client.events.clear()
    assert pair.run(lambda: bool(pair.client.of(Data)), limit=10)
    assert pair.now - healed <= 1.5
    assert pair.run(lambda: len(pair.client.received[stream]) == 120 * KIB, limit=10)


def test_handshakes_under_30_percent_loss(make_pair):
    took = []
    for seed in range(20):
        pair = make_pair(seed=seed, client={"handshake_timeout": 20.0}, edge={"handshake_timeout": 20.0})
        for link in (pair.up, pair.down):
            link.delay, link.loss = 0.02, 0.3
        pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
        began = pair.now
        assert pair.run(lambda pair=pair: bool(pair.client.of(Connected)), limit=20), pair.client.events
        took.append(pair.now - began)
    assert sorted(took)[-2] <= 10


def test_the_window_does_not_grow_while_it_is_not_used(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    pair.up.delay = pair.down.delay = 0.02
    stream = edge.open()
    for _ in range(400):
        edge.write(stream, bytes(KIB))
        pair.settle(0.04)
    assert edge.stats().congestion_window < 40_000
