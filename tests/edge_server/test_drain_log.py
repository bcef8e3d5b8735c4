"""Tests of the log lines about a drain."""

from __future__ import annotations

import logging

import pytest

from edge_server.drain_log import PROGRESS_INTERVAL, DrainLog


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_drain_says_how_many_visitors_remain(caplog: pytest.LogCaptureFixture):
    log = DrainLog(100.0, 30.0, 25)
    for now in (100.0, 104.9, 105.0, 105.1, 109.9, 110.2):
        log.report(now, 12)
    log.end(111.0, 0)
    assert caplog.messages == [
        "draining: 25 visitors, at most 30 s",
        "draining: 12 visitors left after 5 s, at most 25 s more",
        "draining: 12 visitors left after 10 s, at most 20 s more",
        "drained after 11.0 s; all visitors have finished",
    ]
    assert PROGRESS_INTERVAL == 5.0


def test_after_a_takeover_the_successor_is_named(caplog: pytest.LogCaptureFixture):
    DrainLog(0.0, 7.5, 1, successor=4711)
    assert caplog.messages == ["taken over by pid 4711; draining: 1 visitor, at most 7.5 s"]


@pytest.mark.parametrize(
    ("visitors", "why", "level", "said"),
    [
        (3, "the time is over", "WARNING", "drain ended after 2.0 s (the time is over): 3 visitors cut off"),
        (1, "stopped early", "WARNING", "drain ended after 2.0 s (stopped early): 1 visitor cut off"),
        (0, "stopped early", "INFO", "drain ended after 2.0 s (stopped early): 0 visitors cut off"),
        (2, "", "INFO", "drained after 2.0 s; 2 visitors without traffic closed"),
    ],
)
def test_the_end_says_who_was_cut_off(
    caplog: pytest.LogCaptureFixture, visitors: int, why: str, level: str, said: str
):
    DrainLog(0.0, 2.0, 5).end(2.0, visitors, why=why)
    assert [(record.levelname, record.message) for record in caplog.records[1:]] == [(level, said)]
