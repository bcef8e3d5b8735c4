"""The promise about the inspector's cost: at most 30 % of the speed of bulk bytes."""

from __future__ import annotations

import statistics

import pytest

from perf.inspector import MIB, measure

MOST = 0.3


def lost(pairs: int) -> dict[str, float]:
    found = measure(pairs, 48 * MIB, with_requests=False)
    return {way: 1 - statistics.median(pair.speed for pair in ratios) for way, ratios in found.items()}


@pytest.mark.alone
def test_inspector_overhead() -> None:
    """Another program may have come between: what seems too much is looked at again, for longer."""
    seen = lost(5)
    if max(seen.values()) > MOST:
        seen = lost(15)
    assert max(seen.values()) <= MOST, seen
