"""Guarantees of the engine interface about connections, for each pairing of engines on a perfect link: handshakes,
ends, settings, packets."""

from __future__ import annotations

import sys

import pytest
import trustme

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import CloseCause, Closed, Connected, Data, Received, StreamsAvailable
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import EDGE, settings_for
from tests.transport.engine_pairings import each_engine

KIB = 1024


def test_the_first_event_of_an_accepted_connection_is_connected(make_pair):
    pair = make_pair()
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.client.on_event = lambda c, e: c.write(c.open(), b"first") if isinstance(e, Connected) else None
    pair.settle()
    assert pair.edge.events[0] == Connected()
    assert pair.edge.events[1] == Data(0, [b"first"], end=False)


def test_open_before_the_handshake_is_complete(make_pair):
    pair = make_pair()
    pair.connection = client = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    assert client.open() is None
    pair.settle()
    assert pair.client.events[:2] == [Connected(), StreamsAvailable()]
    assert client.open() == 0


def test_unadmitted_peer_has_one_stream_and_16_kib(make_pair):
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


def test_pings_keep_a_connection(make_pair):
    pair = make_pair(client={"idle_timeout": 10.0})
    client, _ = pair.connect()
    for _ in range(5):
        client.ping()
        pair.run(limit=8)
        assert pair.now - client.stats().last_heard <= 8.1
    assert not pair.client.of(Closed)


def test_silent_address_times_out(make_pair):
    pair = make_pair()
    pair.up.down = True
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.run(limit=20)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.HANDSHAKE]
    assert not pair.client.engine.has_connections()


def test_another_authority(make_pair, paths, tmp_path):
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


def test_connected_is_reported_once(make_pair):
    pair = make_pair()
    pair.connect()
    assert pair.client.of(Connected) == pair.edge.of(Connected) == [Connected()]


def test_reason_phrases_are_harmless(make_pair):
    pair = make_pair()
    client, _ = pair.connect()
    client.close(1, "\x1b[31mred\nline\u202e" + "x" * 500)
    pair.settle()
    (closed,) = pair.edge.of(Closed)
    assert closed.reason.startswith("?[31mred?line?xxx")
    assert len(closed.reason) <= 256


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


def test_connection_close_ignores_the_congestion_window(make_pair):
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


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_congestion_control_is_chosen(make_pair, congestion):
    pair = make_pair(client={"congestion": congestion}, edge={"congestion": congestion})
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100 * KIB))
    pair.run(limit=2)
    assert len(pair.client.received[stream]) == 100 * KIB


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


@each_engine
def test_settings_that_cannot_be_used(paths, tmp_path, name):
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for changes in (
        {"certificate": broken},
        {"private_key": tmp_path / "none"},
        {"private_key": broken},
        {"certificate": None},
    ):
        with pytest.raises(ConfigError):
            create_engine(settings_for("edge", paths, **changes), name)
    for authority in (broken, tmp_path / "none"):
        with pytest.raises(ConfigError):
            create_engine(settings_for("client", paths, authority=authority), name)


@each_engine
def test_the_systems_store_is_trusted_without_an_authority(paths, name):
    assert create_engine(settings_for("client", paths, authority=None), name).name == name


def test_the_engine_is_chosen(paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "quictunnel.transport.engines.native", None)
    settings = settings_for("client", paths)
    for choice in ("auto", "aioquic"):
        assert create_engine(settings, choice).name == "aioquic"
    with pytest.raises(ConfigError, match="QUICTUNNEL_ENGINE=auto"):
        create_engine(settings, "native")
    with pytest.raises(ConfigError, match="one of auto"):
        create_engine(settings, "quiche")
