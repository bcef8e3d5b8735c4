"""Tests of the faults of aioquic 1.7.2 that this engine cures, one each; each would fail on the plain library."""

from __future__ import annotations

import logging
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from aioquic.quic import crypto
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed, Received
from quictunnel.transport.engines.aioquic import keys, stream_table, streams
from quictunnel.transport.engines.aioquic.quic_connection import MAX_CRYPTO, TunnelConnection
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import (
    CLIENT,
    ack_frame,
    connect_saying,
    forge,
    inject,
    new_cid_frame,
    stream_frame,
)

if TYPE_CHECKING:
    from quictunnel.transport.engine import Connection
    from tests.transport.engine_pair import Pair

KIB = 1024


# Memory


def test_a_sparse_offset_allocates_no_gap(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    limit = edge.quic.table.streams[stream].receive.limit
    tracemalloc.start()
    inject(pair, client, stream_frame(stream, limit - 1, b"y"))
    assert tracemalloc.get_traced_memory()[1] < 64 * KIB
    tracemalloc.stop()
    assert not pair.edge.of(Closed)
    inject(pair, client, stream_frame(stream, limit, b"y"))
    assert pair.edge.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_windows_do_not_double(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    receive = edge.quic.table.streams[stream].receive
    for _ in range(20):
        inject(pair, client, stream_frame(stream, receive.limit - 1, b"y"))
        pair.settle()
    assert receive.limit == 2048 * KIB
    assert edge.quic.table.control.max_data == 4096 * KIB


def test_the_connection_window_is_a_wall(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    for _ in range(3):
        stream = edge.open()
        edge.write(stream, b"x")
    pair.settle()
    for stream in (1, 5):
        inject(pair, client, stream_frame(stream, 2048 * KIB - 1, b"y"))
    assert not pair.edge.of(Closed)
    inject(pair, client, stream_frame(9, 1, b"y"))
    assert pair.edge.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_holes_in_one_stream_are_bounded(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    offset = 1
    while not pair.edge.of(Closed):
        inject(pair, client, *(stream_frame(stream, at, b"y") for at in range(offset, offset + 200, 2)))
        offset += 200
        assert len(edge.quic.table.streams[stream].receive.runs) <= streams.MAX_RUNS
    assert pair.edge.closed_with(QuicErrorCode.INTERNAL_ERROR)


def test_pieces_out_of_order_are_bounded_over_all_streams(make_pair, monkeypatch):
    monkeypatch.setattr(stream_table, "MAX_PIECES", 500)
    pair = make_pair()
    client, edge = pair.connect()
    numbers = [edge.open() for _ in range(20)]
    for number in numbers:
        edge.write(number, b"x")
    pair.settle()
    for number in numbers:
        inject(pair, client, *(stream_frame(number, at, b"y") for at in range(1, 100)))
    assert edge.quic.table._pieces == 501
    assert pair.edge.closed_with(QuicErrorCode.INTERNAL_ERROR)


def test_bytes_that_fill_their_holes_leave_no_pieces(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    text = bytes(range(256)) * 4
    order = [512, 0, 700, 256, 128, 900, 400]
    for start in order:
        inject(pair, client, stream_frame(stream, start, text[start : start + 300]))
    inject(pair, client, stream_frame(stream, 0, text[:200]), stream_frame(stream, 1000, text[1000:], fin=True))
    assert bytes(pair.edge.received[stream]) == text
    assert stream in pair.edge.ended
    assert edge.quic.table._pieces == 0


@pytest.mark.parametrize("total", [MAX_CRYPTO + 1, 10_000_000])
def test_crypto_is_bounded_before_authentication(make_pair, total):
    pair = make_pair(edge={"retry": False})
    # A TLS message that says it has 16 MiB, byte after byte.
    connect_saying(pair, b"\x01\xff\xff\xff" + bytes(total))
    (closed,) = pair.client.of(Closed)
    assert closed.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert not pair.edge.of(Closed)


def test_crypto_is_bounded_after_the_handshake(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    inject(pair, client, b"\x06", encode(MAX_CRYPTO), encode(1), b"x")
    assert pair.edge.closed_with(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)


def test_zombie_streams_are_bounded(make_pair, monkeypatch):
    monkeypatch.setattr(stream_table, "MAX_ZOMBIES", 10)
    pair = make_pair()
    client, edge = pair.connect()
    for _ in range(11):
        stream = edge.open()
        edge.write(stream, b"x")
        pair.settle(0.05)
        # A client that never ends a stream and does not react to STOP_SENDING either.
        client.quic.table.streams[stream].send.code = 0
        edge.reset(stream, 1)
        edge.stop(stream, 1)
        pair.settle(0.05)
    assert edge.stats().streams_open == 11
    assert not pair.edge.of(Closed)
    for _ in range(5):  # alive all the while
        edge.ping()
        pair.settle(stream_table.ZOMBIE_TIMEOUT / 5)
    stream = edge.open()
    edge.write(stream, b"x")
    edge.reset(stream, 1)
    edge.stop(stream, 1)
    pair.settle(1)
    assert pair.edge.closed_with(QuicErrorCode.STREAM_STATE_ERROR)


def abort_streams(pair: Pair, writer: Connection, reader: Connection) -> None:
    """``reader`` gives 60 streams up in the middle of what ``writer`` says, on a link that loses some of it."""
    for number in range(60):
        stream = reader.open()
        reader.write(stream, b"x")
        pair.settle(0.05)
        writer.write(stream, bytes(128 * KIB))
        for link in (pair.up, pair.down):
            link.loss = 0.3
        pair.settle(0.02)
        if number % 2:
            writer.reset(stream, 1)
        reader.stop(stream, 1)
        reader.reset(stream, 1)
        for link in (pair.up, pair.down):
            link.loss = 0.0
        pair.settle(2)
    assert writer.stats().streams_open == reader.stats().streams_open == 0


def test_streams_that_are_aborted_do_not_wear_the_connection_window_out(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    abort_streams(pair, client, edge)
    credit = edge.quic.table
    assert credit.delivered == credit.received
    assert credit.control.max_data - credit.received >= 3 * 1024 * KIB


# Hostile frames


def test_a_connection_id_that_is_not_there_is_not_popped(make_pair, caplog):
    pair = make_pair()
    client, edge = pair.connect()
    inject(pair, client, new_cid_frame(20, 10))
    inject(pair, client, new_cid_frame(11, 10))
    inject(pair, client, b"\x01", cid=edge.quic.own_cids()[1])
    inject(pair, client, new_cid_frame(20, 15))
    inject(pair, client, new_cid_frame(21, 21), new_cid_frame(21, 21), new_cid_frame(30, 30))
    inject(pair, client, new_cid_frame(25, 25), new_cid_frame(25, 26))
    for event in pair.edge.of(Closed):
        assert event.cause is CloseCause.PROTOCOL
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_retiring_a_connection_id_before_it_was_seen(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    for sequence in (1, 2, 3, 4, 5):
        inject(pair, client, b"\x19" + encode(sequence))
    pair.settle()
    assert not pair.edge.of(Closed)
    assert len(edge.quic.own_cids()) == 4
    assert set(edge.quic.own_cids()) <= edge.cids
    assert len(edge.cids) <= 5


def test_an_acknowledgement_of_what_was_not_sent(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    inject(pair, client, ack_frame(edge.quic._packet_number))
    assert pair.edge.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)


def test_an_optimistic_acknowledgement(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    for _ in range(1500):
        edge.write(stream, b"x")
        pair.turn()
        pair.turn()
    pair.settle()
    assert edge.quic.skipped
    largest = edge.quic._packet_number - 1
    assert not pair.edge.of(Closed)
    inject(pair, client, ack_frame(largest, first=largest))
    assert pair.edge.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)


def test_acknowledgements_in_one_packet_are_bounded(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    frame = ack_frame(edge.quic._packet_number - 1)
    inject(pair, client, frame * 4)
    assert not pair.edge.of(Closed)
    inject(pair, client, frame * 230)
    assert pair.edge.closed_with(QuicErrorCode.PROTOCOL_VIOLATION)


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


def test_an_exception_ends_its_connection_only(make_pair, caplog, monkeypatch):
    pair = make_pair()
    client, edge = pair.connect()
    other, _ = pair.connect()

    def broken(*_: object) -> None:
        raise IndexError("\x1b[31m" + "x" * 1000)

    edge.quic.table.on_stream = broken
    stream = client.open()
    client.write(stream, b"x")
    other.write(other.open(), b"alive")
    pair.settle(5)
    assert [event.cause for event in pair.edge.of(Closed)] == [CloseCause.INTERNAL]
    assert pair.edge.received[0] == b"alive"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(record.getMessage()) < 300
    assert "\x1b" not in record.getMessage()


@pytest.mark.parametrize("name", ["handle_timer", "datagrams_to_send"])
def test_an_exception_of_a_timer_or_a_transmit_is_contained(make_pair, name, caplog):
    pair = make_pair()
    client, edge = pair.connect()
    other, _ = pair.connect()

    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    setattr(edge.quic, name, broken)
    client.write(client.open(), b"x")
    other.write(other.open(), b"alive")
    pair.run(limit=40)
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    assert CloseCause.INTERNAL in [event.cause for event in pair.edge.of(Closed)]
    assert bytes(pair.edge.received[0]).replace(b"x", b"", 1) == b"alive"


def test_flipped_key_phases_cost_no_key_derivation_each(make_pair, monkeypatch):
    pair = make_pair()
    client, edge = pair.connect()
    derived = []
    original = crypto.next_key_phase
    monkeypatch.setattr(keys, "next_key_phase", lambda context: derived.append(1) or original(context))
    for _ in range(100):
        datagram = bytearray(forge(client, b"\x01" * 20))
        datagram[0] ^= 0x04
        pair.edge.engine.receive([Received(bytes(datagram), len(datagram), CLIENT)], pair.now)
    assert len(derived) <= 1
    assert edge.quic.one_rtt.forgeries == 100
    client.write(client.open(), b"fine")
    pair.settle()
    assert pair.edge.received[0] == b"fine"


def test_no_idle_time_out_is_not_an_idle_time_out_of_zero(make_pair, monkeypatch):
    original = TunnelConnection._idle_timeout
    monkeypatch.setattr(
        TunnelConnection, "_idle_timeout", lambda self: 30.0 if self._is_client else original(self)
    )
    pair = make_pair(client={"idle_timeout": 0.0})
    pair.connect()
    pair.run(limit=20)
    assert not pair.edge.of(Closed)


def test_the_peers_ack_delay_exponent_counts(make_pair, monkeypatch):
    original = TunnelConnection._apply_limits

    def patched(self) -> None:
        original(self)
        self._local_ack_delay_exponent = 10 if self._is_client else 3

    monkeypatch.setattr(TunnelConnection, "_apply_limits", patched)
    client, edge = make_pair().connect()
    assert edge.quic._remote_ack_delay_exponent == 10
    assert client.quic._remote_ack_delay_exponent == 3


# Recovery


def test_reordering_is_not_loss(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    for link in (pair.up, pair.down):
        link.delay, link.jitter, link.rate = 0.02, 0.01, 40e6 / 8
    stream = edge.open()
    sent = 0
    while sent < 3_000_000:
        sent += edge.write(stream, bytes(64 * KIB))
        pair.settle(0.005)
    pair.settle(1)
    assert len(pair.client.received[stream]) == sent
    assert edge.stats().packets_lost < 10


def test_keys_are_updated_in_time(make_pair):
    pair = make_pair(edge={"key_update_packets": 50})
    for link in (pair.up, pair.down):
        link.delay, link.jitter = 0.02, 0.01
    _, edge = pair.connect()
    stream = edge.open()
    sent = 0
    while sent < 2_000_000:
        sent += edge.write(stream, bytes(64 * KIB))
        pair.settle(0.01)
    pair.settle(2)
    assert len(pair.client.received[stream]) == sent
    assert edge.quic.one_rtt.updates >= 2
    assert not pair.edge.of(Closed)
    # Packets that were overtaken by an update are opened with the keys of the phase before.
    assert edge.stats().packets_lost < 10
    assert edge.quic.one_rtt.forgeries == pair.connection.quic.one_rtt.forgeries == 0


# Life


def lost_close(pair: Pair) -> list[bytes]:
    """The edge's goodbye is lost; what it says when eight more packets of the client come."""
    client, edge = pair.connect()
    stream = client.open()
    client.write(stream, b"x")
    pair.settle()
    pair.down.down = True
    edge.close(5, "gone")
    pair.settle(0.001)
    pair.down.down = False
    assert not pair.client.of(Closed)
    pair.sent = []
    for _ in range(8):
        inject(pair, client, b"\x01")
        pair.turn()
    said = [datagram for side, datagram in pair.sent if side == "edge"]
    pair.settle()
    assert [(event.cause, event.code) for event in pair.client.of(Closed)] == [(CloseCause.PEER, 5)]
    return said


def test_the_close_is_repeated_while_packets_come(make_pair):
    assert 1 <= len(lost_close(make_pair())) <= 4


def test_no_early_data_and_no_tickets(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    assert not edge.quic.tls.early_data_accepted
    assert edge.quic.tls._max_early_data is None
    assert client.quic.tls._new_session_ticket is None
    assert edge.quic._session_ticket_handler is None


def test_libraries_log_nothing_that_peers_write(make_pair, caplog):
    caplog.set_level(logging.DEBUG)
    pair = make_pair()
    client, _ = pair.connect()
    client.close(1, "text of the peer")
    pair.settle()
    assert "text of the peer" not in caplog.text
