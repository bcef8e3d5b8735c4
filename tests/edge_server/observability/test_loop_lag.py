"""Tests of the event loop's lag monitor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from edge_server.observability.loop_lag import MEASURE_INTERVAL, WARN_LAG, LoopLagMonitor

if TYPE_CHECKING:
    import pytest


async def test_blocked_loop_is_measured_and_logged_once(caplog: pytest.LogCaptureFixture):
    lag = LoopLagMonitor()
    caplog.set_level(logging.WARNING, "edge_server.observability.loop_lag")
    task = asyncio.create_task(lag.watch())
    await asyncio.sleep(3 * MEASURE_INTERVAL)
    quiet = lag.worst
    for _ in range(2):
        time.sleep(WARN_LAG + 2 * MEASURE_INTERVAL)  # noqa: ASYNC251 - the fault that is to be seen
        await asyncio.sleep(2 * MEASURE_INTERVAL)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert quiet < WARN_LAG
    assert WARN_LAG <= lag.worst < WARN_LAG + 1
    assert len(caplog.records) == 1
    assert "the event loop was blocked" in caplog.text
