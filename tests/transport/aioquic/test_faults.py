"""Tests of the faults of aioquic 1.7.2 that this engine cures, one each; each would fail on the plain library."""

from __future__ import annotations

import logging

import pytest
from aioquic.quic import crypto
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import CloseCause, Closed, Received
from quictunnel.transport.engines.aioquic import keys, stream_table
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

KIB = 1024


# Memory


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


@pytest.mark.parametrize("total", [MAX_CRYPTO + 1, 10_000_000])
def test_crypto_is_bounded_before_authentication(make_pair, total):
    pair = make_pair(edge={"retry": False})
    # A TLS message that says it has 16 MiB, byte after byte.
    connect_saying(pair, b"\x01\xff\xff\xff" + bytes(total))
    (closed,) = pair.client.of(Closed)
    assert closed.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert not pair.edge.of(Closed)


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


def test_no_early_data_and_no_tickets(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    assert not edge.quic.tls.early_data_accepted
    assert edge.quic.tls._max_early_data is None
    assert client.quic.tls._new_session_ticket is None
    assert edge.quic._session_ticket_handler is None
