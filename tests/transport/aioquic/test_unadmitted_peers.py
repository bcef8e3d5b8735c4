"""Unadmitted peers, floods, stateless resets and addresses, with the aioquic engine."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.engines.aioquic import stateless
from quictunnel.transport.engines.aioquic.engine import AioquicEngine
from quictunnel.transport.engines.aioquic.stateless import ResetTokens, RetryTokens, parse_long_header
from tests.transport.engine_pair import CLIENT, EDGE, settings_for
from tests.transport.unknown_peers import VERSION_1, initial, say


@pytest.fixture
def edge(paths) -> AioquicEngine:
    return AioquicEngine(settings_for("edge", paths))


def is_empty(engine: AioquicEngine) -> bool:
    return not (engine._connections or len(engine._routes) or len(engine._unadmitted) or engine._timers)


def test_every_new_address_gets_a_retry(edge):
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
        (initial(b"\x6b\x33\x43\xcf"), 1),
        (initial(b"\x1a\x2a\x3a\x4a", cid=b"1234567"), 0),
        (initial(cid=b"1234567"), 0),
    ],
    ids=lambda value: str(value)[:24],
)
def test_answers_to_other_versions_and_short_connection_ids(edge, datagram, answers):
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


def test_first_packets_that_do_not_open_take_places_and_are_forgotten(paths):
    edge = AioquicEngine(settings_for("edge", paths, retry=False, max_unadmitted=10))
    for number in range(50):
        say(edge, initial(cid=number.to_bytes(8, "big")))
    assert len(edge._unadmitted) == 10
    assert edge.counters.half_open_refused == 40
    edge.expire(6.5)
    assert is_empty(edge) or not edge._connections
    assert edge.counters.connections_failed == 10
    assert not list(edge.poll())
    assert not edge.has_connections()


# Stateless reset


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
def test_moving_client_gets_a_new_connection_id_and_window(make_pair, address, tells):
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
    while sent < 800_000:
        sent += client.write(stream, bytes(64 * 1024))
        pair.settle(0.01)
    pair.settle(2)
    assert len(pair.edge.received[stream]) == sent
    assert edge.address == address
    assert (edge.quic.recovery.cc is window) == (address[0] == CLIENT[0])
    assert edge.quic._network_paths[0].is_validated
