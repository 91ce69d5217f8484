"""What `/-/metrics` tells Prometheus. Each proxy has a registry of its own."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300)
PULL_SECONDS = (1, 10, 60, 300, 900, 3600, 14400)
DOORS = ("forward", "pull", "admin")


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        name = "ollama_hf_proxy_"

        def counter(metric: str, text: str, *labels: str) -> Counter:
            return Counter(name + metric, text, labels, registry=self._registry)

        def histogram(metric: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name + metric, text, labels, buckets=buckets, registry=self._registry)

        self._requests = counter("requests", "Answered requests.", "door", "status")
        seconds = histogram("request_duration_seconds", "From request to end of answer.", REQUEST_SECONDS, "door")
        # Found once: looking a label up costs more than counting.
        self._request_seconds = {door: seconds.labels(door) for door in DOORS}
        self._by_status = {(door, 200): self._requests.labels(door, "200") for door in DOORS}
        self.received = counter("source_received_bytes", "Bytes that came from the Hub and other sources.")
        self.uploaded = counter("ollama_uploaded_bytes", "Bytes that reached Ollama's blobs.")
        self.reclaimed = counter("reclaimed_bytes", "Bytes of blobs that were removed behind pulls.")
        self.retries = counter("pull_retries", "Tries that had to be made again.")
        self.pulls = counter("pulls", "Pulls that are over.", "result")
        self.pull_seconds = histogram("pull_duration_seconds", "From begin to end of a pull.", PULL_SECONDS, "result")

    def request(self, door: str, status: int, began: float) -> None:
        """`began` is of `time.monotonic()`."""
        self._request_seconds[door].observe(time.monotonic() - began)
        known = self._by_status.get((door, status))
        if known is None:
            known = self._by_status[door, status] = self._requests.labels(door, str(status))
        known.inc()

    def show_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """How many pulls are in each state is counted when somebody asks."""
        self._registry.register(_Jobs(count))

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("ollama_hf_proxy_pulls_running", "Pulls by state.", labels=["state"])
        for state, number in self._count().items():
            jobs.add_metric([state], number)
        yield jobs
