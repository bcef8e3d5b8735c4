"""Runs of an edge that end with the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.edge_server.handoff.snapshot_rig import EdgeRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness.manual_clock import ManualClock


@pytest.fixture
async def runs(tmp_path: Path, clock: ManualClock) -> AsyncIterator[EdgeRuns]:
    runs = EdgeRuns(tmp_path, clock)
    yield runs
    await runs.end()
