"""The endpoint's manners towards those it does not know, and what floods leave behind."""

from __future__ import annotations

import random

import pytest

from quictunnel.transport.engine import Received
from quictunnel.transport.engines import create_engine
from tests.transport.aioquic.test_strangers import VERSION_1, initial, say
from tests.transport.engine_pair import CLIENT, settings_for
from tests.transport.engine_pairings import needs_native

pytestmark = needs_native


@pytest.fixture
def edge(paths):
    return create_engine(settings_for("edge", paths), "native")


def is_empty(engine) -> bool:
    return engine._engine.population() == (0, 0) and engine.timeout() is None


@pytest.mark.parametrize(
    ("datagram", "answers"),
    [
        (initial(b"\x1a\x2a\x3a\x4a"), 1),
        (initial(b"\x1a\x2a\x3a\x4a", size=1199), 0),
        (initial(b"\x00\x00\x00\x00"), 0),
        (initial(cid=b"1" * 21), 0),
        (initial(size=1199), 0),
        (b"\xe0" + initial()[1:], 0),
        (b"\xc0", 0),
        (b"\xc0" + VERSION_1 + b"\xff" * 1300, 0),
        (b"", 0),
    ],
    ids=lambda value: str(value)[:24],
)
def test_answers_to_strangers(edge, datagram, answers):
    assert len(say(edge, datagram)) == answers
    assert is_empty(edge)


def test_10_000_random_datagrams_leave_nothing(edge):
    rng = random.Random(3)
    for _ in range(10_000):
        datagram = rng.randbytes(rng.choice((0, 1, 20, 21, 60, 1200, 1400)))
        if rng.random() < 0.5:
            head = bytes([0xC0 | rng.randrange(64)]) + VERSION_1 + b"\x08"
            datagram = (head + datagram)[: max(len(datagram), 8)]
        edge.receive([Received(datagram, max(len(datagram), 1), ("203.0.113.1", rng.randrange(65536)))], 1.0)
    assert len(list(edge.transmit(1.0))) <= 2048
    assert is_empty(edge)
    assert edge._engine.counters()["panics"] == 0


@pytest.mark.parametrize("retry", [True, False])
def test_10_000_mutated_packets_of_a_handshake_leave_nothing(make_pair, retry, engines):
    if engines != ("native", "native"):
        pytest.skip("the pairing does not matter")
    pair = make_pair(edge={"retry": retry})
    pair.sent = []
    pair.connect()
    originals = [datagram for side, datagram in pair.sent if side == "client"]
    rng = random.Random(4)
    for _ in range(10_000):
        datagram = bytearray(rng.choice(originals))
        for _ in range(rng.randrange(1, 4)):
            datagram[rng.randrange(min(len(datagram), 60))] = rng.randrange(256)
        source = rng.choice((CLIENT, ("203.0.113.1", rng.randrange(1, 65536))))
        pair.edge.engine.receive([Received(bytes(datagram), len(datagram), source)], pair.now)
        pair.now += 0.0001
        list(pair.edge.engine.transmit(pair.now))
    pair.settle(10)
    engine = pair.edge.engine._engine
    assert engine.counters()["panics"] == 0
    assert engine.population() == (1, 0)
    stream = pair.connection.open()
    pair.connection.write(stream, b"alive")
    pair.settle()
    assert pair.edge.received[stream] == b"alive"


def test_half_open_handshakes_are_capped_and_forgotten(paths):
    edge = create_engine(settings_for("edge", paths, retry=False, max_strangers=10), "native")
    for number in range(50):
        client = create_engine(settings_for("client", paths), "native")
        client.connect(("192.0.2.1", 4433), "edge.test", 1.0)
        for burst in client.transmit(1.0):
            edge.receive([Received(burst.parts[0], burst.segment, (CLIENT[0], 1000 + number))], 1.0)
    assert edge._engine.population() == (10, 10)
    assert edge.counters.half_open_refused >= 40
    edge.expire(6.5)
    list(edge.transmit(6.5))
    assert edge._engine.population()[1] == 0
    assert edge.counters.connections_failed == 10
    assert not list(edge.poll())
    edge.expire(60.0)
    assert not edge.has_connections()
    assert is_empty(edge)
