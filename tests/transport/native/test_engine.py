"""Behaviour of the native engine alone: rejected writes, panics, and the search for the largest datagram."""

from __future__ import annotations

import re

import pytest

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import settings_for
from tests.transport.engine_pairings import needs_native

KIB = 1024
BOTH = pytest.mark.parametrize("engines", [pytest.param(("native", "native"), marks=needs_native)], ids=["both"])


@needs_native
@pytest.mark.parametrize(
    "data",
    [memoryview(b"abcdef")[::2], bytearray(b"abc"), memoryview(bytearray(b"abc")), "abc", 7],
    ids=["gaps", "bytearray", "view of a bytearray", "text", "number"],
)
def test_mutable_or_strided_buffers_are_refused(paths, data):
    engine = create_engine(settings_for("client", paths), "native")
    connection = engine.connect(("192.0.2.1", 4433), "edge.test", 0.0)
    with pytest.raises((TypeError, BufferError, AttributeError)):
        connection.write(0, data)


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
def test_an_unknown_congestion_controller_is_refused(paths):
    with pytest.raises(ConfigError):
        create_engine(settings_for("edge", paths, congestion="reno"), "native")
