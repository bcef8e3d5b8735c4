"""The endpoint's manners: strangers, floods, resets, addresses."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed, Connected, Data, Received
from quictunnel.transport.engines.aioquic import AioquicEngine, stateless
from quictunnel.transport.engines.aioquic.stateless import ResetTokens, RetryTokens, parse_long_header
from tests.transport.engine_pair import CLIENT, EDGE, Pair, forge, inject, settings_for

VERSION_1 = (1).to_bytes(4, "big")


def initial(version: bytes = VERSION_1, cid: bytes = b"12345678", size: int = 1200) -> bytes:
    head = b"\xc0" + version + bytes([len(cid)]) + cid + b"\x08abcdefgh" + b"\x00" + b"\x44\x00"
    return head.ljust(size, b"\x55")


def say(engine: AioquicEngine, datagram: bytes, address=CLIENT, now: float = 1.0) -> list[bytes]:
    engine.receive([Received(datagram, len(datagram), address)], now)
    assert not list(engine.poll())
    return [part for burst in engine.transmit(now) for part in burst.parts]


@pytest.fixture
def edge(paths) -> AioquicEngine:
    return AioquicEngine(settings_for("edge", paths))


def is_empty(engine: AioquicEngine) -> bool:
    return not (engine._connections or len(engine._routes) or len(engine._strangers) or engine._timers)


def test_every_new_address_meets_a_retry(edge):
    (answer,) = say(edge, initial())
    assert answer[0] & 0xF0 == 0xF0
    assert len(answer) < 200
    assert is_empty(edge)


def test_a_retry_token_is_bound_and_short_lived():
    tokens = RetryTokens(b"key", random.Random(1).randbytes)
    token = tokens.seal(CLIENT, b"original", b"retrycid", 5.0)
    assert tokens.open(token, CLIENT, b"retrycid", 6.0) == b"original"
    assert tokens.open(token, ("198.51.100.8", CLIENT[1]), b"retrycid", 6.0) is None
    assert tokens.open(token, (CLIENT[0], 1), b"retrycid", 6.0) is None
    assert tokens.open(token, CLIENT, b"othercid", 6.0) is None
    assert tokens.open(token, CLIENT, b"retrycid", 5.0 + stateless.RETRY_LIFETIME + 1) is None
    for at in range(len(token)):
        forged = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        assert tokens.open(forged, CLIENT, b"retrycid", 6.0) is None
    assert tokens.open(token[:20], CLIENT, b"retrycid", 6.0) is None
    assert RetryTokens(b"other", random.randbytes).open(token, CLIENT, b"retrycid", 6.0) is None


def stolen_token(pair: Pair) -> bytes:
    """Return the client's datagram after a Retry, which does not arrive."""
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.turn()
    pair.turn()
    pair.sent = []
    pair.edge.engine.receive([], pair.now)
    pair.up.down = True
    pair.turn()
    (second,) = [d for side, d in pair.sent if side == "client" and len(d) >= 1200][:1]
    return second


def test_a_stolen_token_is_refused_without_memory(make_pair):
    pair = make_pair()
    second = stolen_token(pair)
    (answer,) = say(pair.edge.engine, second, ("203.0.113.66", 666), pair.now)
    assert len(answer) < len(second)
    assert is_empty(pair.edge.engine)


def test_a_refused_token_ends_the_attempt_at_once(make_pair, monkeypatch):
    monkeypatch.setattr(stateless, "RETRY_LIFETIME", -1.0)
    pair = make_pair()
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.settle()
    (closed,) = pair.client.of(Closed)
    assert closed.cause is CloseCause.HANDSHAKE
    assert closed.code == QuicErrorCode.INVALID_TOKEN


