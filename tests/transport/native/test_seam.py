"""Tests of the engine interface, with the native engine on one side or both: those of the reference that look at
nothing behind it, and those that look into the engine."""

from __future__ import annotations

import random
import re
import sys

import pytest

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import CloseCause, Closed, Connected, Data, Received, Stopped
from quictunnel.transport.engines import create_engine
from tests.transport.aioquic.engine_pair import CLIENT, Pair, settings_for
from tests.transport.aioquic.test_seam import (
    test_a_short_write_is_followed_by_writable_at_half,
    test_a_stranger_has_one_stream_and_16_kib_until_it_is_admitted,
    test_an_end_without_bytes,
    test_another_authority,
    test_another_name,
    test_another_protocol,
    test_half_close,
    test_many_writes_smaller_than_a_packet_share_it,
    test_methods_are_no_ops_on_what_is_over,
    test_no_events_come_from_a_stopped_direction,
    test_nobody_answers,
    test_open_before_the_handshake_is_complete,
    test_pings_keep_a_connection,
    test_prioritised_streams_go_first,
    test_reset_drops_what_is_queued,
    test_stats,
    test_stop_is_answered_with_a_reset_of_the_same_code,
    test_streams_with_bytes_take_turns,
    test_the_first_event_of_an_accepted_connection_is_connected,
    test_the_stream_limit_says_when_it_is_lifted,
)
from tests.transport.engine_pairings import needs_native

__all__ = [
    "test_a_short_write_is_followed_by_writable_at_half",
    "test_a_stranger_has_one_stream_and_16_kib_until_it_is_admitted",
    "test_an_end_without_bytes",
    "test_another_authority",
    "test_another_name",
    "test_another_protocol",
    "test_half_close",
    "test_many_writes_smaller_than_a_packet_share_it",
    "test_methods_are_no_ops_on_what_is_over",
    "test_no_events_come_from_a_stopped_direction",
    "test_nobody_answers",
    "test_open_before_the_handshake_is_complete",
    "test_pings_keep_a_connection",
    "test_prioritised_streams_go_first",
    "test_reset_drops_what_is_queued",
    "test_stats",
    "test_stop_is_answered_with_a_reset_of_the_same_code",
    "test_streams_with_bytes_take_turns",
    "test_the_first_event_of_an_accepted_connection_is_connected",
    "test_the_stream_limit_says_when_it_is_lifted",
]

KIB = 1024
BOTH = pytest.mark.parametrize("engines", [pytest.param(("native", "native"), marks=needs_native)], ids=["both"])


def native_sides(pair: Pair) -> list:
    return [peer.engine for peer in (pair.client, pair.edge) if peer.engine.name == "native"]


def nothing_left(pair: Pair) -> None:
    """Close, let time pass, and look for what was forgotten."""
    pair.connection.close(0)
    pair.run(limit=60)
    for engine in (pair.client.engine, pair.edge.engine):
        assert not engine.has_connections()
        assert engine.timeout() is None
        assert not engine._connections
    for engine in native_sides(pair):
        assert engine._engine.population() == (0, 0)


def test_echo_and_nothing_is_left(make_pair):
    pair = make_pair()
    client, accepted = pair.connect()
    assert client.is_client
    assert not accepted.is_client
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
    assert client.stats().streams_open == accepted.stats().streams_open == 0
    nothing_left(pair)


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


def test_what_is_written_is_referenced_until_it_is_acknowledged(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    data = bytes(100_000)
    before = sys.getrefcount(data)
    assert edge.write(edge.open(), memoryview(data)[10:]) == len(data) - 10
    assert sys.getrefcount(data) > before
    pair.settle(1)
    assert sys.getrefcount(data) == before


@needs_native
@pytest.mark.parametrize(
    "data",
    [memoryview(b"abcdef")[::2], bytearray(b"abc"), memoryview(bytearray(b"abc")), "abc", 7],
    ids=["gaps", "bytearray", "view of a bytearray", "text", "number"],
)
def test_what_can_change_or_has_gaps_is_not_taken(paths, data):
    engine = create_engine(settings_for("client", paths), "native")
    connection = engine.connect(("192.0.2.1", 4433), "edge.test", 0.0)
    with pytest.raises((TypeError, BufferError, AttributeError)):
        connection.write(0, data)


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
    nothing_left(pair)


@BOTH
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


def test_reason_phrases_are_harmless(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    client.close(1, "\x1b[31mred\nline\u202e" + "x" * 500)
    pair.settle()
    (closed,) = pair.edge.of(Closed)
    assert closed.reason.startswith("?[31mred?line?xxx")
    assert len(closed.reason) <= 256


@BOTH
def test_bursts_are_segments_of_one_size(make_pair):
    pair = make_pair()
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(9000))
    bursts = list(pair.edge.engine.transmit(pair.now))
    joined = [b"".join(burst.parts) for burst in bursts]
    assert max(len(data) / burst.segment for data, burst in zip(joined, bursts, strict=True)) > 5
    for data, burst in zip(joined, bursts, strict=True):
        assert len(data) <= min(65_000, 64 * burst.segment)
        pair.client.engine.receive([Received(data, burst.segment, ("192.0.2.1", 4433))], pair.now)
    pair.client.collect()
    assert pair.client.received[stream] == bytes(9000)
    assert client.address == ("192.0.2.1", 4433)


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


@BOTH
@pytest.mark.parametrize("side", ["client", "edge"])
def test_a_panic_ends_one_connection(make_pair, caplog, side):
    pair = make_pair()
    client, edge = pair.connect()
    second = pair.client.engine.connect(("192.0.2.1", 4433), "edge.test", pair.now)
    pair.settle()
    peer, broken = (pair.client, client) if side == "client" else (pair.edge, edge)
    peer.engine._engine.fail(broken._number)
    client.ping()
    edge.ping()
    pair.settle(1)
    assert [event.cause for event in peer.of(Closed)] == [CloseCause.INTERNAL]
    assert peer.engine._engine.counters()["panics"] == 1
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert re.search(r"src/connection\.rs:\d+:\d+: a fault on purpose$", record.getMessage())
    other = pair.edge if side == "client" else pair.client
    (client if other is pair.client else edge).ping()
    pair.settle(1)
    assert [event.cause for event in other.of(Closed)] == [CloseCause.RESET][: 1 if side == "edge" else 0]
    stream = second.open()
    second.write(stream, b"still here")
    pair.settle()
    assert b"still here" in pair.edge.received.values()


@BOTH
def test_keys_are_updated(make_pair):
    pair = make_pair(client={"key_update_packets": 50}, edge={"key_update_packets": 70})
    client, edge = pair.connect()
    pair.up.delay = pair.down.delay = 0.01
    stream = edge.open()
    sent = 0
    for _ in range(40):
        sent += edge.write(stream, bytes(16 * KIB))
        client.ping()
        pair.settle(0.1)
    assert len(pair.client.received[stream]) == sent
    assert edge.stats().packets_sent > 300
    assert not pair.client.of(Closed)


@BOTH
@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_congestion_control_is_chosen(make_pair, congestion):
    pair = make_pair(client={"congestion": congestion}, edge={"congestion": congestion})
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100 * KIB))
    pair.run(limit=2)
    assert len(pair.client.received[stream]) == 100 * KIB


