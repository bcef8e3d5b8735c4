"""The session keeps its promises whatever happens to visitors, links, programs and edges, in any order."""

from __future__ import annotations

from typing import Final

import pytest

from tests.model.known import KNOWN
from tests.model.report import text_of
from tests.model.runner import Episode, run, shrink
from tests.model.states import missing
from tests.transport.engine_pairings import PAIRINGS

SEEDS: Final = (1, 2, 3, 4)
STEPS: Final = 25_000
"""For each seed: 100,000 steps in all, by as many workers as there are."""
ENGINE_STEPS: Final = 1_500
"""For each pairing."""
ENGINE_SEED: Final = 3
"""Seed with which so few steps reach all states."""
MILLION: Final = 1_000_000


def check(steps: int, seed: int, engines: tuple[str, str] | None) -> None:
    """Run so many steps; fail for a promise that was broken and for a state that was never reached."""
    result = run(steps, seed, known=KNOWN, engines=engines)
    print(f"seed {seed}: {text_of(result)}")
    for failure in result.failures:
        pytest.fail(text_of(shrink(failure, KNOWN)))
    assert missing(result.reached, is_scripted=engines is None) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_promises_hold_over_scripted_links(seed: int) -> None:
    check(STEPS, seed, None)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engines", PAIRINGS)
def test_promises_hold_over_real_engines(engines: tuple[str, str]) -> None:
    check(ENGINE_STEPS, ENGINE_SEED, engines)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_promises_hold_for_a_million_steps() -> None:
    check(MILLION, 7, None)


@pytest.mark.parametrize("engines", [None, ("aioquic", "aioquic")], ids=["scripted", "aioquic"])
def test_the_same_seed_takes_the_same_course(engines: tuple[str, str] | None) -> None:
    courses = []
    for _ in range(2):
        episode = Episode("same/1", engines=engines)
        episode.run()
        courses.append((episode.applied, episode.reached))
    assert courses[0] == courses[1]
    assert len(courses[0][0]) > 10
