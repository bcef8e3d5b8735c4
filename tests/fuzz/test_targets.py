"""Short run of each fuzz target; ``python -m tests.fuzz`` runs them for longer."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import plainly
from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS

COUNT = 5000


@pytest.mark.parametrize("name", TARGETS)
def test_holds_for_any_bytes(name: str):
    seeds = seeds_of(name)
    assert seeds
    for seed in seeds:
        TARGETS[name](seed)
    assert plainly(TARGETS[name], seeds, count=COUNT, seconds=60) == COUNT


def test_a_target_that_does_not_hold_is_found():
    def wrong(data: bytes) -> None:
        assert b"\xff" not in data

    with pytest.raises(AssertionError):
        plainly(wrong, [b"seed"], count=COUNT, seconds=60)
