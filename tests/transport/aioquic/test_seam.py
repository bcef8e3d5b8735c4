"""Tests of the engine interface on a perfect link."""

from __future__ import annotations

import gc

import pytest

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Connected,
    Data,
    Limits,
    Received,
    Reset,
    Stopped,
    StreamsAvailable,
    Writable,
)
from quictunnel.transport.engines import create_engine
from quictunnel.transport.engines.aioquic import AioquicEngine
from tests.transport.aioquic.engine_pair import CLIENT, EDGE, Pair, settings_for

KIB = 1024


def nothing_left(pair: Pair) -> None:
    """Close, let time pass, and look for what was forgotten."""
    pair.connection.close(0)
    pair.run(limit=60)
    for peer in (pair.client, pair.edge):
        engine = peer.engine
        assert not engine.has_connections()
        assert engine.timeout() is None
        assert not engine._connections
        assert not len(engine._routes)
        assert not len(engine._strangers)


def test_echo_and_nothing_is_left(make_pair):
    pair = make_pair()
    client, accepted = pair.connect()
    assert client.is_client
    assert not accepted.is_client
    assert client.address == EDGE
    assert accepted.address == CLIENT
    stream = accepted.open()
    assert stream == 1
    assert accepted.write(stream, b"hello") == 5
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


def test_the_first_event_of_an_accepted_connection_is_connected(make_pair):
    pair = make_pair()
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.client.on_event = lambda c, e: c.write(c.open(), b"first") if isinstance(e, Connected) else None
    pair.settle()
    assert pair.edge.events[0] == Connected()
    assert pair.edge.events[1] == Data(0, [b"first"], end=False)


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


def test_no_events_come_from_a_stopped_direction(make_pair):
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


def test_reason_phrases_are_harmless(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    client.quic.cause = CloseCause.LOCAL
    client.quic.close(1, None, "\x1b[31mred\nline\u202e" + "x" * 500)
    client._engine._settle(client)
    pair.client.engine.touch(client)
    pair.settle()
    (closed,) = pair.edge.of(Closed)
    assert closed.reason.startswith("?[31mred?line?xxx")
    assert len(closed.reason) <= 256


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


def test_open_before_the_handshake_is_complete(make_pair):
    pair = make_pair()
    pair.connection = client = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    assert client.open() is None
    pair.settle()
    assert pair.client.events[:2] == [Connected(), StreamsAvailable()]
    assert client.open() == 0


def test_a_stranger_has_one_stream_and_16_kib_until_it_is_admitted(make_pair):
    pair = make_pair()
    client, edge = pair.connect(admit=False)
    stream = client.open()
    assert client.open() is None
    client.write(stream, b"x" * 100 * KIB)
    pair.run(limit=1)
    # What was delivered opens the window again, one window at a time: hold back the poll to see the wall.
    got = len(pair.edge.received[stream])
    assert got == 100 * KIB
    edge.admit()
    pair.settle()
    assert client.open() == 4


def test_windows_open_on_delivery_only(make_pair):
    pair = make_pair()
    client, _ = pair.connect(admit=False)
    stream = client.open()
    client.write(stream, b"x" * 100 * KIB)
    held = pair.edge.engine.poll
    pair.edge.engine.poll = lambda: iter(())
    pair.run(limit=2)
    assert client.quic.table._data_sent == 16 * KIB
    pair.edge.engine.poll = held
    pair.edge.collect()
    pair.run(limit=2)
    assert client.quic.table._data_sent == 100 * KIB


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


def test_consecutive_bytes_of_a_stream_are_one_event(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(10 * KIB))
    pair.settle()
    (event,) = pair.client.of(Data)
    assert len(event.chunks) > 5


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


def test_idle_time_out(make_pair):
    pair = make_pair(client={"idle_timeout": 10.0})
    pair.connect()
    pair.up.down = pair.down.down = True
    began = pair.now
    pair.run(lambda: bool(pair.client.of(Closed)), limit=60)
    assert pair.client.of(Closed)[0].cause is CloseCause.TIMEOUT
    assert pair.now - began < 10.5
    pair.run(limit=20)
    assert pair.edge.of(Closed)[0].cause is CloseCause.TIMEOUT
    assert not pair.edge.engine.has_connections()


def test_pings_keep_a_connection(make_pair):
    pair = make_pair(client={"idle_timeout": 10.0})
    client, _ = pair.connect()
    for _ in range(5):
        client.ping()
        pair.run(limit=8)
        assert pair.now - client.stats().last_heard <= 8.1
    assert not pair.client.of(Closed)


def test_nobody_answers(make_pair):
    pair = make_pair()
    pair.up.down = True
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.run(limit=20)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.HANDSHAKE]
    assert not pair.client.engine.has_connections()