@pytest.mark.parametrize(
    ("datagram", "answers"),
    [
        (initial(b"\x1a\x2a\x3a\x4a"), 1),
        (initial(b"\x6b\x33\x43\xcf"), 1),
        (initial(b"\x1a\x2a\x3a\x4a", size=1199), 0),
        (initial(b"\x1a\x2a\x3a\x4a", cid=b"1234567"), 0),
        (initial(b"\x00\x00\x00\x00"), 0),
        (initial(cid=b"1234567"), 0),
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


def test_version_negotiation_says_version_1(edge):
    (answer,) = say(edge, initial(b"\x1a\x2a\x3a\x4a", cid=b"1" * 30))
    header = parse_long_header(answer)
    assert header is not None
    assert header.version == 0
    assert answer.endswith(VERSION_1)
    assert header.source == b"1" * 30
    assert edge.counters.version_negotiations_sent == 1


def test_10_000_random_datagrams_leave_nothing(edge):
    rng = random.Random(3)
    for _ in range(10_000):
        datagram = rng.randbytes(rng.choice((0, 1, 20, 21, 60, 1200, 1400)))
        if rng.random() < 0.5:
            datagram = (bytes([0xC0 | rng.randrange(64)]) + VERSION_1 + b"\x08" + datagram)[
                : max(len(datagram), 8)
            ]
        edge.receive([Received(datagram, max(len(datagram), 1), ("203.0.113.1", rng.randrange(65536)))], 1.0)
    replies = edge.transmit(1.0)
    assert len(replies) <= 2048
    assert is_empty(edge)


def test_half_open_handshakes_are_capped_and_forgotten(paths):
    edge = AioquicEngine(settings_for("edge", paths, retry=False, max_strangers=10))
    for number in range(50):
        say(edge, initial(cid=number.to_bytes(8, "big")))
    assert len(edge._strangers) == 10
    assert edge.counters.half_open_refused == 40
    edge.expire(6.5)
    assert is_empty(edge) or not edge._connections
    assert edge.counters.connections_failed == 10
    assert not list(edge.poll())
    assert not edge.has_connections()


@pytest.mark.parametrize("retry", [True, False])
def test_a_handshake_that_stops_is_given_up_on_both_sides(make_pair, retry):
    pair = make_pair(edge={"retry": retry})
    pair.up.delay = pair.down.delay = 0.01
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    assert pair.run(lambda: bool(len(pair.edge.engine._strangers)), limit=1)
    pair.up.down = True
    pair.run(limit=4.9)
    assert pair.edge.engine.has_connections()
    pair.run(limit=3)
    assert not pair.edge.events
    assert not pair.edge.engine.has_connections()
    assert not len(pair.edge.engine._strangers)
    if retry:
        assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.PEER]


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


# Stateless reset


def restarted(pair: Pair, paths) -> None:
    pair.edge.engine = AioquicEngine(settings_for("edge", paths))
    pair.edge.connections.clear()


def test_a_restarted_edge_is_noticed_at_once(make_pair, paths):
    pair = make_pair()
    client, _ = pair.connect()
    restarted(pair, paths)
    client.ping()
    pair.settle(0.1)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.RESET]
    assert not pair.client.engine.has_connections()
    assert pair.edge.engine.counters.resets_sent == 1


def test_another_key_cannot_reset(make_pair, paths):
    pair = make_pair()
    client, _ = pair.connect()
    pair.edge.engine = AioquicEngine(settings_for("edge", paths, reset_key=b"z" * 32))
    client.ping()
    pair.settle(1)
    assert not pair.client.of(Closed)


def test_resets_are_shorter_than_their_trigger_and_rationed():
    tokens = ResetTokens(b"key", random.Random(1).randbytes)
    for size in range(22, 1300, 50):
        answer = tokens.answer(bytes(size), b"cid", 1.0)
        assert answer is not None
        assert 21 <= len(answer) < size
        assert answer[0] & 0xC0 == 0x40
        assert answer.endswith(tokens.token(b"cid"))
    assert tokens.answer(bytes(21), b"cid", 1.0) is None
    sent = sum(tokens.answer(bytes(100), b"cid", 2.0) is not None for _ in range(5000))
    assert sent <= stateless.RESET_BURST
    assert sum(tokens.answer(bytes(100), b"cid", 3.0) is not None for _ in range(5000)) == stateless.RESET_RATE


# Addresses


