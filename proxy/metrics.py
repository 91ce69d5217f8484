"""The Prometheus metrics of `/-/metrics`. Each proxy has its own registry, so that tests can run several."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
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
        seconds = histogram("request_duration_seconds", "From request to end of response.", REQUEST_SECONDS, "door")
        # Looking up a label costs more than counting, so it is done once.
        self._request_seconds = {door: seconds.labels(door) for door in DOORS}
        self._by_status = {(door, 200): self._requests.labels(door, "200") for door in DOORS}
        self.received = counter("source_received_bytes", "Bytes received from the Hub and other sources.")
        self.uploaded = counter("ollama_uploaded_bytes", "Bytes uploaded to Ollama's blobs.")
        self.reclaimed = counter("reclaimed_bytes", "Bytes of blobs that pulls had left and that were removed.")
        self.retries = counter("pull_retries", "Retries.")
        self.pulls = counter("pulls", "Finished pulls.", "result")
        self.pull_seconds = histogram("pull_duration_seconds", "From start to end of a pull.", PULL_SECONDS, "result")

    def request(self, door: str, status: int, start: float) -> None:
        """`start` is the value of `time.monotonic()` at the start of the request."""
        self._request_seconds[door].observe(time.monotonic() - start)
        counter = self._by_status.get((door, status))
        if counter is None:
            counter = self._by_status[door, status] = self._requests.labels(door, str(status))
        counter.inc()

    def show_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Count the pulls in each state whenever the metrics are read."""
        self._registry.register(_Jobs(count))

    def show_spool(self, size: Callable[[], int]) -> None:
        """`size` is asked for the bytes on disk whenever the metrics are read."""
        text = "Bytes on disk of blobs that are not finished."
        Gauge("ollama_hf_proxy_spool_bytes", text, registry=self._registry).set_function(size)

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
