"""Pairs of engines, each engine on each side; a hostile peer against each engine on each side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transport.engine_pairings import engines
from tests.transport.hostile_peer import AIOQUIC_VICTIMS, NATIVE_VICTIMS, make_attacked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transport.engine_pair import Pair

__all__ = ["engines"]


@pytest.fixture(params=[*AIOQUIC_VICTIMS, *NATIVE_VICTIMS])
def attacked(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Pair:
    """An engine as an edge or as a client; on the other side an aioquic engine, whose packets can be forged."""
    return make_attacked(paths, *request.param)
