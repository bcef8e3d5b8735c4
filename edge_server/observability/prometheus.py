"""The figures in Prometheus' text format, by prometheus-client (the extra ``edge``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from edge_server.observability.metrics import FIGURES, PREFIX, distributions, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from edge_server.observability.introspection import Introspection

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Figures(Collector):
    """Reads an edge each time that it is asked."""

    def __init__(self, scene: Introspection) -> None:
        self._scene = scene

    def describe(self) -> list[Metric]:
        """Nothing is read to be registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        for name, samples in read(self._scene):
            figure = FIGURES[name]
            family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            metric = family(PREFIX + name, figure.meaning, labels=tuple(figure.labels))
            for labels, value in samples.items():
                metric.add_metric(labels, value)
            yield metric
        for name, buckets, total in distributions(self._scene):
            yield HistogramMetricFamily(PREFIX + name, FIGURES[name].meaning, buckets=buckets, sum_value=total)


class Exposition:
    """One edge's ``/metrics``. On the loop's thread."""

    def __init__(self, scene: Introspection) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Figures(scene))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All figures now."""
        return generate_latest(self._registry)
