"""Guarantees of the engine interface about streams, for each pairing of engines on a perfect link."""

from __future__ import annotations

import random
import sys

from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Data,
    Limits,
    Reset,
    Stopped,
    StreamsAvailable,
    Writable,
)
from tests.transport.engine_pair import CLIENT, EDGE, Pair
from tests.transport.engine_state import is_empty

KIB = 1024


def nothing_left(pair: Pair) -> None:
    """Close, let time pass, and look for what was forgotten."""
    pair.connection.close(0)
    pair.run(limit=60)
    for engine in (pair.client.engine, pair.edge.engine):
        assert not engine.has_connections()
        assert not engine._connections
        assert is_empty(engine)


def test_echo_and_nothing_is_left(make_pair):
    pair = make_pair()
    client, accepted = pair.connect()
    assert client.is_client
    assert not accepted.is_client
    assert client.address == EDGE
    assert accepted.address == CLIENT
    stream = accepted.open()
    assert stream == 1
    assert accepted.write(stream, memoryview(b"hello")) == 5
    accepted.finish(stream)
    pair.settle()
    assert pair.client.received == {1: bytearray(b"hello")}
    assert pair.client.ended == {1}
    client.write(1, b"world")
    client.finish(1)
    pair.settle()
    assert pair.edge.received == {1: bytearray(b"world")}
    assert pair.edge.ended == {1}
    assert client.stats().streams_open == accepted.stats().streams_open == 0
    nothing_left(pair)


def test_half_close(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"question")
    edge.finish(stream)
    pair.settle()
    for part in (b"a", b"n", b"s"):
        client.write(stream, part)
        pair.settle()
    assert pair.edge.received[stream] == b"ans"
    assert stream not in pair.edge.ended
    client.finish(stream)
    pair.settle()
    assert stream in pair.edge.ended


