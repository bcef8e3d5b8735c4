"""Pairs of engines with the native one on at least one side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engine import TRUSTED
from quictunnel.transport.engines import create_engine
from tests.transport.aioquic.conftest import paths
from tests.transport.aioquic.engine_pair import Pair, settings_for
from tests.transport.engine_pairings import PAIRINGS, needs_native
from tests.transport.native.hostile_peer import Fight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["paths"]


@pytest.fixture(params=[param for param in PAIRINGS if "native" in param.values[0]])
def engines(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The client's engine and the edge's."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture
def make_pair(paths: dict[str, Path], engines: tuple[str, str]) -> Callable[..., Pair]:
    """``make_pair(seed=1, client={...}, edge={...})``: settings by name, for each side."""
    return partial(_pair, paths, engines)


@pytest.fixture(
    params=[
        pytest.param(("aioquic", "native"), id="edge", marks=needs_native),
        pytest.param(("native", "aioquic"), id="client", marks=needs_native),
    ]
)
def attacked(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Pair:
    """The native engine as an edge and as a client, and an aioquic engine on the other side. How a window is
    earned is tested elsewhere; here it is the largest."""
    return _pair(paths, request.param, edge={"first_window": TRUSTED.connection_window})


@pytest.fixture
def fight(attacked: Pair) -> Iterator[Fight]:
    """A connection between them, and a look at what is left after it."""
    begun = Fight(attacked)
    yield begun
    begun.check_aftermath()


def _pair(
    paths: dict[str, Path],
    engines: tuple[str, str],
    *,
    seed: int = 1,
    client: dict | None = None,
    edge: dict | None = None,
) -> Pair:
    return Pair(
        create_engine(settings_for("client", paths, **(client or {})), engines[0]),
        create_engine(settings_for("edge", paths, **(edge or {})), engines[1]),
        seed=seed,
    )
