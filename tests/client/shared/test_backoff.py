"""Full-jitter back-off as a value."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.shared.backoff import Backoff

FIRSTS = st.floats(min_value=0.001, max_value=10)


@given(first=FIRSTS, factor=st.floats(min_value=1, max_value=1000), tries=st.integers(1, 200), seed=st.integers())
def test_every_wait_is_below_a_ceiling_that_doubles_up_to_the_cap(
    first: float, factor: float, tries: int, seed: int
) -> None:
    cap = first * factor
    backoff, chance = Backoff(first, cap), random.Random(seed)
    for attempt in range(tries):
        ceiling = min(cap, first * 2**attempt)
        assert backoff.ceiling == pytest.approx(ceiling)
        assert 0 <= backoff.next(chance) <= ceiling
    backoff.reset()
    assert backoff.ceiling == first


def test_trying_for_a_year_neither_overflows_nor_leaves_the_cap() -> None:
    backoff, chance = Backoff(), random.Random(1)
    assert max(backoff.next(chance) for _ in range(10_000)) <= backoff.cap == 15.0


def test_waits_spread_over_the_whole_range() -> None:
    """Equal jitter would keep to the upper half, and a thousand clients would crowd there."""
    chance = random.Random(7)
    waits = [Backoff(first=1.0).next(chance) for _ in range(4000)]
    assert statistics.mean(waits) == pytest.approx(0.5, abs=0.02)
    assert min(waits) < 0.01
    assert max(waits) > 0.99


def test_same_chance_same_waits() -> None:
    def waits(seed: int) -> list[float]:
        backoff, chance = Backoff(), random.Random(seed)
        return [backoff.next(chance) for _ in range(5)]

    assert waits(3) == waits(3) != waits(4)


@pytest.mark.parametrize(("first", "cap"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1), (1, float("nan"))])
def test_nonsense_is_refused(first: float, cap: float) -> None:
    with pytest.raises(ValueError, match="first"):
        Backoff(first, cap)
