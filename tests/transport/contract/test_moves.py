"""Clients whose address changes, and edges that are restarted."""

from __future__ import annotations

import pytest

from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.engines import create_engine
from tests.transport.contract.test_links import Bulk, shape
from tests.transport.engine_pair import CLIENT, Pair, settings_for


@pytest.mark.slow
def test_200_streams_while_the_clients_address_changes(make_pair):
    pair = make_pair()
    pair.connect()
    shape(pair, loss=0.001)
    bulk = Bulk(pair, 40_000)
    for number in range(20):
        pair.run(bulk.done, limit=0.3)
        pair.move_client((f"198.51.100.{number % 3}", 1000 + number))
        # Behind a NAT it would not know; its link asks when a busy peer falls silent.
        pair.connection.ping()
    assert pair.run(bulk.done, limit=300)
    bulk.check()
    assert bulk.longest_pause < 3


@pytest.mark.parametrize("address", [(CLIENT[0], 50_001), ("198.51.100.99", 50_000)], ids=["port", "host"])
@pytest.mark.parametrize("tells", [False, True], ids=["unnoticed", "migrate"])
def test_client_moves_to_another_address(make_pair, address, tells):
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
    if pair.edge.engine.name == "aioquic":
        assert len(edge.quic._network_paths) <= 8


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
