"""Tests of responses that a peer can provoke at will: a few path challenges are answered, and nothing piles up
for a peer that acknowledges nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import Closed
from quictunnel.transport.engines.aioquic.frames import MAX_PATH_FRAMES
from quictunnel.transport.engines.aioquic.packet_sender import MAX_ANSWERS, VALIDATION_SIZE
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import CLIENT, inject, new_cid_frame

if TYPE_CHECKING:
    from quictunnel.transport.engine import Connection
    from tests.transport.engine_pair import Pair


def challenges(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(8, "big") for number in range(first, first + count)]


def answers_of(peer: Connection) -> list[bytes]:
    """Return a list that collects the other side's answers from now on."""
    heard: list[bytes] = []
    reader = peer.quic._reader
    handle = reader._inherited[0x1B]

    def listen(context, kind, buf) -> None:
        at = buf.tell()
        heard.append(buf.pull_bytes(8))
        buf.seek(at)
        handle(context, kind, buf)

    reader._inherited[0x1B] = listen
    return heard


def challenge(pair: Pair, source: Connection, asked: list[bytes]) -> None:
    inject(pair, source, *(b"\x1a" + each for each in asked))


@pytest.mark.parametrize("count", [1, 2, MAX_PATH_FRAMES])
def test_few_challenges_are_answered_once_each(make_pair, count):
    pair = make_pair()
    client, _ = pair.connect()
    heard = answers_of(client)
    pair.sent = []
    asked = challenges(count)
    challenge(pair, client, asked)
    pair.settle()
    assert heard == asked
    assert max(len(datagram) for side, datagram in pair.sent if side == "edge") >= VALIDATION_SIZE


def test_challenges_in_one_packet_are_answered_up_to_a_bound(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    heard = answers_of(client)
    asked = challenges(100)
    challenge(pair, client, asked)
    assert list(edge.quic._network_paths[0].remote_challenges) == asked[:MAX_PATH_FRAMES]
    pair.settle()
    assert heard == asked[:MAX_PATH_FRAMES]
    assert not pair.edge.of(Closed)


def test_challenges_in_one_turn_are_answered_up_to_a_bound(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    heard = answers_of(client)
    asked = challenges(MAX_ANSWERS + 3)
    for each in asked:
        challenge(pair, client, [each])
    pair.settle()
    assert heard == asked[-MAX_ANSWERS:]
    challenge(pair, client, asked[:1])
    pair.settle()
    assert heard[MAX_ANSWERS:] == asked[:1]


def test_answers_to_a_peer_that_acknowledges_nothing_do_not_pile_up(make_pair):
    """The answers fill the congestion window; later challenges wait in one place of a few bytes."""
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    pair.down.down = True
    for number in range(0, 4000, 40):
        challenge(pair, client, challenges(40, number))
        list(pair.edge.engine.transmit(pair.now))
    control, path = edge.quic.table.control, edge.quic._network_paths[0]
    assert len(path.remote_challenges) == 32  # aioquic's bound
    assert len(control._queue) == 1
    pair.down.down = False
    heard = answers_of(client)
    edge.write(stream, b"x")
    pair.settle(5)
    assert pair.client.received[stream] == b"x"
    assert 0 < len(heard) <= MAX_ANSWERS
    assert not path.remote_challenges
    assert not control


@pytest.mark.parametrize("hosts", [1, 2])
def test_moving_peer_is_challenged_from_one_queue(make_pair, hosts):
    """Every move asks for a challenge of the new path, also where there was one before."""
    pair = make_pair()
    client, edge = pair.connect()
    pair.down.down = True
    for number in range(500):
        address = (f"198.51.100.{number % hosts}", 1 + number % 2)
        inject(pair, client, b"\x01", bytes(1000), address=address)
        list(pair.edge.engine.transmit(pair.now))
    assert len(edge.quic.table.control._queue) <= 3
    assert not pair.edge.of(Closed)
    pair.down.down = False
    pair.move_client(CLIENT)
    stream = client.open()
    client.write(stream, b"x")
    pair.settle(5)
    assert pair.edge.received[stream] == b"x"
    assert edge.quic.knows_address()
    assert not edge.quic.table.control


def test_peer_retiring_our_ids_gets_new_ones_from_one_queue(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    pair.down.down = True
    for sequence in range(1, 500):
        inject(pair, client, b"\x19" + encode(sequence))
        list(pair.edge.engine.transmit(pair.now))
    assert len(edge.quic.table.control._queue) == 1
    assert len(edge.quic.own_cids()) == 4
    pair.down.down = False
    pair.settle(5)
    assert not pair.edge.of(Closed)
    assert all(cid.was_sent for cid in edge.quic._host_cids)
    assert not edge.quic.table.control


def test_peer_whose_retired_ids_pile_up_is_closed(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    pair.down.down = True
    for sequence in range(20, 5000):
        inject(pair, client, new_cid_frame(sequence, sequence))
        list(pair.edge.engine.transmit(pair.now))
        assert len(edge.quic.table.control._queue) <= 1
        assert len(edge.quic._retire_connection_ids) <= 33  # aioquic's bound
    assert pair.edge.closed_with(QuicErrorCode.CONNECTION_ID_LIMIT_ERROR)


def test_unsolicited_responses_are_read_up_to_a_bound(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    heard = answers_of(edge)
    said = challenges(100)
    inject(pair, client, *(b"\x1b" + each for each in said))
    assert heard == said[:MAX_PATH_FRAMES]
    assert not pair.edge.of(Closed)


def test_a_path_frame_that_is_cut_short_is_wrong_beyond_the_bound_too(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    inject(pair, client, b"".join(b"\x1a" + each for each in challenges(40))[:-1])
    assert pair.edge.of(Closed)
