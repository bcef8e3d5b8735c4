"""The metrics of an edge in a process of its own, which show that a load arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.visitors import curl

if TYPE_CHECKING:
    from tests.harness.edge_process import EdgeProcess

WITH_METRICS = ("--admin", "127.0.0.1:0")
"""Options of an edge with metrics."""


def metrics_of(edge: EdgeProcess) -> dict[tuple[str, ...], float]:
    """Return every sample by its name without the prefix and its label values."""
    url = (edge.state_dir / "admin.url").read_text().strip().rstrip("/")
    token = (edge.state_dir / "admin.token").read_text().strip()
    text = curl(edge, "--header", f"Authorization: Bearer {token}", f"{url}/metrics").stdout.decode()
    return {
        (sample.name.removeprefix("quictunnel_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class MetricIncrease:
    """The increase of metrics since this object was made."""

    def __init__(self, edge: EdgeProcess) -> None:
        self._edge = edge
        self._before = metrics_of(edge)

    def __call__(self, *name: str) -> float:
        return metrics_of(self._edge)[name] - self._before[name]