@BOTH
def test_the_largest_datagram_is_found(make_pair):
    pair = make_pair(client={"largest_datagram": 8972}, edge={"largest_datagram": 8972})
    pair.up.mtu = pair.down.mtu = 9000
    for link in (pair.up, pair.down):
        link.delay = 0.01
    _, edge = pair.connect()
    stream = edge.open()
    for _ in range(60):
        edge.write(stream, bytes(8 * KIB))
        pair.settle(0.1)
    assert 8900 < edge.stats().datagram_size <= 8972
    assert pair.connection.stats().datagram_size >= 1200


@BOTH
def test_finding_the_largest_datagram_holds_nothing_up(make_pair):
    """A lost probe may be larger than the congestion window; packets that fit into it are sent all the same."""
    pair = make_pair(client={"largest_datagram": 32_000}, edge={"largest_datagram": 32_000})
    for link in (pair.up, pair.down):
        link.delay = 0.05
    _, edge = pair.connect()
    for _ in range(20):
        stream = edge.open()
        edge.write(stream, bytes(8 * KIB))
        edge.finish(stream)
        begun = pair.now
        assert pair.run(lambda stream=stream: stream in pair.client.ended, limit=5)
        assert pair.now - begun < 0.06
        pair.settle(0.25)
    assert 1400 < edge.stats().datagram_size <= 1472


@needs_native
def test_settings_that_cannot_be_used(paths, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for changes in (
        {"certificate": broken},
        {"private_key": tmp_path / "none"},
        {"private_key": broken},
        {"certificate": None},
        {"congestion": "reno"},
    ):
        with pytest.raises(ConfigError):
            create_engine(settings_for("edge", paths, **changes), "native")
    for authority in (broken, tmp_path / "none"):
        with pytest.raises(ConfigError):
            create_engine(settings_for("client", paths, authority=authority), "native")


@needs_native
def test_the_systems_store_is_what_is_trusted_without_an_authority(paths):
    assert create_engine(settings_for("client", paths, authority=None), "native").name == "native"


@BOTH
def test_it_is_told_connected_once(make_pair):
    pair = make_pair()
    pair.connect()
    assert pair.client.of(Connected) == pair.edge.of(Connected) == [Connected()]


def test_idle_time_out(make_pair):
    pair = make_pair(client={"idle_timeout": 10.0})
    pair.connect()
    pair.up.down = pair.down.down = True
    began = pair.now
    pair.run(lambda: bool(pair.client.of(Closed)), limit=60)
    assert pair.client.of(Closed)[0].cause is CloseCause.TIMEOUT
    # quinn-proto begins anew when it sends something for the first time after it heard the peer.
    assert pair.now - began < 12
    pair.run(limit=20)
    assert pair.edge.of(Closed)[0].cause is CloseCause.TIMEOUT
    assert not pair.edge.engine.has_connections()


def test_a_goodbye_leaves_although_the_congestion_window_is_full(make_pair):
    """CONNECTION_CLOSE cannot make congestion worse (RFC 9002 section 7 counts ack-eliciting packets only)."""
    pair = make_pair()
    client, _ = pair.connect()
    stream = client.open()
    while client.write(stream, bytes(64 * KIB)):
        list(pair.client.engine.transmit(pair.now))  # lost on the way: nothing of it will be acknowledged
    client.close(7, "enough")
    pair.settle()
    (closed,) = pair.edge.of(Closed)
    assert (closed.cause, closed.code) == (CloseCause.PEER, 7)
