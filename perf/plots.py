"""A plot of the results of ``perf.compare``: a panel for each measure, a bar for each target."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from perf.results import Sample

OURS: Final = "#1f6f8b"
THEIRS: Final = "#b9c4c9"
COLUMNS: Final = 2


def draw(path: Path, samples: Sequence[Sample], names: Sequence[str]) -> None:
    """Draw the plot. Bars are medians; lines extend from the minimum to the maximum."""
    measures = dict.fromkeys((sample.measure, sample.unit) for sample in samples)
    lines = -(-len(measures) // COLUMNS)
    figure = Figure(figsize=(11, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False)
    for panel in panels.flat[len(measures) :]:
        panel.axis("off")
    for panel, (measure, unit) in zip(panels.flat, measures, strict=False):
        found = {
            name: sorted(s.value for s in samples if s.measure == measure and s.name == name) for name in names
        }
        shown = [name for name in names if found[name]]
        middles = [statistics.median(found[name]) for name in shown]
        errors = [
            [middle - found[name][0] for name, middle in zip(shown, middles, strict=True)],
            [found[name][-1] - middle for name, middle in zip(shown, middles, strict=True)],
        ]
        colours = [OURS if name in ("quictunnel", "aioquic") else THEIRS for name in shown]
        panel.barh(shown, middles, xerr=errors, color=colours, error_kw={"elinewidth": 1})
        panel.invert_yaxis()
        panel.set_title(f"{measure}, {unit}" + ", less is better" * (unit == "ms"), fontsize=10)
        panel.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)
