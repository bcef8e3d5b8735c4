"""The last hour, however much comes: bounded, and those who moved most are in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.admin.history import (
    MAX_SAMPLES,
    MAX_TABLES,
    MAX_TALKERS,
    SAMPLE_INTERVAL,
    TABLE_SECONDS,
    History,
    TopTalkers,
)
from edge_server.tunnels.visitor_log import VisitorLog
from quictunnel.transport.splice import TcpSplice

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.visitor_log import VisitorConnection
    from tests.harness.manual_clock import ManualClock


def leaves(visitor_log: VisitorLog, visit: VisitorConnection) -> None:
    visitor_log.end(visit, TcpSplice(lambda _: None))


def test_a_sample_says_what_was_in_its_ten_seconds(clock: ManualClock, visit: Callable[..., VisitorConnection]):
    visitor_log = VisitorLog()
    history = History(visitor_log, clock)
    first, second = visit(bytes_in=10, bytes_out=20), visit(bytes_in=1)
    visitor_log.begin(first)
    visitor_log.begin(second)
    clock.now += SAMPLE_INTERVAL
    history.sample()
    first.moved = 15, 40
    leaves(visitor_log, first)
    clock.now += SAMPLE_INTERVAL
    history.sample()
    clock.now += SAMPLE_INTERVAL
    history.sample()
    found = [(one.at, one.visitors, one.came, one.bytes_in, one.bytes_out) for one in history.past().samples]
    assert found == [(1010.0, 2, 2, 11, 20), (1020.0, 1, 0, 5, 20), (1030.0, 1, 0, 0, 0)]
    assert history.last == history.past().samples[-1]


def test_an_hour_is_kept_and_no_more(clock: ManualClock):
    history = History(VisitorLog(), clock)
    assert history.last is None
    for _ in range(MAX_SAMPLES + 5):
        clock.now += SAMPLE_INTERVAL
        history.sample()
    samples = history.past().samples
    assert len(samples) == MAX_SAMPLES
    assert samples[-1].at - samples[0].at == (MAX_SAMPLES - 1) * SAMPLE_INTERVAL


def test_top_talkers_are_found_among_endless_addresses(
    clock: ManualClock, visit: Callable[..., VisitorConnection]
):
    heard = TopTalkers(VisitorLog(), clock)
    for number in range(20 * MAX_TALKERS):
        host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        heard.on_visitor_end(visit(host, f"name{number}", 1, 1))
        if number % 100 == 0:
            heard.on_visitor_end(visit("192.0.2.7", "busy", 500, 500))
    ((_, addresses, tunnels),) = heard._tables
    assert max(len(addresses), len(tunnels)) < 2 * MAX_TALKERS
    top = heard.top(3)
    assert (top.addresses[0].who, top.addresses[0].bytes) == ("192.0.2.7", 1000 * 205)
    assert (top.tunnels[0].who, top.tunnels[0].bytes) == ("busy", 1000 * 205)
    assert len(top.addresses) == len(top.tunnels) == 3
    assert top.remembered == len(addresses)


def test_current_visitors_and_those_of_the_last_hour_count(
    clock: ManualClock, visit: Callable[..., VisitorConnection]
):
    visitor_log = VisitorLog()
    heard = TopTalkers(visitor_log, clock)
    visitor_log.on_end = lambda ended, *_: heard.on_visitor_end(ended)
    stays, goes = visit("2001:db8::1", "a", 1, 2), visit("2001:db8::ffff", "a", 10, 20)
    for one in (stays, goes):
        visitor_log.begin(one)
    leaves(visitor_log, goes)
    (talker,) = heard.top(9).addresses
    assert (talker.who, talker.bytes, talker.visitors) == ("2001:db8::/64", 33, 1)
    clock.now += TABLE_SECONDS * MAX_TABLES
    assert [one.bytes for one in heard.top(9).addresses] == [3]
    for _ in range(2 * MAX_TABLES):
        clock.now += TABLE_SECONDS
        heard.on_visitor_end(visit())
    assert len(heard._tables) == MAX_TABLES
