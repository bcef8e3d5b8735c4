"""Tests of the rate limit on new connections."""

from __future__ import annotations

import math

import pytest

from edge_server.ingress.rate_limit import (
    MAX_BUDGET,
    MAX_QUEUE_DELAY,
    MIN_BUDGET,
    MIN_PER_SECOND,
    OVERLOAD_SECONDS,
    ConnectionRateLimiter,
)

CITY = "203.0.113.9"


class LoadedMachine:
    """A queue that is as long as it is told, at a time that it is told."""

    def __init__(self) -> None:
        self.waiting = 0
        self.now = 1000.0
        self.arrivals = ConnectionRateLimiter(lambda: self.waiting, lambda: self.now)

    def come(self, number: int, host: str = CITY, **whose: str) -> int:
        """Let ``number`` connections arrive; return how many were admitted."""
        return sum(self.arrivals.admit(host, **whose) for _ in range(number))

    def falls_behind(self, after: int) -> None:
        """Some seconds with so many visitors, each of somebody else, were too much; now is the next."""
        for _ in range(OVERLOAD_SECONDS):
            for number in range(after):
                host = f"10.0.{number >> 8}.{number & 255}"
                assert self.arrivals.admit(host, owner=str(number), tunnel_name=str(number))
            self.waiting = int(MAX_QUEUE_DELAY * max(after, MIN_BUDGET))
            self.now += 1
        assert self.come(1, "192.0.2.1", owner="first", tunnel_name="first")
        self.waiting = 0


def test_no_limit_while_the_machine_keeps_up():
    machine = LoadedMachine()
    assert machine.come(50_000, owner="one", tunnel_name="one") == 50_000
    assert machine.arrivals.refused == 0


@pytest.mark.parametrize("by", ["address", "prefix", "network", "site", "owner", "tunnel"])
def test_overload_refuses_the_most_frequent_first(by: str):
    machine = LoadedMachine()
    machine.falls_behind(after=1200)

    def come(who: str, number: int) -> int:
        return sum(
            machine.arrivals.admit(
                {
                    "address": f"10.9.{who}.9",
                    "prefix": f"2001:db8:{who}:0::{visit:x}",
                    "network": f"10.9.{who}.{visit & 255}",
                    "site": f"2001:db8:{who}:{visit:x}::1",
                }.get(by, f"10.{1 + (visit >> 8)}.{visit & 255}.{who}"),
                owner=who if by == "owner" else f"owner{who}-{visit}",
                tunnel_name=who if by == "tunnel" else f"tunnel{who}-{visit}",
            )
            for visit in range(number)
        )

    assert machine.arrivals.budget == 900
    first, second = (600, 200) if by not in {"owner", "tunnel"} else (800, 80)
    assert come("1", 3000) == first  # two thirds, or eight ninths, of what the one who came before has left
    assert come("2", 3000) >= second
    assert come("3", 5) == 5
    assert machine.arrivals.refused > 5000


def test_budget_shrinks_under_overload_and_is_lifted_after():
    machine = LoadedMachine()
    machine.falls_behind(after=2000)
    budgets = [machine.arrivals.budget]
    for waiting in [5000] * 20 + [0] * 30:
        machine.come(10_000 if waiting else 50)
        machine.waiting = waiting
        machine.now += 1
        machine.come(1)
        budgets.append(machine.arrivals.budget)
    assert budgets[0] == 1500
    assert min(budgets) == MIN_BUDGET
    assert budgets[:21] == sorted(budgets[:21], reverse=True)
    assert budgets[21:] == sorted(budgets[21:])
    assert max(budget for budget in budgets if budget < math.inf) < MAX_BUDGET
    assert budgets[-1] == math.inf


@pytest.mark.slow
def test_budget_grows_slowly_and_shrinks_within_a_second():
    """A machine that can do 1,500 a second is hardly ever behind, though 5,000 want to come."""
    machine = LoadedMachine()
    machine.falls_behind(after=2000)
    behind = 0
    for _ in range(60):
        came = 1 + sum(machine.come(1, f"10.9.{visit >> 8}.{visit & 255}") for visit in range(5000))
        machine.waiting = 1000 if came > 1600 else 0
        behind += came > 1600
        machine.now += 1
        machine.come(1)
        assert 1000 < machine.arrivals.budget < 2000
    assert 0 < behind <= 8


def test_a_burst_is_welcome():
    """Some hundreds at once are a queue for a moment."""
    machine = LoadedMachine()
    machine.come(300)
    for waiting in (300, 0, 300, 0):
        machine.waiting = waiting
        machine.now += 1
        assert machine.come(300) == 300


def test_flooded_tunnel_still_serves_other_addresses():
    machine = LoadedMachine()
    machine.falls_behind(after=1)
    assert machine.arrivals.budget == MIN_BUDGET
    assert machine.come(MIN_BUDGET, owner="one", tunnel_name="one") == 66
    assert machine.come(MIN_PER_SECOND, "198.51.100.7", owner="one", tunnel_name="one") == MIN_PER_SECOND


def test_a_long_pause_ends_it_at_once():
    machine = LoadedMachine()
    machine.falls_behind(after=1)
    machine.now += 86_400
    assert machine.come(20_000) == 20_000


def test_counts_last_one_second():
    machine = LoadedMachine()
    machine.come(100, owner="one", tunnel_name="one")
    machine.now += 1
    machine.come(1)
    assert len(machine.arrivals._by) == 4
