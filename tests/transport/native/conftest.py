"""Pairs of engines with the native one on at least one side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engines import create_engine
from tests.transport.aioquic.conftest import paths
from tests.transport.aioquic.pair import Pair, settings_for
from tests.transport.pairings import PAIRINGS

if TYPE_CHECKING:
    from collections.abc import Callable
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

    def make(*, seed: int = 1, client: dict | None = None, edge: dict | None = None) -> Pair:
        return Pair(
            create_engine(settings_for("client", paths, **(client or {})), engines[0]),
            create_engine(settings_for("edge", paths, **(edge or {})), engines[1]),
            seed=seed,
        )

    return make
