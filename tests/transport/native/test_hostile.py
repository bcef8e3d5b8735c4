"""Attacks that aioquic 1.7.2 and other QUIC libraries were open to, on the native engine: frames,
acknowledgements, addresses, ends."""

from __future__ import annotations

import time

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed, Connected, Received
from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import (
    CLIENT,
    EDGE,
    ack_frame,
    forge,
    new_cid_frame,
)
from tests.transport.engine_pairings import needs_native
from tests.transport.hostile_peer import MIB, NATIVE_CLIENT_ATTACKED, edge_is_attacked, has_errors, held

__all__ = ["edge_is_attacked"]

pytestmark = needs_native

KIB = 1024


# Connection IDs


def test_a_connection_id_that_is_not_there_is_not_popped(attack, caplog):
    """The sequence at which aioquic's list of a peer's connection IDs was empty."""
    spare = attack.hostile.quic._peer_cid_available[0].cid
    attack.say(new_cid_frame(20, 16))
    attack.say(new_cid_frame(17, 16))
    attack.say(b"\x01", cid=spare)
    attack.say(new_cid_frame(21, 18))
    assert not attack.is_over()
    attack.say(new_cid_frame(22, 22), new_cid_frame(22, 22), new_cid_frame(24, 24))
    attack.say(new_cid_frame(25, 26))
    assert attack.defender.closed_with(QuicErrorCode.FRAME_ENCODING_ERROR)
    assert not has_errors(caplog)


def test_retirement_in_the_packet_that_ends_the_handshake(make_pair):
    """aioquic's edge raised KeyError for a connection ID that it had yet to issue."""
    pair = make_pair()
    client = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    forged = []
    deliver = pair.edge.engine.receive

    def receive(batch, now):
        if client.quic._handshake_complete and not forged:
            forged.append(forge(client, b"\x19\x05"))
            batch = [Received(forged[0], len(forged[0]), CLIENT), *batch]
        deliver(batch, now)

    pair.edge.engine.receive = receive
    pair.settle(1)
    assert forged
    assert pair.edge.of(Connected)
    # The client, which has not retired it, may find that it is given one too many.
    assert {event.cause for event in pair.edge.of(Closed)} <= {CloseCause.PEER}
    assert pair.edge.engine._engine.counters()["panics"] == 0


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(lambda number: [b"\x01"], id="ping"),
        pytest.param(lambda number: [b"\x19" + encode(1 + number)], id="retire"),
        pytest.param(lambda number: [new_cid_frame(20 + number, 20 + number)], id="new"),
        pytest.param(
            lambda number: [b"\x1a" + (number * 30 + i).to_bytes(8, "big") for i in range(30)], id="challenge"
        ),
    ],
)
def test_answers_that_are_not_acknowledged_are_bounded(attack, frames):
    """NEW_CONNECTION_ID and PATH_CHALLENGE floods (CVE-2024-22189, CVE-2023-49295): what answers them counts
    against the congestion window, and a peer that acknowledges nothing gets no more than that."""
    sizes = []
    for number in range(40_000):
        attack.say(*frames(number))
        attack.swallow(0.001)
        if number % 20_000 == 19_999:
            sizes.append(held())
        if attack.is_over():
            return
    assert sizes[1] - sizes[0] < 256 * KIB


def test_too_many_connection_ids(attack):
    attack.say(new_cid_frame(20, 10))
    assert attack.defender.closed_with(QuicErrorCode.CONNECTION_ID_LIMIT_ERROR)


@NATIVE_CLIENT_ATTACKED
def test_an_empty_token_ends_a_client(attack, caplog):
    attack.say(b"\x07\x00")
    attack.pair.settle(5)
    (closed,) = attack.defender.of(Closed)
    assert closed.cause is CloseCause.PROTOCOL
    assert attack.attacker.of(Closed)[0].cause is CloseCause.PEER
    assert not has_errors(caplog)


# Acknowledgements


def optimist(attack, limit: int, *, whole: bool) -> list[int]:
    """Acknowledge what the victim sends without having it, until it closes; the numbers that it sent."""
    stream = attack.stream()
    attack.say(b"\x10", encode(1 << 60), b"\x11", encode(stream), encode(1 << 60))
    attack.victim.ping()
    sent = attack.swallow()
    while not attack.is_over() and len(sent) < limit:
        attack.victim.write(stream, bytes(64 * KIB))
        known = sent[-1]
        sent += attack.swallow(0.01)
        if sent[-1] > known:
            attack.say(ack_frame(sent[-1], first=sent[-1] if whole else sent[-1] - known - 1))
    return sent