def test_an_end_without_bytes(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.finish(stream)
    pair.settle()
    assert pair.client.of(Data) == [Data(stream, [], end=True)]


def test_reset_drops_what_is_queued(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    edge.write(stream, b"y" * 1000)
    edge.reset(stream, 0x42)
    assert edge.write(stream, b"z") == 0
    pair.settle()
    assert pair.client.of(Reset) == [Reset(stream, 0x42)]
    assert pair.client.received[stream] == b"x"


def test_stop_is_answered_with_a_reset_of_the_same_code(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    client.stop(stream, 0x17)
    pair.settle()
    assert pair.edge.of(Stopped) == [Stopped(stream, 0x17)]
    assert edge.write(stream, b"more") == 0
    assert not pair.client.of(Reset)
    client.finish(stream)
    pair.settle()
    assert edge.stats().streams_open == client.stats().streams_open == 0


def test_stopped_direction_reports_no_events(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    pair.client.events.clear()
    edge.write(stream, b"y" * 5000)
    client.stop(stream, 1)
    pair.settle()
    assert not pair.client.events


def test_methods_are_no_ops_on_what_is_over(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    for connection in (client, edge):
        assert connection.write(999, b"x") == 0
        connection.finish(999)
        connection.reset(999, 1)
        connection.stop(999, 1)
        connection.prioritise(999)
    client.close(7, "bye")
    client.close(8)
    assert client.open() is None
    pair.settle(5)
    for connection in (client, edge):
        assert connection.open() is None
        assert connection.write(1, b"x") == 0
        connection.finish(1)
        connection.reset(1, 1)
        connection.stop(1, 1)
        connection.admit()
        connection.ping()
        connection.migrate()
        connection.close(1)
        connection.stats()
    assert pair.client.of(Closed) == [Closed(CloseCause.LOCAL, 7, "bye")]
    assert pair.edge.of(Closed) == [Closed(CloseCause.PEER, 7, "bye")]


def test_the_stream_limit_says_when_it_is_lifted(make_pair):
    pair = make_pair(client={"trusted": Limits(2, 64 * KIB, 256 * KIB)})
    client, edge = pair.connect()
    first, second = edge.open(), edge.open()
    assert (first, second, edge.open()) == (1, 5, None)
    assert not pair.edge.of(StreamsAvailable)
    for connection in (edge, client):
        connection.reset(first, 1)
        if connection is edge:
            pair.settle()
    pair.settle()
    assert pair.edge.of(StreamsAvailable) == [StreamsAvailable()]
    assert edge.open() == 9


def test_a_short_write_is_followed_by_writable_at_half(make_pair):
    pair = make_pair(client={"send_buffer": 32 * KIB})
    client, _ = pair.connect()
    stream = client.open()
    assert client.write(stream, bytes(100 * KIB)) == 32 * KIB
    assert client.write(stream, b"x") == 0
    assert not pair.client.of(Writable)
    pair.settle()
    assert pair.client.of(Writable) == [Writable(stream)]
    assert client.write(stream, bytes(10)) == 10


def test_many_writes_smaller_than_a_packet_share_it(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    stream = client.open()
    before = client.stats().packets_sent
    for number in range(500):
        client.write(stream, bytes([number % 251]))
    pair.settle()
    assert pair.edge.received[stream] == bytes(number % 251 for number in range(500))
    assert client.stats().packets_sent - before <= 4


def test_streams_with_bytes_take_turns(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    streams = [edge.open() for _ in range(8)]
    for stream in streams:
        edge.write(stream, bytes(60 * KIB))
    pair.down.rate = 1e6
    pair.run(limit=0.2)
    got = [len(pair.client.received.get(stream, b"")) for stream in streams]
    assert min(got) > 0
    assert max(got) - min(got) < 3 * 1350


def test_prioritised_streams_go_first(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    bulk, urgent = edge.open(), edge.open()
    edge.write(bulk, bytes(100 * KIB))
    edge.prioritise(urgent)
    edge.write(urgent, bytes(50 * KIB))
    pair.down.rate = 1e5
    pair.run(lambda: len(pair.client.received.get(urgent, b"")) == 50 * KIB, limit=10)
    assert len(pair.client.received.get(bulk, b"")) < 3 * 1350


def test_parts_of_bytes_are_sent_as_they_are(make_pair):
    """Views into a larger object, of every size about the one from which on bytes are not copied."""
    pair = make_pair()
    _, edge = pair.connect()
    whole = random.Random(1).randbytes(100_000)
    sent = bytearray()
    stream = edge.open()
    for start, size in (
        (0, 1),
        (7, 4095),
        (8, 4096),
        (9, 4097),
        (99_999, 1),
        (50_000, 50_000),
        (1, 0),
        (0, 100_000),
    ):
        part = memoryview(whole)[start:][:size]
        assert edge.write(stream, part) == size
        assert edge.write(stream, bytes(part)) == size
        sent += bytes(part) * 2
    pair.settle(1)
    assert pair.client.received == {stream: sent}


def test_written_data_is_referenced_until_acknowledged(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    data = bytes(100_000)
    before = sys.getrefcount(data)
    assert edge.write(edge.open(), memoryview(data)[10:]) == len(data) - 10
    assert sys.getrefcount(data) > before
    pair.settle(1)
    assert sys.getrefcount(data) == before


def test_consecutive_bytes_of_a_stream_are_one_event(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(10 * KIB))
    pair.settle()
    (event,) = pair.client.of(Data)
    assert b"".join(event.chunks) == bytes(10 * KIB)


def test_a_stopped_stream_takes_no_more(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100 * KIB))
    pair.settle()
    client.stop(stream, 9)
    pair.settle()
    assert pair.edge.of(Stopped) == [Stopped(stream, 9)]
    assert edge.write(stream, b"x") == 0
    client.finish(stream)
    pair.settle()
    assert edge.stats().streams_open == 0


def test_windows_open_on_delivery_only(make_pair):
    pair = make_pair()
    client, _ = pair.connect(admit=False)
    stream = client.open()
    client.write(stream, b"x" * 100 * KIB)
    held, pair.edge.engine.poll = pair.edge.engine.poll, lambda: iter(())
    pair.run(limit=2)
    pair.edge.engine.poll = held
    before = client.stats().bytes_sent
    assert before < 40 * KIB
    pair.run(limit=2)
    assert len(pair.edge.received[stream]) == 100 * KIB


def test_10_000_streams_opened_used_and_closed(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    pair.client.on_event = lambda c, e: (
        (c.write(e.stream, b"back"), c.finish(e.stream)) if isinstance(e, Data) and e.end else None
    )
    for _ in range(10):
        streams = [edge.open() for _ in range(1000)]
        for stream in streams:
            edge.write(stream, b"there")
            edge.finish(stream)
        pair.settle(1)
    assert len(pair.edge.ended) == len(pair.client.ended) == 10_000
    assert client.stats().streams_open == edge.stats().streams_open == 0
    for connection in (client, edge):
        if hasattr(connection, "quic"):
            table = connection.quic.table
            assert not any((table._skipped, table._zombies, table._pieces, table._starved))
    nothing_left(pair)


def test_written_data_is_bounded(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    taken = sum(edge.write(stream, bytes(64 * KIB)) for _ in range(100))
    assert taken == 512 * KIB
