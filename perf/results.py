"""Samples of measurements, and the tables made of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS: Final = "quictunnel"
OPEN: Final = ("direct", "frp, TCP", "rathole", "bore", "baseline", "aioquic", OURS)
"""Targets that do not encrypt, or are variants of this project."""
MILLISECONDS: Final = "ms"


@dataclass(frozen=True, slots=True)
class Sample:
    """Result of a target in a round."""

    measure: str
    unit: str
    name: str
    round: int
    value: float
    amount: float
    """Thousands of the unit: gigabytes, or thousands of requests; 0 for latencies."""
    edge_cpu: float
    """CPU seconds of all processes at the visitors' side during the turn."""
    client_cpu: float


def by_round(samples: Sequence[Sample], measure: str, name: str) -> dict[int, float]:
    """Return the values of one target by round."""
    return {s.round: s.value for s in samples if s.measure == measure and s.name == name}


def ratio(samples: Sequence[Sample], measure: str, name: str, to: str) -> float | None:
    """Return the median over the rounds of the ratio of two targets, or None without common rounds."""
    ours, theirs = by_round(samples, measure, name), by_round(samples, measure, to)
    each = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number]]
    return statistics.median(each) if each else None


def rows(samples: Sequence[Sample], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each measure: the median, the minimum and the maximum."""
    shown = [["", *names]]
    for measure, unit in dict.fromkeys((s.measure, s.unit) for s in samples):
        line = [f"{measure}, {unit}"]
        for name in names:
            values = sorted(by_round(samples, measure, name).values())
            extremes = f" ({_short(values[0])} to {_short(values[-1])})" if len(values) > 1 else ""
            line.append(_short(statistics.median(values)) + extremes if values else "")
        shown.append(line)
    return shown


def costs(samples: Sequence[Sample], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each measure that transfers data: CPU seconds per gigabyte or per thousand requests, of the
    processes at the visitors' side and at the origin's side."""
    names = [name for name in names if name != "direct"]
    shown = [["CPU s, edge + client", *names]]
    for measure, unit in dict.fromkeys((s.measure, s.unit) for s in samples if s.amount):
        line = [f"{measure}, per {'GB' if unit == 'MB/s' else 'thousand'}"]
        for name in names:
            own = [s for s in samples if s.measure == measure and s.name == name]
            sides = [[s.edge_cpu / s.amount for s in own], [s.client_cpu / s.amount for s in own]]
            line.append(" + ".join(f"{statistics.median(side):.2f}" for side in sides) if own else "")
        shown.append(line)
    return shown


def ratios(samples: Sequence[Sample], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each measure: the ratio of quictunnel to each other target, as the median of each round's
    ratio, and to the best of those that encrypt."""
    others = [name for name in names if name != OURS]
    shown = [["quictunnel to", *others, "the best that encrypts"]]
    for measure, unit in dict.fromkeys((s.measure, s.unit) for s in samples):
        found = {name: ratio(samples, measure, OURS, name) for name in others}
        encrypted = {name: each for name, each in found.items() if each is not None and name not in OPEN}
        # Where lower is better, the best one is the one with the highest ratio.
        best = (max if unit == MILLISECONDS else min)(encrypted, key=lambda name: encrypted[name], default=None)
        cells = ["" if each is None else f"{each:.2f}" for each in found.values()]
        shown.append([f"{measure}, {unit}", *cells, f"{encrypted[best]:.2f} ({best})" if best else ""])
    return shown


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
