"""Many streams, busy both ways, over paths that delay, lose, repeat, break and overtake."""

from __future__ import annotations

import hashlib
import random

import pytest

from quictunnel.transport.engine import Closed, Data, Writable
from tests.transport.engine_pair import Link, Pair

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


def test_200_streams_while_the_clients_address_changes(make_pair):
    pair = make_pair()
    pair.connect()
    shape(pair, loss=0.001)
    bulk = Bulk(pair, 40_000)
    for number in range(20):
        pair.run(bulk.done, limit=0.3)
        pair.move_client((f"198.51.100.{number % 3}", 1000 + number))
        # Behind a NAT it would not know; its link asks when a busy peer falls silent.
        pair.connection.ping()
    assert pair.run(bulk.done, limit=300)
    bulk.check()
    assert bulk.longest_pause < 3


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_200_streams_busy_both_ways(make_pair, faults):
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
    if not faults:
        # Both directions together; slow start and the last round trip are part of it.
        assert goodput > 2 * 0.7 * RATE
