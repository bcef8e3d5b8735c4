"""Tests of a client's visitor limit, and of how tunnels and networks share it."""

from __future__ import annotations

import itertools
import os
import resource
from pathlib import Path

import pytest

from quictunnel.connection import capacity
from quictunnel.connection.capacity import (
    LISTING_REUSE_FACTOR,
    MAX_KEPT_FREE,
    MIN_KEPT_FREE,
    Capacity,
    free_descriptors,
    kept_free,
    peer_of,
)


def limit_now() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def says_how_many() -> bool:
    """Return True on Linux 6.2 and newer."""
    return Path("/proc/self/fd").exists() and Path("/proc/self/fd").stat().st_size > 0


@pytest.fixture
def places(monkeypatch):
    """A capacity of so many places as long as nobody is there."""
    made = Capacity()

    def of(number: int | None) -> Capacity:
        def free() -> int | None:
            return None if number is None else number - made.reserved + made._opening

        monkeypatch.setattr(capacity, "free_descriptors", free)
        return made

    return of


def test_single_network_leaves_room_for_others(places):
    limited = places(900)
    taken = []
    while (place := limited.reserve(1, "192.0.2.1")) is not None:
        taken.append(place)
    assert 700 < len(taken) < 810
    assert limited.reserve(2, "192.0.2.1") is None
    others = [limited.reserve(2, f"198.51.100.{n}") for n in range(50)]
    assert None not in others


def test_single_tunnel_leaves_room_for_others(places):
    limited = places(900)
    count = 0
    while limited.reserve(1, f"198.51.{count // 250}.{count % 250}") is not None:
        count += 1
    assert 700 < count < 810
    assert limited.reserve(2, "192.0.2.1") is not None


def test_a_descriptor_that_is_not_open_yet_counts(monkeypatch):
    """Many come in one turn of the loop, before the first of them has a socket."""
    monkeypatch.setattr(capacity, "free_descriptors", lambda: 10)
    limited = Capacity()
    taken = [limited.reserve(n, f"192.0.2.{n}") for n in range(20)]
    assert [place is not None for place in taken] == [True] * 10 + [False] * 10
    taken[0].mark_opened()
    assert limited.reserve(1, "192.0.2.1") is not None


def test_a_place_that_was_given_back_may_be_taken_again(places):
    limited = places(3)
    taken = [limited.reserve(1, "192.0.2.1") for _ in range(3)]
    assert None not in taken
    assert limited.reserve(1, "192.0.2.1") is None
    taken[0].release()
    assert limited.reserve(1, "192.0.2.1") is not None
    assert limited.reserved == 3


def test_visitors_that_left_are_forgotten(places):
    limited = places(100)
    for n in range(50):
        limited.reserve(n, f"192.0.2.{n}").release()
    assert (limited.reserved, limited._per_holder) == (0, {})


def test_no_limit_admits_everybody(places):
    unlimited = places(None)
    assert None not in [unlimited.reserve(1, "192.0.2.1") for _ in range(10_000)]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(64, MIN_KEPT_FREE), (256, 64), (1024, 256), (65_536, MAX_KEPT_FREE), (1 << 30, MAX_KEPT_FREE)],
)
def test_the_descriptors_kept_free_are_a_part_of_the_limit(limit, kept):
    assert kept_free(limit) == kept


def test_descriptors_of_the_program_count():
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = free_descriptors()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    try:
        assert free_descriptors() == before - 100
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit


@pytest.mark.skipif(not says_how_many(), reason="the system does not say how many descriptors a process has")
def test_a_gap_among_the_descriptors_is_room_for_one():
    """Many come in one turn of the loop, and each would find the same gap."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    try:
        before = free_descriptors()
        os.close(opened.pop(0))
        assert free_descriptors() == before + 1
    finally:
        for descriptor in opened:
            os.close(descriptor)


@pytest.fixture(params=[None, 0, 1 << 24], ids=["no proc", "an older Linux", "another system"])
def silent_system(request, monkeypatch, tmp_path):
    """A system that does not report how many descriptors a process has open. Returns its clock, which advances
    by a second with each look."""
    monkeypatch.setattr(capacity, "OPEN_DESCRIPTORS", tmp_path / "fd")
    if request.param is not None:
        with (tmp_path / "fd").open("wb") as file:
            file.truncate(request.param)
    seconds = itertools.count()
    monkeypatch.setattr(capacity, "_listing", capacity._Listing(lambda: float(next(seconds))))
    return seconds


def test_descriptors_are_listed_where_the_system_has_no_count(silent_system):
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    try:
        before = free_descriptors()
        assert before == limit_now() - kept_free(limit_now()) - (len(list(Path("/proc/self/fd").iterdir())) - 1)
        os.close(opened.pop(0))
        for _ in range(2 * LISTING_REUSE_FACTOR):
            next(silent_system)
        assert free_descriptors() == before + 1, "a gap is room for one"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_listing_is_used_for_a_while_and_every_visitor_counts(silent_system, monkeypatch):
    listed = []
    monkeypatch.setattr(capacity._Listing, "_list", staticmethod(lambda: listed.append(1) or 400))
    before, capacity_used = free_descriptors(), Capacity()
    for number in range(5):
        capacity_used.reserve(number, "192.0.2.1").mark_opened()
    assert free_descriptors() == before - 5
    assert len(listed) == 1
    for _ in range(LISTING_REUSE_FACTOR):
        next(silent_system)
    assert free_descriptors() == before
    assert len(listed) == 2


def test_lowest_free_descriptor_is_the_last_resort(silent_system, monkeypatch, tmp_path):
    monkeypatch.setattr(capacity, "DESCRIPTOR_DIRS", (tmp_path / "nothing",))
    lowest = os.dup(0)
    os.close(lowest)
    assert free_descriptors() == limit_now() - kept_free(limit_now()) - lowest


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_a_subscriber_is_one_network(host, network):
    assert peer_of(host) == network