def test_another_authority(make_pair, paths, tmp_path):
    import trustme

    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    pair = make_pair(client={"authority": other})
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.run(limit=10)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.HANDSHAKE]
    assert not pair.edge.events


@pytest.mark.parametrize("name", ["other.test", "203.0.113.9"])
def test_another_name(make_pair, name):
    pair = make_pair()
    pair.connection = pair.client.engine.connect(EDGE, name, pair.now)
    pair.run(limit=10)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.HANDSHAKE]


def test_another_protocol(make_pair):
    pair = make_pair(client={"alpn": "other/1"})
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.run(limit=10)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.HANDSHAKE]
    assert not pair.edge.events


def test_files_that_cannot_be_read(paths, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for changes in ({"certificate": broken}, {"private_key": tmp_path / "none"}, {"certificate": None}):
        with pytest.raises(ConfigError):
            AioquicEngine(settings_for("edge", paths, **changes))
    for authority in (broken, tmp_path / "none"):
        with pytest.raises(ConfigError):
            AioquicEngine(settings_for("client", paths, authority=authority))


def test_bursts_are_segments_of_one_size(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.quic.recovery.cc.congestion_window = 10**6
    edge.quic.recovery.pacer._rate = 0
    edge.write(stream, bytes(128 * KIB))
    bursts = pair.edge.engine.transmit(pair.now)
    for burst in bursts:
        assert len(burst.parts) <= 64
        assert sum(map(len, burst.parts)) <= 65_000
        assert all(len(part) == burst.segment for part in burst.parts[:-1])
        assert len(burst.parts[-1]) <= burst.segment
    assert sum(len(burst.parts) for burst in bursts) > 90
    assert len(bursts) <= 4


def test_joined_datagrams_are_taken_apart(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    stream = client.open()
    client.write(stream, b"z" * 9000)
    (burst,) = pair.client.engine.transmit(pair.now)
    assert len(burst.parts) > 5
    joined = b"".join(burst.parts)
    pair.edge.engine.receive([Received(joined, burst.segment, CLIENT)], pair.now)
    pair.edge.collect()
    assert pair.edge.received[stream] == b"z" * 9000


def test_stats(make_pair):
    pair = make_pair()
    pair.up.delay = pair.down.delay = 0.02
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100_000))
    pair.settle(1)
    stats = edge.stats()
    assert 0.039 < stats.rtt < 0.05
    assert stats.bytes_sent > 100_000
    assert stats.packets_sent > 70
    assert stats.bytes_in_flight == 0
    assert stats.streams_open == 1
    assert client.stats().bytes_received > 100_000
    assert stats.datagram_size >= 1200


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
    table = client.quic.table
    assert not (table._unseen)
    assert not (table._zombies)
    assert not (table._pieces)
    assert not (table._starved)
    nothing_left(pair)
    pair.edge.connections.clear()
    pair.client.connections.clear()
    gc.collect()


def test_the_engine_is_chosen(paths, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "quictunnel.transport.engines.native", None)
    settings = settings_for("client", paths)
    for choice in ("auto", "aioquic"):
        assert create_engine(settings, choice).name == "aioquic"
    with pytest.raises(ConfigError, match="QUICTUNNEL_ENGINE=auto"):
        create_engine(settings, "native")
    with pytest.raises(ConfigError, match="one of auto"):
        create_engine(settings, "quiche")
