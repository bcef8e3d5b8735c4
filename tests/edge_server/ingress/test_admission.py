"""Tests of the admission limits."""

from __future__ import annotations

import pytest

from edge_server.ingress.admission import Admission

HOST = "203.0.113.9"


def test_the_cap_is_reached_and_holds():
    admission = Admission(cap=3)
    places = [admission.acquire(f"owner{n}", f"name{n}", f"10.0.{n}.1") for n in range(5)]
    assert places == [True, True, True, False, False]
    assert (admission.active, admission.refused) == (3, 2)


def test_leaving_visitor_frees_one_place():
    admission = Admission(cap=1)
    assert admission.acquire("owner", "name", HOST)
    assert not admission.acquire("owner", "name", HOST)
    admission.release("owner", "name", HOST)
    assert admission.acquire("owner", "name", HOST)
    assert not admission.acquire("owner", "name", HOST)


@pytest.mark.parametrize("by", ["owner", "tunnel", "address", "prefix", "network", "site"])
def test_largest_holder_is_refused_first(by: str):
    """A holder takes all that it can, then another; the next still gets some."""
    admission = Admission(cap=9000)

    def enter(who: int, visitor: int) -> bool:
        everywhere = f"10.{visitor >> 8}.{visitor & 255}.1"
        hosts = {
            "address": f"10.0.{who}.1",
            "prefix": f"2001:db8:{who:x}:0::{visitor:x}",
            "network": f"10.{who}.0.{visitor & 255}",
            "site": f"2001:db8:{who:x}:{visitor:x}::1",
        }
        owner, tunnel_name = (who if by == which else visitor for which in ("owner", "tunnel"))
        return admission.acquire(f"owner{owner}", f"tunnel{tunnel_name}", hosts.get(by, everywhere))

    taken = [sum(enter(who, visitor) for visitor in range(9000)) for who in range(3)]
    assert taken[0] == 8000
    assert taken[1] > 800
    assert taken[2] > 80
    assert admission.active < admission.cap


def test_shared_address_is_admitted_while_there_is_room():
    admission = Admission(cap=9000)
    assert all(admission.acquire(f"owner{number}", f"name{number}", HOST) for number in range(5000))


def test_small_limit_reserves_only_the_last_place():
    admission = Admission(cap=10)
    assert [admission.acquire("owner", "name", HOST) for _ in range(11)] == [True] * 9 + [False] * 2
    assert admission.acquire("other", "other", "198.51.100.7")


def test_empty_counts_are_forgotten():
    admission = Admission(cap=10)
    for host in (HOST, "2001:db8::1", ""):
        assert admission.acquire("owner", "name", host)
        admission.release("owner", "name", host)
    assert admission.active == 0
    assert [admission._by_owner, admission._by_tunnel, admission._by_address, admission._by_network] == [{}] * 4
