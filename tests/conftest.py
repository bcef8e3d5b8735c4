"""Options of whole runs: on which engines a whole tunnel is tested, and how much is done of what has no end.

``--pairing CLIENT-EDGE``, which may be repeated, or ``--pairing all``. Without it: where the wheel is installed
native-native, elsewhere aioquic-aioquic, and what is marked ``every_pairing`` on all four.

``--seeds N``: every test of the simulated network that asks for a seed runs with N of them.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import engine_pairing
from tests.transport.engine_pairings import HAS_NATIVE

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


TESTS = Path(__file__).parent
OUTSIDE = os.environ.get(engine_pairing.VARIABLE)
"""The engine that the environment of the tests chooses, if any."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pairing",
        action="append",
        choices=["all", *engine_pairing.ALL],
        metavar="CLIENT-EDGE",
        help="the engines that tests with a whole tunnel run on, or all; may be repeated",
    )
    parser.addoption(
        "--seeds", type=int, default=1, metavar="N", help="run what asks for a seed with N of them (default: 1)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pairing_in_force" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--pairing")
    every = metafunc.definition.get_closest_marker("every_pairing") is not None
    metafunc.parametrize(
        "pairing_in_force", engine_pairing.parameters(wanted, every=every), indirect=True, scope="session"
    )


def engines_of(item: pytest.Item) -> set[str]:
    """Return the engines of client and edge in a test of sessions or connections; empty if it has no choice."""
    chosen = item.callspec.params.get("engines") if hasattr(item, "callspec") else None
    return set(chosen) if isinstance(chosen, tuple) else set()


def is_repetition(item: pytest.Item) -> bool:
    """Return True if a test has a variant that takes less and says the same.

    Of the suites that run on all pairings of engines, the two pairings of one engine run as usual. Whole tunnels
    with two engines are in ``tests/e2e``.
    """
    is_mixed = len(engines_of(item)) > 1
    if is_mixed and item.path.parent in (TESTS / "transport" / "sessions", TESTS / "transport" / "contract"):
        return True
    return item.get_closest_marker("aioquic_is_long") is not None and HAS_NATIVE and "aioquic" in engines_of(item)


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that mostly wait first; mark tests of whole programs or networks, and those that are long on some
    pairings of engines."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    for item in items:
        if is_repetition(item):
            item.add_marker("long")
        if item.path.is_relative_to(TESTS / "e2e") or item.path.is_relative_to(TESTS / "netlab"):
            item.add_marker("whole")


def pytest_collection_finish() -> None:
    """Exempt what the collection has made, some hundred megabytes, from each later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide the engine of the pairing in force, which stays for the session, from tests that ask for no pairing."""
    if engine_pairing.in_force is None or "pairing_in_force" in getattr(item, "fixturenames", ()):
        return (yield)
    chosen = os.environ.pop(engine_pairing.VARIABLE)
    if OUTSIDE is not None:
        os.environ[engine_pairing.VARIABLE] = OUTSIDE
    try:
        return (yield)
    finally:
        if engine_pairing.in_force is not None:
            os.environ[engine_pairing.VARIABLE] = chosen


@pytest.fixture(scope="session")
def pairing_in_force(request: pytest.FixtureRequest) -> Iterator[engine_pairing.Pairing]:
    """The engines of this test. Clients take theirs from the environment, in this process and in others; edges
    are told theirs by whoever starts them (``pairing.edge_engine()``)."""
    chosen: engine_pairing.Pairing = request.param
    os.environ[engine_pairing.VARIABLE] = chosen.client
    engine_pairing.in_force = chosen
    yield chosen
    engine_pairing.in_force = None
    os.environ.pop(engine_pairing.VARIABLE, None)
    if OUTSIDE is not None:
        os.environ[engine_pairing.VARIABLE] = OUTSIDE
