"""The size of datagrams follows the path, up and down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engine import Closed
from quictunnel.transport.engines.aioquic.mtu import SIZES, MtuSearch

if TYPE_CHECKING:
    from tests.transport.engine_pair import Pair


def send_and_check(pair: Pair, size: int) -> None:
    edge = pair.edge.connections[0]
    stream = edge.open()
    sent = 0
    while sent < size:
        assert not pair.edge.of(Closed)
        sent += edge.write(stream, bytes(65_536))
        pair.settle(0.01)
    edge.finish(stream)
    assert pair.run(lambda: stream in pair.client.ended, limit=30)
    assert len(pair.client.received.pop(stream)) == sent


def discovering(make_pair, mtu: int, largest: int = 32_000) -> Pair:
    pair = make_pair(edge={"largest_datagram": largest}, client={"largest_datagram": largest})
    for link in (pair.up, pair.down):
        link.delay, link.mtu = 0.005, mtu
    pair.connect()
    return pair


@pytest.mark.parametrize(
    ("mtu", "found"), [(1380, 1350), (1440, 1432), (1472, 1452), (8972, 8932), (65_507, 32_000)]
)
def test_the_largest_size_that_fits_is_found(make_pair, mtu, found):
    pair = discovering(make_pair, mtu)
    window = pair.edge.connections[0].stats().congestion_window
    pair.settle(5)
    assert pair.edge.connections[0].stats().datagram_size == found
    assert pair.connection.stats().datagram_size == found
    assert pair.edge.connections[0].stats().congestion_window >= min(window, 2 * found)
    assert pair.edge.connections[0].stats().bytes_in_flight == 0
    send_and_check(pair, 2_000_000)


def test_without_being_asked_the_size_stays(make_pair):
    pair = discovering(make_pair, 65_507, largest=0)
    send_and_check(pair, 1_000_000)
    assert pair.connection.stats().datagram_size == 1350


def test_a_path_that_carries_less_is_noticed(make_pair):
    pair = discovering(make_pair, 8972)
    pair.settle(5)
    send_and_check(pair, 1_000_000)
    for link in (pair.up, pair.down):
        link.mtu = 1400
    began = pair.now
    send_and_check(pair, 1_000_000)
    assert pair.edge.connections[0].stats().datagram_size == 1350
    assert pair.now - began < 10
    assert not pair.edge.of(Closed)


def test_a_new_path_is_searched_anew(make_pair):
    pair = discovering(make_pair, 8972)
    pair.settle(5)
    for link in (pair.up, pair.down):
        link.mtu = 1400
    pair.move_client(("198.51.100.77", 7))
    pair.connection.migrate()
    pair.settle(5)
    assert pair.edge.connections[0].stats().datagram_size == 1350
    send_and_check(pair, 500_000)


def test_accidental_losses_do_not_shrink_it(make_pair):
    pair = discovering(make_pair, 1472)
    pair.settle(5)
    for link in (pair.up, pair.down):
        link.loss = 0.05
    send_and_check(pair, 1_000_000)
    assert pair.edge.connections[0].stats().datagram_size == 1452


def test_mtu_search_is_repeated():
    search = MtuSearch(1350, 1500)
    for _ in range(3):
        assert search.next_probe(1.0) == SIZES[0]
        assert search.next_probe(1.0) is None
        search.on_probe(SIZES[0], arrived=False)
    assert search.next_probe(2.0) is None
    assert search.next_probe(700.0) == SIZES[0]
    search.on_probe(SIZES[0], arrived=True)
    assert search.next_probe(700.0) == SIZES[1]
    search.on_probe(SIZES[1], arrived=True)
    assert search.next_probe(700.0) == SIZES[2]
    search.on_probe(SIZES[2], arrived=True)
    assert search.next_probe(700.0) is None
    assert search.size == 1452
