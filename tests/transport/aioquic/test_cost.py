"""Tests of the cost of a packet and of an idle stream."""

from __future__ import annotations

import time

import pytest

from quictunnel.transport.engine import Received
from tests.transport.engine_pair import CLIENT, EDGE, Pair

pytestmark = pytest.mark.alone

SIZE = 3_000_000


def seconds_a_packet(pair: Pair, stream: int) -> float:
    """Bulk from the edge to the client, engines back to back, without the driver's link."""
    edge, client = pair.edge.engine, pair.client.engine
    writer = pair.edge.connections[0]
    block = bytes(65_536)
    done = packets = 0
    began = time.process_time()
    while done < SIZE:
        done += writer.write(stream, block)
        for source, target, address in ((edge, client, EDGE), (client, edge, CLIENT)):
            batch = []
            for burst in source.transmit(pair.now):
                packets += len(burst.parts)
                batch.append(Received(b"".join(burst.parts), burst.segment, address))
            target.receive(batch, pair.now)
            due = target.timeout()
            if due is not None and due <= pair.now:
                target.expire(pair.now)
            for _ in target.poll():
                pass
        pair.now += 0.001
    return (time.process_time() - began) / packets


def test_idle_streams_cost_a_packet_nothing(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    busy = edge.open()
    edge.write(busy, b"x")
    pair.settle()
    seconds_a_packet(pair, busy)
    alone = min(seconds_a_packet(pair, busy) for _ in range(3))
    for _ in range(5000):
        edge.write(edge.open(), b"idle")
    pair.settle(1)
    assert edge.stats().streams_open == 5001
    crowded = min(seconds_a_packet(pair, busy) for _ in range(3))
    assert crowded < 1.5 * alone


def test_an_idle_stream_is_small(make_pair):
    import tracemalloc

    pair = make_pair()
    _, edge = pair.connect()
    tracemalloc.start()
    for _ in range(2000):
        edge.write(edge.open(), b"idle")
    pair.settle(1)
    pair.client.events.clear()
    pair.client.received.clear()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # Both sides of it, the driver's notes not counted.
    assert used / 2000 < 3000
