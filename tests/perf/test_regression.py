"""The promises about speed: ratios to others on the same machine in the same minute, and what was recorded."""

from __future__ import annotations

import os
import shutil

import pytest

from perf import regression
from perf.results import OURS, Sample, ratio, ratios, rows
from perf.targets import Missing
from tests.transport.engine_pairings import needs_native

SSH = regression.Row("1 stream down", OURS, "ssh -R")


@pytest.fixture(scope="module")
def recorded() -> dict[str, float]:
    return regression.record()


@pytest.mark.alone
@needs_native
def test_no_ratio_has_collapsed(recorded: dict[str, float]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give loopback the MTU of a real network")
    try:
        assert regression.ratio_failures(recorded) == []
    except Missing as lack:
        pytest.skip(f"{lack} is not installed")


@needs_native
@pytest.mark.slow
def test_the_engine_takes_no_more_instructions_a_byte(recorded: dict[str, float]) -> None:
    for program in ("cargo", "valgrind"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    assert regression.instruction_failures(recorded) == []


def samples(**values: list[float]) -> list[Sample]:
    return [
        Sample("1 stream down", "MB/s", name, number, value, value, 1.0, 1.0)
        for name, row in values.items()
        for number, value in enumerate(row)
    ]


def test_a_collapse_is_seen_in_the_second_look_only(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {str(row): 1.0 for row in regression.ROWS}
    looks: list[int] = []

    def look(asked: list[regression.Row], rounds: int) -> dict[regression.Row, tuple[float, bool]]:
        looks.append(rounds)
        return dict.fromkeys(asked, (0.4 if SSH in asked and rounds <= worst else 1.0, False))

    monkeypatch.setattr(regression, "measure_rows", look)
    worst = regression.FIRST
    assert regression.ratio_failures(record) == []
    assert looks == [regression.FIRST, regression.SECOND]
    worst = regression.SECOND
    assert regression.ratio_failures(record)[0] == "1 stream down: quictunnel, of ssh -R: 0.40, and it was 1.00"


@pytest.mark.parametrize(("now", "less_is_better", "expected"), [
    (0.51, False, False), (0.49, False, True), (1.99, True, False), (2.01, True, True), (0.1, True, False),
])  # fmt: skip
def test_half_is_a_collapse(now: float, less_is_better: bool, expected: bool) -> None:
    assert regression.has_collapsed(now, 1.0, less_is_better=less_is_better) is expected


def test_more_instructions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "instructions", lambda: {"a": 1.2, "b": 1.3})
    assert regression.instruction_failures({"a": 1.0, "b": 1.0}) == ["b: 1.30, and it was 1.00"]


def test_ratios_are_taken_within_each_round() -> None:
    found = samples(quictunnel=[10, 300, 50], other=[20, 200, 100])
    assert ratio(found, "1 stream down", OURS, "other") == 0.5
    assert ratio(found, "1 stream down", OURS, "nobody") is None


def test_tables() -> None:
    found = samples(quictunnel=[10, 30, 20], bore=[100, 100, 100], chisel=[20, 20, 20])
    names = ["bore", "chisel", "quictunnel"]
    assert rows(found, names)[1] == [
        "1 stream down, MB/s", "100 (100 to 100)", "20.0 (20.0 to 20.0)", "20.0 (10.0 to 30.0)"
    ]  # fmt: skip
    # bore does not encrypt, so it does not count.
    assert ratios(found, names)[1] == ["1 stream down, MB/s", "0.20", "1.00", "1.00 (chisel)"]
