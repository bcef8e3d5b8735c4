"""A clock that stands still until a test moves it, and a whole edge in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.config.edge_config import EdgeConfig
from edge_server.startup import start_edge
from tests.harness.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.observability.introspection import Introspection
    from edge_server.server import RunningEdge


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["native", "aioquic"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        pytest.importorskip("quictunnel_native", reason="the native engine is not installed")
    return request.param


@pytest.fixture
async def edge(tmp_path: Path, engine: str) -> AsyncIterator[RunningEdge]:
    anywhere = "127.0.0.1", 0
    config = EdgeConfig(state_dir=tmp_path / "state", quic=anywhere, https=anywhere, engine=engine)
    server = await start_edge(config)
    yield server
    await server.stop()


@pytest.fixture
def introspection(edge: RunningEdge) -> Introspection:
    return edge.introspection
