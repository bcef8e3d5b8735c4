"""Compare the ratios of one short run with the recorded ones, and fail if performance has collapsed.

    python -m perf.regression                    # as root; under a minute. Exit code 1: something collapsed
    python -m perf.regression --record           # record the current ratios for later runs

Every row compares ours with another target in the same run, so it holds on any machine. It fails if less than
half is left of the recorded ratio (or delays have doubled), and only in a second run as well, because another
program may have disturbed the first. Instructions by callgrind hardly move, so a quarter more of them fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.instructions import STREAMS, per_byte
from perf.results import MILLISECONDS, OURS, Sample, ratio
from perf.tables import table
from perf.targets import Missing

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

RECORD: Final = Path(__file__).with_name("recorded.json")
MTU: Final = 1500
"""Ethernet's. Loopback's allows datagrams of 32,000 bytes, which no real network does."""
COLLAPSE: Final = 2.0
MORE_INSTRUCTIONS: Final = 1.25
FIRST, SECOND = 1, 3
"""Rounds of the first measurement, and of the second one of the rows that seem to have collapsed."""


class Row(NamedTuple):
    """A ratio that is compared with its recorded value."""

    measure: str
    name: str
    to: str

    def __str__(self) -> str:
        return f"{self.measure}: {self.name}, of {self.to}"


RUNS: Final = (
    (
        Row("1 stream down", OURS, "ssh -R"),
        Row("1 stream up", OURS, "ssh -R"),
        Row("32 streams down", OURS, "ssh -R"),
        Row("32 streams up", OURS, "ssh -R"),
        Row("64 keep-alive, HTTPS", OURS, "direct"),
        Row("new connections, HTTPS", OURS, "direct"),
        Row("delay", OURS, "ssh -R"),
    ),
    (Row("1 stream down", "aioquic", "baseline"),),
)
"""Rows by run: the targets of one run share its rounds."""
ROWS: Final = [row for run in RUNS for row in run]
RESULT_NAMES: Final = {"delay": "delay, p50"}
"""Names of measures in the results, if they differ."""


def measure_rows(rows: Collection[Row], rounds: int) -> dict[Row, tuple[float, bool]]:
    """Measure the ratio of each row. Return it with True if lower is better. Raises Missing."""
    found: dict[Row, tuple[float, bool]] = {}
    for run in RUNS:
        requested = [row for row in run if row in rows]
        samples = compare(requested, rounds) if requested else []
        for row in requested:
            measure = RESULT_NAMES.get(row.measure, row.measure)
            value = ratio(samples, measure, row.name, row.to)
            if value is None:
                raise Missing(f"a program for {row}")
            units = {sample.unit for sample in samples if sample.measure == measure}
            found[row] = value, MILLISECONDS in units
    return found


def compare(rows: Sequence[Row], rounds: int) -> list[Sample]:
    """Run ``perf.compare`` for these rows and return its samples."""
    names = dict.fromkeys(name for row in rows for name in (row.name, row.to))
    measures = dict.fromkeys(row.measure for row in rows)
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name:
        result = Path(name) / "result.json"
        options = ["--mtu", MTU, "--seconds", 1, "--rounds", rounds, "--json", result]
        command = [sys.executable, "-m", "perf.compare", *options, "--only", *names, "--measures", *measures]
        done = subprocess.run(
            list(map(str, command)), cwd=RECORD.parents[1], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"perf.compare failed: {done.stderr}")
        return [Sample(**sample) for sample in json.loads(result.read_text())["samples"]]


def has_collapsed(now: float, recorded: float, *, less_is_better: bool) -> bool:
    """Return True if a ratio has become twice as bad."""
    return now > recorded * COLLAPSE if less_is_better else now < recorded / COLLAPSE


def ratio_failures(recorded: dict[str, float]) -> list[str]:
    """Return a sentence for each row that fails, and print all ratios."""
    seen = measure_rows(ROWS, FIRST)

    def collapsed_rows() -> tuple[Row, ...]:
        return tuple(
            row for row, (now, less) in seen.items() if has_collapsed(now, recorded[str(row)], less_is_better=less)
        )

    if again := collapsed_rows():
        seen |= measure_rows(again, SECOND)
    print(table([["", "now", "recorded"], *_lines({str(row): now for row, (now, _) in seen.items()}, recorded)],
                markdown=False))  # fmt: skip
    return [f"{row}: {seen[row][0]:.2f}, and it was {recorded[str(row)]:.2f}" for row in collapsed_rows()]


def instruction_failures(recorded: dict[str, float]) -> list[str]:
    """Return a sentence for each number of instructions per byte that has grown, and print all of them."""
    now = instructions()
    print(table([["", "now", "recorded"], *_lines(now, recorded)], markdown=False))
    return [
        f"{what}: {count:.2f}, and it was {recorded[what]:.2f}"
        for what, count in now.items()
        if count > recorded[what] * MORE_INSTRUCTIONS
    ]


def instructions() -> dict[str, float]:
    """Measure the instructions per byte."""
    return {f"instructions a byte, {streams} streams": per_byte(streams) for streams in STREAMS}


def _lines(now: dict[str, float], recorded: dict[str, float]) -> list[list[str]]:
    return [[what, f"{value:.2f}", f"{recorded[what]:.2f}"] for what, value in now.items()]


def record() -> dict[str, float]:
    """Return the recorded ratios."""
    found: dict[str, float] = json.loads(RECORD.read_text())
    return found


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Compare the performance with the recorded one.")
    parser.add_argument("--record", action="store_true", help="record the current ratios")
    options = parser.parse_args()
    try:
        if options.record:
            now = {str(row): value for row, (value, _) in measure_rows(ROWS, SECOND).items()} | instructions()
            RECORD.write_text(json.dumps({what: round(value, 3) for what, value in now.items()}, indent=1) + "\n")
            return
        failed = [*ratio_failures(record()), *instruction_failures(record())]
    except Missing as lack:
        sys.exit(f"{lack} is needed and not installed")
    if failed:
        sys.exit("collapsed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
