"""Rates between two looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.admin.models import RateMeter

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock


def test_a_rate_is_what_was_carried_by_the_time_that_passed(clock: ManualClock):
    meter = RateMeter(clock)
    clock.now += 2
    meter.measure(lambda: {"a": (200, 0), "b": (0, 1000)})
    assert (meter.rate("a"), meter.rate("b"), meter.rate("c")) == ((100, 0), (0, 500), (0, 0))
    clock.now += 0.5
    meter.measure(lambda: {"a": (10_000, 0)})
    assert meter.rate("a") == (100, 0), "too soon for another"
    clock.now += 0.5
    meter.measure(lambda: {"a": (300, 5)})
    assert meter.rate("a") == (100, 5)
    assert meter.rate("b") == (0, 0), "what is not held any more is forgotten"
    clock.now += 1
    meter.measure(lambda: {"a": (0, 0)})
    assert meter.rate("a") == (0, 0), "a tunnel that began anew"
