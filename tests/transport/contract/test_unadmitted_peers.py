"""Peers that an engine does not know: how little they are answered, and what they leave behind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from quictunnel.connection.closed_port import PROBE
from quictunnel.transport.engine import Closed, Connected, Received
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import CLIENT, settings_for, stream_frame
from tests.transport.engine_pairings import ENGINES, aioquic_clients, each_engine, needs_native, same_engines
from tests.transport.engine_state import is_empty, panics, population
from tests.transport.hostile_peer import CLIENTS_ATTACKED
from tests.transport.unknown_peers import VERSION_1, copy_a_packet, initial, say, stolen_token

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import Engine


@pytest.fixture(params=[pytest.param(name, marks=[needs_native] if name == "native" else []) for name in ENGINES])
def edge(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Engine:
    return create_engine(settings_for("edge", paths), request.param)


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
        (PROBE, 0),  # of a client that looks whether the edge's port is closed
    ],
    ids=lambda value: str(value)[:24],
)
def test_answers_to_unknown_peers(edge, datagram, answers):
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
    assert panics(edge) == 0


@pytest.mark.parametrize("retry", [True, False])
@same_engines
def test_10_000_mutated_packets_of_a_handshake_leave_nothing(make_pair, retry):
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
    assert panics(pair.edge.engine) == 0
    assert population(pair.edge.engine) == (1, 0)
    stream = pair.connection.open()
    pair.connection.write(stream, b"alive")
    pair.settle()
    assert pair.edge.received[stream] == b"alive"


@each_engine
def test_half_open_handshakes_are_capped_and_forgotten(paths, name):
    edge = create_engine(settings_for("edge", paths, retry=False, max_unadmitted=10), name)
    for number in range(50):
        client = create_engine(settings_for("client", paths), name)
        client.connect(("192.0.2.1", 4433), "edge.test", 1.0)
        for burst in client.transmit(1.0):
            edge.receive([Received(burst.parts[0], burst.segment, (CLIENT[0], 1000 + number))], 1.0)
    assert population(edge) == (10, 10)
    assert edge.counters.half_open_refused >= 40
    list(edge.transmit(1.0))
    while (due := edge.timeout()) is not None and due <= 6.5:
        edge.expire(due)
        list(edge.transmit(due))
    assert population(edge)[1] == 0
    assert edge.counters.connections_failed == 10
    assert not list(edge.poll())
    while (due := edge.timeout()) is not None:
        edge.expire(due)
        list(edge.transmit(due))
    assert not edge.has_connections()
    assert is_empty(edge)


@pytest.mark.parametrize("retry", [True, False])
def test_a_handshake_that_stops_is_given_up_on_both_sides(make_pair, retry):
    pair = make_pair(edge={"retry": retry})
    pair.up.delay = pair.down.delay = 0.01
    pair.connection = pair.client.engine.connect(("192.0.2.1", 4433), "edge.test", pair.now)
    assert pair.run(pair.edge.engine.has_connections, limit=1)
    pair.up.down = True
    pair.run(limit=4.9)
    assert pair.edge.engine.has_connections()
    pair.run(limit=8)
    assert not pair.edge.events
    assert not pair.edge.engine.has_connections()
    assert pair.edge.engine.counters.connections_failed == 1
    assert len(pair.client.of(Closed)) == (1 if retry or not pair.client.of(Connected) else 0)


def test_a_stolen_token_is_refused_without_memory(make_pair):
    pair = make_pair()
    second = stolen_token(pair)
    (answer,) = say(pair.edge.engine, second, ("203.0.113.66", 666), pair.now)
    assert len(answer) < len(second)
    assert population(pair.edge.engine) == (0, 0)


@aioquic_clients
def test_a_copied_packet_does_not_carry_a_connection_away(make_pair, engines):
    datagram, reflected = copy_a_packet(make_pair())
    # quinn-proto pads the challenge whatever it received (RFC 9000 section 8.2.1 wants it shorter). One such is
    # let through, or a client that a router gave another port would be lost; a packet can be copied once.
    assert reflected <= 3 * len(datagram) + (1200 if engines[1] == "native" else 0)


@CLIENTS_ATTACKED
def test_a_client_hears_its_edge_only(attack):
    stream = attack.stream()
    attack.say(stream_frame(stream, 0, b"x"), address=("203.0.113.5", 5))
    assert not attack.defender.received
    attack.say(stream_frame(stream, 0, b"x"))
    assert attack.defender.received[stream] == b"x"


def test_early_data_is_dropped(edge):
    zero_rtt = b"\xd0" + initial()[1:]
    assert say(edge, zero_rtt) == []
    assert population(edge) == (0, 0)


def test_handshake_datagrams_duplicated_from_two_addresses(make_pair):
    """quinn's CVE-2024-45311: a first packet that came again while it was being answered was a panic."""
    for retry in (True, False):
        pair = make_pair(edge={"retry": retry})
        deliver = pair.edge.engine.receive

        def receive(batch, now, deliver=deliver):
            for received in batch:
                deliver([received, received], now)
                deliver([received._replace(address=("203.0.113.9", 9)), received], now)

        pair.edge.engine.receive = receive
        client, _ = pair.connect()
        stream = client.open()
        client.write(stream, b"once")
        pair.settle()
        assert pair.edge.received[stream] == b"once"
        assert panics(pair.edge.engine) == 0
        pair.settle(20)
        assert population(pair.edge.engine) == (1, 0)


def test_datagrams_without_bytes(attack):
    """curl's CVE-2026-11352; an empty read of the socket is one of them."""
    empty = Received(b"", 0, attack.source)
    dropped = attack.defender.engine.counters.datagrams_dropped
    attack.defender.engine.receive([empty, Received(b"", 1200, attack.source), empty], attack.pair.now)
    assert attack.swallow() == []
    if attack.defender.engine.name == "native":  # the other engine counts them
        assert attack.defender.engine.counters.datagrams_dropped == dropped
    assert not attack.is_over()
