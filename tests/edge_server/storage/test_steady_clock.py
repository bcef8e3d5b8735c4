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


class World:
    """A system's clock, which may be set, and time itself, which may not."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.steady = 1000.0
        self.wrong = wrong
        self.clock = Clock(lambda: BEGIN + self.steady - 1000.0 + self.wrong, lambda: self.steady)
        self.told: list[float] = []
        self.clock.add_listener(self.told.append)

    def pass_(self, seconds: float, step: float = 30.0) -> None:
        end = self.steady + seconds
        while self.steady < end:
            self.steady = min(end, self.steady + step)
            self.clock.check()

    @property
    def error(self) -> float:
        """By how much the edge's clock is ahead of time itself."""
        return self.clock.now() - BEGIN - (self.steady - 1000.0)


@pytest.fixture
def world() -> World:
    world = World()
    world.pass_(2 * CONFIRMATION_TIME)
    return world


@pytest.mark.parametrize("jump", [MONTH, -MONTH, 60.0, -60.0])
def test_a_jump_of_a_moment_is_not_believed_but_said(world: World, jump: float, caplog: pytest.LogCaptureFixture):
    world.wrong = jump
    world.pass_(CONFIRMATION_TIME - 60)
    assert world.error == 0
    assert not world.clock.is_settled
    world.wrong = 0.0
    world.pass_(CONFIRMATION_TIME)
    assert world.error == 0
    assert world.told == []
    assert f"the system's clock jumped by {jump:.0f} s" in caplog.text
    assert "correct again" in caplog.text


@pytest.mark.parametrize("jump", [MONTH, -MONTH])
def test_a_clock_that_goes_on_evenly_is_believed(world: World, jump: float, caplog: pytest.LogCaptureFixture):
    world.wrong = jump
    world.pass_(CONFIRMATION_TIME + 60)
    assert world.error == jump
    assert world.told == [jump]
    assert f"was set by {jump:.0f} s" in caplog.text
    world.wrong = 0.0
    world.pass_(CONFIRMATION_TIME + 60)
    assert world.error == 0
    assert world.told == [jump, -jump]


def test_small_corrections_are_followed_at_once(world: World):
    world.wrong = MAX_CORRECTION - 1
    world.pass_(1)
    assert world.error == MAX_CORRECTION - 1
    assert world.told == []


def test_a_clock_that_is_put_right_soon_after_the_start_is_believed_as_soon():
    """A machine that boots without a battery, and hears of a time server a minute later."""
    world = World(wrong=-20 * MONTH)
    world.pass_(60)
    assert world.error == -20 * MONTH
    world.wrong = 0.0
    world.pass_(130)
    assert world.error == 0


def test_a_clock_that_goes_to_and_fro_is_never_believed_and_fills_no_log(
    world: World, caplog: pytest.LogCaptureFixture
):
    began = world.steady
    while world.steady < began + 3 * CONFIRMATION_TIME:
        world.wrong = MONTH - world.wrong
        world.pass_(5, step=0.5)
    assert world.error == 0
    assert world.told == []
    assert len(caplog.records) <= 3 * CONFIRMATION_TIME / 60 + 1


def test_it_is_settled_a_day_after_the_start_and_after_each_jump():
    world = World()
    world.pass_(SETTLING_TIME - 1, step=600)
    assert not world.clock.is_settled
    world.pass_(1)
    assert world.clock.is_settled
    world.wrong = MONTH
    world.pass_(1)
    assert not world.clock.is_settled
    world.pass_(CONFIRMATION_TIME + 60)
    assert not world.clock.is_settled
    world.pass_(SETTLING_TIME, step=600)
    assert world.clock.is_settled


def test_the_systems_clocks():
    clock: Callable[[], float] = Clock().now
    assert clock() == pytest.approx(time.time(), abs=1.0)
