"""The edge's clock when the system's jumps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from edge_server.storage.steady_clock import CONFIRMATION_TIME, MAX_CORRECTION, SETTLING_TIME, Clock

if TYPE_CHECKING:
    from collections.abc import Callable

MONTH = 31 * 86_400.0
BEGIN = 1_800_000_000.0


class SystemClocks:
    """A system's clock, which may be set, and time itself, which may not."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.steady = 1000.0
        self.wrong = wrong
        self.clock = Clock(lambda: BEGIN + self.steady - 1000.0 + self.wrong, lambda: self.steady)
        self.reported_jumps: list[float] = []
        self.clock.add_listener(self.reported_jumps.append)

    def advance(self, seconds: float, step: float = 30.0) -> None:
        end = self.steady + seconds
        while self.steady < end:
            self.steady = min(end, self.steady + step)
            self.clock.check()

    @property
    def error(self) -> float:
        """By how much the edge's clock is ahead of time itself."""
        return self.clock.now() - BEGIN - (self.steady - 1000.0)


@pytest.fixture
def clocks() -> SystemClocks:
    clocks = SystemClocks()
    clocks.advance(2 * CONFIRMATION_TIME)
    return clocks


@pytest.mark.parametrize("jump", [MONTH, -MONTH, 60.0, -60.0])
def test_brief_clock_jump_is_logged_and_ignored(
    clocks: SystemClocks, jump: float, caplog: pytest.LogCaptureFixture
):
    clocks.wrong = jump
    clocks.advance(CONFIRMATION_TIME - 60)
    assert clocks.error == 0
    assert not clocks.clock.is_settled
    clocks.wrong = 0.0
    clocks.advance(CONFIRMATION_TIME)
    assert clocks.error == 0
    assert clocks.reported_jumps == []
    assert f"the system's clock jumped by {jump:.0f} s" in caplog.text
    assert "correct again" in caplog.text


@pytest.mark.parametrize("jump", [MONTH, -MONTH])
def test_a_clock_that_goes_on_evenly_is_believed(
    clocks: SystemClocks, jump: float, caplog: pytest.LogCaptureFixture
):
    clocks.wrong = jump
    clocks.advance(CONFIRMATION_TIME + 60)
    assert clocks.error == jump
    assert clocks.reported_jumps == [jump]
    assert f"was set by {jump:.0f} s" in caplog.text
    clocks.wrong = 0.0
    clocks.advance(CONFIRMATION_TIME + 60)
    assert clocks.error == 0
    assert clocks.reported_jumps == [jump, -jump]


def test_small_corrections_are_followed_at_once(clocks: SystemClocks):
    clocks.wrong = MAX_CORRECTION - 1
    clocks.advance(1)
    assert clocks.error == MAX_CORRECTION - 1
    assert clocks.reported_jumps == []


def test_correction_soon_after_the_start_is_believed_soon():
    """A machine that boots without a battery, and hears of a time server a minute later."""
    clocks = SystemClocks(wrong=-20 * MONTH)
    clocks.advance(60)
    assert clocks.error == -20 * MONTH
    clocks.wrong = 0.0
    clocks.advance(130)
    assert clocks.error == 0


def test_oscillating_clock_is_ignored_and_logged_rarely(clocks: SystemClocks, caplog: pytest.LogCaptureFixture):
    began = clocks.steady
    while clocks.steady < began + 3 * CONFIRMATION_TIME:
        clocks.wrong = MONTH - clocks.wrong
        clocks.advance(5, step=0.5)
    assert clocks.error == 0
    assert clocks.reported_jumps == []
    assert len(caplog.records) <= 3 * CONFIRMATION_TIME / 60 + 1


def test_clock_is_settled_a_day_after_start_or_jump():
    clocks = SystemClocks()
    clocks.advance(SETTLING_TIME - 1, step=600)
    assert not clocks.clock.is_settled
    clocks.advance(1)
    assert clocks.clock.is_settled
    clocks.wrong = MONTH
    clocks.advance(1)
    assert not clocks.clock.is_settled
    clocks.advance(CONFIRMATION_TIME + 60)
    assert not clocks.clock.is_settled
    clocks.advance(SETTLING_TIME, step=600)
    assert clocks.clock.is_settled


def test_the_systems_clocks():
    clock: Callable[[], float] = Clock().now
    assert clock() == pytest.approx(time.time(), abs=1.0)
