"""Metrics in Prometheus' text format, by prometheus-client (the extra ``edge``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from edge_server.observability.metrics import METRICS, PREFIX, read_histograms, read_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from edge_server.observability.introspection import Introspection

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class EdgeCollector(Collector):
    """Reads an edge on each scrape."""

    def __init__(self, introspection: Introspection) -> None:
        """``introspection`` is the edge to read."""
        self._introspection = introspection

    def describe(self) -> list[Metric]:
        """Return nothing, so that registration reads nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        for name, samples in read_metrics(self._introspection):
            info = METRICS[name]
            family = CounterMetricFamily if info.kind == "counter" else GaugeMetricFamily
            metric = family(PREFIX + name, info.description, labels=tuple(info.labels))
            for labels, value in samples.items():
                metric.add_metric(labels, value)
            yield metric
        for name, buckets, total in read_histograms(self._introspection):
            yield HistogramMetricFamily(PREFIX + name, METRICS[name].description, buckets=buckets, sum_value=total)


class Exposition:
    """``/metrics`` of one edge. On the event loop's thread."""

    def __init__(self, introspection: Introspection) -> None:
        """Register the collectors."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(EdgeCollector(introspection))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)
