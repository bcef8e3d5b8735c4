"""An authentic peer that breaks the protocol: its connection ends, nothing else does, and no error is logged."""

from __future__ import annotations

import logging
import random

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import ack_frame, inject, lost_close, new_cid_frame, stream_frame
from tests.transport.engine_pairings import aioquic_clients
from tests.transport.hostile_peer import CLIENTS_ATTACKED, has_errors

# What breaks the protocol whoever says it, and what does when a client does.
FORBIDDEN = [
    ack_frame(3, first=9),
    ack_frame(3, *[0] * 10)[:-2],
    b"\x0a\x00\x40\x7f",
    b"\x0e\x01\xff\xff\xff\xff\xff\xff\xff\xff\x01x",
    b"\x30hello",
    b"\x31\x01x",
    b"\x21",
    b"\x40\x21xx",
    b"\x12" + b"\xff" * 8,
    b"\x18\x00\x00\x00" + bytes(16),
    b"\x19" + encode(10_000),
    b"\x06\x00\x08\x02\x00\x00\x04abcd",
]
FORBIDDEN_TO_CLIENTS = [
    stream_frame(2, 0, b"unidirectional"),
    stream_frame(3, 0, b"ours"),
    stream_frame(1, 0, b"not opened by the edge"),
    b"\x1e",
    b"\x07\x01t",
    b"\x04\x00\x00\xff",
    b"\x05\x01\x00",
]

# A stream that only the client could have begun.
FORBIDDEN_TO_EDGES = [
    stream_frame(0, 0, b"not opened by the client"),
    b"\x04\x00\x00\x01",
    b"\x05\x00\x00",
    b"\x11\x00\x01",
]


@aioquic_clients
@pytest.mark.parametrize("frame", [*FORBIDDEN, *FORBIDDEN_TO_CLIENTS], ids=repr)
def test_frames_that_break_the_protocol_end_their_connection_only(make_pair, frame, caplog):
    pair = make_pair()
    client, _ = pair.connect()
    other, _ = pair.connect()
    inject(pair, client, frame)
    pair.settle(5)
    (closed,) = pair.edge.of(Closed)
    assert closed.cause is CloseCause.PROTOCOL
    assert pair.client.of(Closed)[0].cause is CloseCause.PEER
    stream = other.open()
    other.write(stream, b"alive")
    pair.settle()
    assert pair.edge.received[stream] == b"alive"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@CLIENTS_ATTACKED
@pytest.mark.parametrize("frame", [*FORBIDDEN, *FORBIDDEN_TO_EDGES], ids=repr)
def test_frames_that_break_the_protocol_end_a_client(attack, frame, caplog):
    attack.say(frame)
    attack.pair.settle(5)
    (closed,) = attack.defender.of(Closed)
    assert closed.cause is CloseCause.PROTOCOL
    assert attack.attacker.of(Closed)[0].cause is CloseCause.PEER
    assert not has_errors(caplog)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([new_cid_frame(1 << 61, 1 << 61)] * 2, None),
        ([new_cid_frame((1 << 62) - 1, (1 << 62) - 1), new_cid_frame(3, 0)], None),
        ([new_cid_frame(20, 20, b"")], QuicErrorCode.FRAME_ENCODING_ERROR),
        ([new_cid_frame(20, 20, bytes(21))], QuicErrorCode.FRAME_ENCODING_ERROR),
    ],
    ids=["far", "farthest", "empty", "long"],
)
def test_connection_ids_out_of_range(attack, frames, code):
    for frame in frames:
        attack.say(frame)
    attack.swallow()
    assert [event.code for event in attack.defender.of(Closed)] == ([] if code is None else [code])


def test_retiring_connection_ids_out_of_order(attack):
    attack.pair.down.down = attack.pair.up.down = True
    for sequence in (2, 3, 4):
        attack.say(b"\x19" + encode(sequence))
    assert not attack.is_over()
    attack.say(b"\x19" + encode(10_000))
    assert attack.defender.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)


def test_an_acknowledgement_of_what_was_not_sent(attack):
    attack.victim.ping()
    (number,) = attack.swallow()
    attack.say(ack_frame(number))
    assert not attack.is_over()
    attack.say(ack_frame(number + 3))  # one more may have been sent since, and one skipped
    assert attack.defender.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)


def test_second_key_update_before_the_first_is_answered(attack):
    """A second one before the first was answered (RFC 9001 section 6.2)."""
    for _ in range(2):
        attack.hostile.quic.one_rtt.update_now()
        attack.say(b"\x01")
    assert attack.defender.closed_with(QuicErrorCode.KEY_UPDATE_ERROR)


def test_too_many_holes_are_no_fault_of_ours(attack, caplog):
    """A peer that can write errors into the log hides real ones."""
    stream = attack.stream()
    for offset in range(1, 4000, 200):
        attack.say(*(stream_frame(stream, at, b"y") for at in range(offset, offset + 200, 2)))
    (closed,) = attack.defender.of(Closed)
    assert closed.cause is CloseCause.PROTOCOL
    assert not has_errors(caplog)


@pytest.mark.parametrize("seed", range(10))
def test_random_frames(attack, seed, caplog):
    """quinn's CVE-2023-42805 was a panic on frames nobody had thought of."""
    rng = random.Random(seed)
    numbers = (0, 1, 2, 3, 4, 5, 8, 63, 64, 16_383, 16_384, 1 << 22, (1 << 30) - 1, 1 << 61, (1 << 62) - 1)
    streams = [attack.stream() for _ in range(3)]
    for _ in range(200):
        frames = []
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice([*range(0x1F), 0x30, 0x31, 0xAF, 0x40AF, rng.randrange(1 << 14)])
            fields = [encode(rng.choice((*numbers, *streams))) for _ in range(rng.randrange(6))]
            frames.append(encode(kind) + b"".join(fields) + rng.randbytes(rng.choice((0, 0, 8, 20, 30))))
        attack.say(*frames)
        attack.swallow(0.001)
        if attack.is_over():
            break
    assert attack.is_over()
    assert all(event.cause is not CloseCause.INTERNAL for event in attack.defender.of(Closed))
    assert not has_errors(caplog)


@aioquic_clients
def test_no_idle_time_out_is_not_an_idle_time_out_of_zero(make_pair, monkeypatch):
    original = TunnelConnection._idle_timeout
    monkeypatch.setattr(
        TunnelConnection, "_idle_timeout", lambda self: 30.0 if self._is_client else original(self)
    )
    pair = make_pair(client={"idle_timeout": 0.0})
    pair.connect()
    pair.run(limit=20)
    assert not pair.edge.of(Closed)


@aioquic_clients
def test_connection_close_is_repeated_while_packets_arrive(make_pair, engines):
    """The native engine says it once for each packet, about as long as what it answers: nothing is amplified."""
    said = lost_close(make_pair())
    assert 1 <= len(said) <= (8 if engines[1] == "native" else 4)
    assert max(map(len, said)) <= 48


def test_libraries_log_nothing_that_peers_write(make_pair, caplog):
    caplog.set_level(logging.DEBUG)
    pair = make_pair()
    client, _ = pair.connect()
    client.close(1, "text of the peer")
    pair.settle()
    assert "text of the peer" not in caplog.text