@pytest.mark.parametrize("address", [(CLIENT[0], 50_001), ("198.51.100.99", 50_000)], ids=["port", "host"])
@pytest.mark.parametrize("tells", [False, True], ids=["unnoticed", "migrate"])
def test_the_client_comes_from_another_address(make_pair, address, tells):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 5e6
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    sent = 0
    while sent < 400_000:
        sent += client.write(stream, bytes(64 * 1024))
        pair.settle(0.01)
    window = edge.quic.recovery.cc
    used = client.quic._peer_cid.cid
    pair.move_client(address)
    if tells:
        client.migrate()
        assert client.quic._peer_cid.cid != used
    last = pair.now
    longest = 0.0
    while sent < 2_000_000:
        sent += client.write(stream, bytes(64 * 1024))
        before = len(pair.edge.received.get(stream, b""))
        pair.settle(0.01)
        if len(pair.edge.received[stream]) > before:
            longest, last = max(longest, pair.now - last), pair.now
    edge.write(stream, b"still here")
    pair.settle(2)
    assert len(pair.edge.received[stream]) == sent
    assert pair.client.received[stream].endswith(b"still here")
    assert edge.address == address
    assert longest < 0.5
    assert (edge.quic.recovery.cc is window) == (address[0] == CLIENT[0])
    assert edge.quic._network_paths[0].is_validated


def test_ten_moves_in_three_seconds(make_pair):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 5e6
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    sent = answered = 0
    for number in range(10):
        pair.move_client((f"198.51.100.{20 + number}", 40_000 + number))
        for _ in range(30):
            sent += client.write(stream, bytes(4096))
            answered += edge.write(stream, bytes(4096))
            pair.settle(0.01)
    pair.settle(3)
    assert len(pair.edge.received[stream]) == sent
    assert len(pair.client.received[stream]) == 1 + answered
    assert len(edge.quic._network_paths) <= 8


def copy_a_packet(pair: Pair) -> tuple[bytes, int]:
    """A client's packet comes from elsewhere as well, before the edge has it; and the bytes that went there."""
    client, edge = pair.connect()
    datagram = forge(client, b"\x01" * 50)
    pair.sent = []
    spoofed = ("203.0.113.5", 5)
    pair.edge.engine.receive([Received(datagram, len(datagram), spoofed)], pair.now)
    stream = edge.open()
    edge.write(stream, bytes(20_000))
    reflected = 0
    end = pair.now + 3
    while pair.now < end:
        for burst in pair.edge.engine.transmit(pair.now):
            if burst.address == spoofed:
                reflected += sum(map(len, burst.parts))
            else:
                pair.deliver(pair.edge, [burst])
        pair.turn()
        pair.now = min(max(pair.next_time() or end, pair.now + 0.001), end)
    assert edge.address == CLIENT
    pair.settle(3)
    assert len(pair.client.received[stream]) == 20_000
    return datagram, reflected


def test_a_copied_packet_does_not_carry_a_connection_away(make_pair):
    datagram, reflected = copy_a_packet(make_pair())
    assert reflected <= 3 * len(datagram)


@pytest.mark.parametrize("prefix", ["", "::ffff:"], ids=["ipv4", "dual-stack"])
def test_a_public_client_does_not_become_a_neighbour(make_pair, prefix):
    pair = make_pair()
    pair.client_address = (prefix + "8.8.4.4", 4000)
    client, edge = pair.connect()
    inject(pair, client, b"\x01" * 50, address=(prefix + "127.0.0.1", 53))
    inject(pair, client, b"\x01" * 50, address=(prefix + "10.0.0.1", 53))
    assert edge.address == (prefix + "8.8.4.4", 4000)
    assert len(edge.quic._network_paths) == 1
    inject(pair, client, b"\x01" * 50, address=(prefix + "8.8.8.8", 53))
    assert edge.address == (prefix + "8.8.8.8", 53)


def test_a_client_hears_its_edge_only(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    inject(pair, edge, b"\x0e\x01\x00\x01x", address=("203.0.113.5", 5))
    assert not pair.client.of(Data)
    assert stream == 1
    assert client.address == EDGE
