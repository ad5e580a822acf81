"""What is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Measures:
    """Counters of one server, and gauges that are read when they are asked for.

    Args:
        gauges: Name and meaning of each gauge, and its value now.
    """

    def __init__(self, gauges: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gem_rag_requests",
            "Requests that were answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "gem_rag_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Gauges(gauges))


class _Gauges(Collector):
    def __init__(self, gauges: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for (name, meaning), value in self._gauges().items():
            yield GaugeMetricFamily(f"gem_rag_{name}", meaning, value=value)
