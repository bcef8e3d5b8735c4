"""Pairs of aioquic engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.transport.engine_pair import LARGEST_WINDOW, make_pair_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.transport.engine_pair import Pair


@pytest.fixture
def make_pair(paths: dict[str, Path]) -> Callable[..., Pair]:
    """``make_pair(seed=1, client={...}, edge={...})``: settings by name, for each side. How a window is earned is
    tested elsewhere; here it is the largest."""

    def make(*, edge: dict[str, object] | None = None, **more: Any) -> Pair:
        return make_pair_of(paths, ("aioquic", "aioquic"), edge=LARGEST_WINDOW | (edge or {}), **more)

    return make
