"""Pairs of engines, each engine on each side; a hostile peer against each engine on each side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.transport.engine_pair import make_pair_of
from tests.transport.engine_pairings import engines
from tests.transport.hostile_peer import AIOQUIC_VICTIMS, NATIVE_VICTIMS, Attack, make_attacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.transport.engine_pair import Pair

__all__ = ["engines"]


@pytest.fixture
def make_pair(paths: dict[str, Path], engines: tuple[str, str]) -> Callable[..., Pair]:
    """``make_pair(seed=1, client={...}, edge={...})``: settings by name, for each side."""
    return partial(make_pair_of, paths, engines)


@pytest.fixture(params=[*AIOQUIC_VICTIMS, *NATIVE_VICTIMS])
def attacked(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Pair:
    """An engine as an edge or as a client; on the other side an aioquic engine, whose packets can be forged."""
    return make_attacked(paths, *request.param)


@pytest.fixture
def attack(attacked: Pair) -> Iterator[Attack]:
    """A connection between them, and a look at what is left after it."""
    begun = Attack(attacked)
    yield begun
    begun.check_aftermath()
