"""Pairs of engines with the native one on at least one side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transport.engine_pairings import PAIRINGS
from tests.transport.hostile_peer import NATIVE_VICTIMS, make_attacked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transport.engine_pair import Pair


@pytest.fixture(params=[param for param in PAIRINGS if "native" in param.values[0]])
def engines(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The client's engine and the edge's."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture(params=NATIVE_VICTIMS)
def attacked(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Pair:
    """The native engine as an edge and as a client, and an aioquic engine on the other side."""
    return make_attacked(paths, *request.param)