def test_an_optimistic_acknowledgement(attack):
    """A number below 64 is skipped, then one in each power of two."""
    sent = optimist(attack, 1000, whole=True)
    assert attack.defender.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)
    assert len(sent) < 400
    assert attack.victim.stats().congestion_window < 2 * MIB


def test_an_optimist_with_a_past(attack):
    """After honest packets the next gap is no further away than as many again."""
    stream = attack.stream()
    attack.victim.write(stream, bytes(128 * KIB))
    attack.pair.settle(1)
    for _ in range(10):
        attack.victim.write(stream, bytes(128 * KIB))
        attack.pair.settle(0.1)
    honest = attack.victim.stats().packets_sent
    optimist(attack, 6 * honest, whole=False)
    assert attack.defender.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)
    assert attack.victim.stats().packets_sent < 5 * honest


@pytest.mark.parametrize(
    "frame", [ack_frame(0), ack_frame(0) * 2, ack_frame(200, *[0] * 200)], ids=["old", "twice", "ranges"]
)
def test_many_acknowledgements_in_a_packet_cost_little(attack, frame):
    """quinn-proto has no limit for them and needs none: it looks at what is in flight only."""
    stream = attack.stream()
    for _ in range(200):
        attack.victim.write(stream, bytes(64 * KIB))
        attack.pair.settle(0.01)
    for _ in range(50):
        attack.victim.write(stream, bytes(64 * KIB))
        attack.swallow(0.001)
    assert attack.victim.stats().bytes_in_flight > 0
    attack.say(frame)
    began = time.process_time()
    for _ in range(50):
        attack.say(frame * (1000 // len(frame)))
    assert (time.process_time() - began) / 50 < 0.004  # 20 ms in aioquic
    assert not attack.is_over()


def test_gaps_in_packet_numbers_are_bounded(attack):
    """Every other number: what is to be acknowledged has a range for each, of which some are forgotten."""
    before = held()
    number = attack.hostile.quic._packet_number
    sent = attack.victim.stats().bytes_sent
    for _ in range(10_000):
        number += 2
        attack.say(b"\x01", number=number)
    attack.swallow(0.01)
    attack.hostile.quic._packet_number = number + 1
    assert held() - before < 64 * KIB
    assert attack.victim.stats().bytes_sent - sent < 10_000


# Keys


def bent(attack, count: int, bend: int, at: int) -> float:
    """Seconds that the victim takes for packets with a bit flipped."""
    datagrams = []
    for _ in range(count):
        datagram = bytearray(forge(attack.hostile, b"\x01" * 20))
        datagram[at] ^= bend
        datagrams.append(Received(bytes(datagram), len(datagram), attack.source))
    began = time.process_time()
    attack.defender.engine.receive(datagrams, attack.pair.now)
    return time.process_time() - began


def test_flipped_key_phases_cost_no_more_than_other_forgeries(attack):
    """The next phase's keys are there before they are needed."""
    usual = min(bent(attack, 2000, 1, -1) for _ in range(3))
    flipped = min(bent(attack, 2000, 4, 0) for _ in range(3))
    assert flipped < 2 * usual + 0.002
    assert not attack.is_over()
    stream = attack.stream()
    attack.hostile.write(stream, b"fine")
    attack.pair.settle()
    assert attack.defender.received[stream] == b"fine"


def test_no_tickets_are_given(make_pair, monkeypatch):
    """Without a ticket there is no early data, and nothing of it to be replayed (RFC 9001 section 9.2)."""
    tickets = []
    original = TunnelConnection.__init__

    def collecting(self, **arguments):
        original(self, **arguments)
        self._session_ticket_handler = tickets.append

    monkeypatch.setattr(TunnelConnection, "__init__", collecting)
    pair = make_pair()
    client, _ = pair.connect()
    pair.settle(1)
    assert client.quic._handshake_confirmed
    assert client.quic.tls.new_session_ticket_cb is not None
    assert not tickets
