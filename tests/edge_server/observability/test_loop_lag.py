"""How late the event loop is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from edge_server.observability.loop_lag import LATE, TICK, LoopLagMonitor

if TYPE_CHECKING:
    import pytest


async def test_a_loop_that_is_held_up_shows_and_is_told_once(caplog: pytest.LogCaptureFixture):
    lag = LoopLagMonitor()
    caplog.set_level(logging.WARNING, "edge_server.observability.loop_lag")
    task = asyncio.create_task(lag.watch())
    await asyncio.sleep(3 * TICK)
    quiet = lag.worst
    for _ in range(2):
        time.sleep(LATE + 2 * TICK)  # noqa: ASYNC251 - the fault that is to be seen
        await asyncio.sleep(2 * TICK)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert quiet < LATE
    assert LATE <= lag.worst < LATE + 1
    assert len(caplog.records) == 1
    assert "everybody waited" in caplog.text
