"""The session keeps its promises whatever happens to visitors, links, programs and edges, in any order."""

from __future__ import annotations

import pytest

from tests.model.report import text_of
from tests.model.runner import Episode, run, shrink
from tests.model.states import missing
from tests.transport.pairings import PAIRINGS

STEPS = 80_000
ENGINE_STEPS = 3_000
MILLION = 1_000_000


def check(steps: int, seed: int, engines: tuple[str, str] | None) -> None:
    result = run(steps, seed, engines=engines)
    print(text_of(result))
    for failure in result.failures:
        pytest.fail(text_of(shrink(failure)))
    assert missing(result.reached, is_scripted=engines is None) == []


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_sessions_keep_their_promises_over_scripted_links(seed: int) -> None:
    check(STEPS, seed, None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engines", PAIRINGS)
def test_sessions_keep_their_promises_over_real_engines(engines: tuple[str, str], seed: int) -> None:
    check(ENGINE_STEPS, seed, engines)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_steps_over_scripted_links() -> None:
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
