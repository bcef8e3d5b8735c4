"""Background work that fails is reported: by the log, and to its owner."""

from __future__ import annotations

import asyncio
import logging

import pytest

from quictunnel.shared import supervision
from quictunnel.shared.event_loop import EventLoopThread
from quictunnel.shared.supervision import MAX_LOGGED, Supervisor


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def supervisor(reports: list[tuple[str, str]]) -> Supervisor:
    return Supervisor(lambda what, error: reports.append((what, str(error))))


async def fail(words: str = "broken") -> None:
    raise ValueError(words)


async def test_a_task_that_fails_is_logged_with_its_traceback(supervisor, reports, caplog):
    await asyncio.wait([supervisor.start(fail(), "the work")])
    await asyncio.sleep(0)
    assert reports == [("the work", "broken")]
    assert "the work" in caplog.text
    assert "in fail" in caplog.text


async def test_a_task_that_ends_or_is_cancelled_is_no_failure(supervisor, reports):
    ended = supervisor.start(asyncio.sleep(0), "ends")
    cancelled = supervisor.start(asyncio.sleep(9), "is cancelled")
    cancelled.cancel()
    await asyncio.wait([ended, cancelled])
    await asyncio.sleep(0)
    assert reports == []
    assert supervisor.failures == 0


async def test_failed_loop_is_restarted(supervisor, reports, monkeypatch):
    monkeypatch.setattr(supervision, "RESTART_PAUSE", 0.0)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            assert supervisor.failing == {"the loop": "ValueError('broken')"}
        if turns < 3:
            await fail()
        await asyncio.sleep(0.2)

    monkeypatch.setattr(supervision, "RECOVERY_TIME", 0.05)
    await supervisor.keep_running(turn, "the loop")
    assert turns == 3
    assert reports == [("the loop", "broken")], "the same fault again is only counted"
    assert supervisor.failures == 2
    assert supervisor.failing == {}, "it ran for a while"


async def test_a_fault_that_repeats_does_not_fill_the_log(supervisor, reports, caplog):
    for _ in range(MAX_LOGGED + 50):
        supervisor.report("the work", ValueError("broken"))
    assert len(caplog.records) == MAX_LOGGED
    assert supervisor.failures == len(reports) == MAX_LOGGED + 50


def test_a_callback_of_the_background_loop_that_fails_is_logged(caplog):
    background = EventLoopThread("under test")
    done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), background.loop)
    background.loop.call_soon_threadsafe(lambda: {}["nothing"])
    done.result(10)
    background.stop()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
