"""Bad links, addresses that change, and silence, with the native engine on one side or both."""

from __future__ import annotations

import pytest

from quictunnel.transport.engine import CloseCause, Closed, Connected
from quictunnel.transport.engines import create_engine
from tests.transport.aioquic.test_paths import (
    FAULTS,
    Bulk,
    shape,
    test_200_streams_while_the_clients_address_changes,
)
from tests.transport.aioquic.test_strangers import test_handshakes_under_30_percent_loss
from tests.transport.engine_pair import CLIENT, Pair, settings_for
from tests.transport.native.test_engine import BOTH

__all__ = [
    "test_200_streams_while_the_clients_address_changes",
    "test_handshakes_under_30_percent_loss",
]


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_200_streams_busy_both_ways(make_pair, faults):
    pair = make_pair()
    shape(pair, **faults)
    pair.connect()
    bulk = Bulk(pair, 40_000 if faults else 100_000)
    assert pair.run(bulk.done, limit=600)
    bulk.check()
    assert bulk.longest_pause < 3
    pair.settle(2)
    assert pair.connection.stats().streams_open == bulk.edge.stats().streams_open == 0


@pytest.mark.parametrize("seconds", [3, 12])
def test_bytes_move_soon_after_a_black_hole(make_pair, seconds):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 2e6
    _, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, bytes(100_000))
    pair.settle(0.03)
    pair.up.down = pair.down.down = True
    pair.run(limit=seconds)
    before = len(pair.client.received.get(stream, b""))
    assert before < 100_000
    pair.up.down = pair.down.down = False
    healed = pair.now
    assert pair.run(lambda: len(pair.client.received.get(stream, b"")) == 100_000, limit=10)
    assert pair.now - healed < 2


@BOTH
@pytest.mark.parametrize("address", [(CLIENT[0], 50_001), ("198.51.100.99", 50_000)], ids=["port", "host"])
@pytest.mark.parametrize("tells", [False, True], ids=["unnoticed", "migrate"])
def test_the_client_comes_from_another_address(make_pair, address, tells):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 5e6
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    sent = 0
    longest, last = 0.0, pair.now
    while sent < 2_000_000:
        if sent > 400_000 and pair.client_address != address:
            pair.move_client(address)
            if tells:
                client.migrate()
        sent += client.write(stream, bytes(64 * 1024))
        before = len(pair.edge.received.get(stream, b""))
        pair.settle(0.01)
        if len(pair.edge.received.get(stream, b"")) > before:
            longest, last = max(longest, pair.now - last), pair.now
    edge.write(stream, b"still here")
    pair.settle(2)
    assert len(pair.edge.received[stream]) == sent
    assert pair.client.received[stream].endswith(b"still here")
    assert edge.address == address
    assert longest < 0.5


@BOTH
@pytest.mark.parametrize("prefix", ["", "::ffff:"], ids=["ipv4", "dual-stack"])
def test_a_public_client_does_not_become_a_neighbour(make_pair, prefix):
    pair = make_pair()
    pair.client_address = (prefix + "8.8.4.4", 4000)
    client, edge = pair.connect()
    for host, follows in (("127.0.0.1", False), ("10.0.0.1", False), ("8.8.8.8", True)):
        pair.move_client((prefix + host, 53))
        client.ping()
        pair.turn()
        pair.turn()
        assert (edge.address == (prefix + host, 53)) is follows


def restart(pair: Pair, paths, **changes) -> None:
    pair.edge.engine = create_engine(settings_for("edge", paths, **changes), pair.edge.engine.name)
    pair.edge.connections.clear()


def test_a_restarted_edge_is_noticed_at_once(make_pair, paths):
    pair = make_pair()
    client, _ = pair.connect()
    restart(pair, paths)
    client.ping()
    pair.settle(0.1)
    assert [event.cause for event in pair.client.of(Closed)] == [CloseCause.RESET]
    assert not pair.client.engine.has_connections()
    assert pair.edge.engine.counters.resets_sent == 1


def test_another_key_cannot_reset(make_pair, paths):
    pair = make_pair()
    client, _ = pair.connect()
    restart(pair, paths, reset_key=b"z" * 32)
    client.ping()
    pair.settle(1)
    assert not pair.client.of(Closed)


@pytest.mark.parametrize("retry", [True, False])
def test_a_handshake_that_stops_is_given_up_on_both_sides(make_pair, retry):
    pair = make_pair(edge={"retry": retry})
    pair.up.delay = pair.down.delay = 0.01
    pair.connection = pair.client.engine.connect(("192.0.2.1", 4433), "edge.test", pair.now)
    assert pair.run(pair.edge.engine.has_connections, limit=1)
    pair.up.down = True
    pair.run(limit=4.9)
    assert pair.edge.engine.has_connections()
    pair.run(limit=8)
    assert not pair.edge.events
    assert not pair.edge.engine.has_connections()
    assert pair.edge.engine.counters.connections_failed == 1
    assert len(pair.client.of(Closed)) == (1 if retry or not pair.client.of(Connected) else 0)


def test_ten_moves_in_three_seconds(make_pair):
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 5e6
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle()
    sent = answered = 0
    for number in range(10):
        pair.move_client((f"198.51.100.{20 + number}", 40_000 + number))
        for _ in range(30):
            sent += client.write(stream, bytes(4096))
            answered += edge.write(stream, bytes(4096))
            pair.settle(0.01)
    pair.settle(3)
    assert len(pair.edge.received[stream]) == sent
    assert len(pair.client.received[stream]) == 1 + answered


@pytest.mark.parametrize("heard", [1, 4])
def test_a_full_window_is_lost_as_the_client_moves(make_pair, heard):
    """Both sides wait for acknowledgements that went elsewhere. What the edge may send to the new address, it
    earns by what it hears from there: a few packets, and then probes."""
    pair = make_pair()
    for link in (pair.up, pair.down):
        link.delay, link.rate, link.queue = 0.05, 5e6, 100_000
    client, edge = pair.connect()
    streams = [edge.open() for _ in range(2)]
    for stream in streams:
        edge.write(stream, b"x")
    pair.settle()

    def write() -> int:
        """Both have more to say than the window lets go."""
        client.write(streams[0], bytes(256 * 1024))
        edge.write(streams[1], bytes(256 * 1024))
        pair.settle(0.01)
        return len(pair.edge.received.get(streams[0], b""))

    for _ in range(200):
        write()
    pair.move_client((CLIENT[0], 50_001))
    before = pair.up.carried
    while pair.up.carried < before + heard * 1200:
        pair.turn()
        pair.now += 0.001
    pair.up.down = pair.down.down = True
    pair.settle(0.15)
    pair.up.down = pair.down.down = False
    begun, before = pair.now, write()
    while write() < before + 500_000:
        assert pair.now - begun < 1.5
