"""How many may come in."""

from __future__ import annotations

import resource

import pytest

from edge_server.admission import DOORSTEP_SHARE, FALLBACK_LIMIT, RESERVE, Admission, descriptor_limit
from edge_server.visitors.front import MAX_PENDING

HOST = "203.0.113.9"


def test_the_cap_is_reached_and_holds():
    admission = Admission(cap=3)
    assert [admission.enter("owner", "name", HOST) for _ in range(5)] == [True, True, True, False, False]
    assert (admission.inside, admission.refused) == (3, 2)


def test_who_leaves_makes_room_for_one():
    admission = Admission(cap=1)
    assert admission.enter("owner", "name", HOST)
    assert not admission.enter("owner", "name", HOST)
    admission.leave("owner", "name", HOST)
    assert admission.enter("owner", "name", HOST)
    assert not admission.enter("owner", "name", HOST)


@pytest.mark.parametrize("by", ["owner", "lease", "address", "network"])
def test_who_has_the_most_is_the_first_to_get_no_more(by: str):
    """One takes all that it can, then another; the next still finds some."""
    admission = Admission(cap=9000)

    def enter(who: int, visitor: int) -> bool:
        everywhere = f"10.{visitor >> 8}.{visitor & 255}.1"
        hosts = {"address": f"10.0.0.{who}", "network": f"2001:db8:0:{who:x}::{visitor:x}"}
        owner, lease = (who if by == which else visitor for which in ("owner", "lease"))
        return admission.enter(f"owner{owner}", f"lease{lease}", hosts.get(by, everywhere))

    taken = [sum(enter(who, visitor) for visitor in range(9000)) for who in range(3)]
    assert taken[0] == 8000
    assert taken[1] > 800
    assert taken[2] > 80
    assert admission.inside < admission.cap


def test_who_shares_an_address_is_not_punished_for_it_while_there_is_room():
    admission = Admission(cap=9000)
    assert all(admission.enter(f"owner{number}", f"name{number}", HOST) for number in range(5000))


def test_few_places_are_for_whoever_comes():
    admission = Admission(cap=10)
    assert [admission.enter("owner", "name", HOST) for _ in range(11)] == [True] * 10 + [False]


def test_what_everybody_left_is_forgotten():
    admission = Admission(cap=10)
    for host in (HOST, "2001:db8::1", ""):
        assert admission.enter("owner", "name", host)
        admission.leave("owner", "name", host)
    assert (admission.inside, admission._of, admission._at, admission._from) == (0, {}, {}, {})


@pytest.mark.parametrize("limit", [1, 256, 300, 1024, 20_000, 1_000_000])
def test_all_visitors_together_leave_the_reserve(monkeypatch, limit):
    monkeypatch.setattr("edge_server.admission.descriptor_limit", lambda: limit)
    admission = Admission()
    assert admission.cap >= 1
    assert 0 <= admission.doorstep <= MAX_PENDING
    assert admission.cap + admission.doorstep <= max(2, limit - RESERVE)
    assert admission.cap >= (limit - RESERVE) * (1 - 1 / DOORSTEP_SHARE) - 1


def test_ten_thousand_fit_into_twenty_thousand_files(monkeypatch):
    monkeypatch.setattr("edge_server.admission.descriptor_limit", lambda: 20_000)
    assert Admission().cap >= 10_000


class TestDescriptorLimit:
    @pytest.fixture
    def limits(self, monkeypatch):
        """Says what the system allows and remembers what was asked of it."""
        seen = []

        def say(soft: int, hard: int) -> list:
            monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
            monkeypatch.setattr(resource, "setrlimit", lambda _, pair: seen.append(pair))
            return seen

        return say

    def test_the_soft_limit_is_raised_to_the_hard_one(self, limits):
        seen = limits(1024, 4096)
        assert descriptor_limit() == 4096
        assert seen == [(4096, 4096)]

    def test_a_limit_that_is_as_high_as_it_may_be(self, limits):
        seen = limits(4096, 4096)
        assert descriptor_limit() == 4096
        assert seen == []

    def test_no_hard_limit(self, limits):
        seen = limits(1024, resource.RLIM_INFINITY)
        assert descriptor_limit() == 1024
        assert seen == []

    def test_no_limit_at_all(self, limits):
        limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert descriptor_limit() == FALLBACK_LIMIT
