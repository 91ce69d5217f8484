"""Finds streams that are far slower than the others, so that their ranges restart on a new connection."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from proxy.timings import Timings
from proxy.transfer.admission import Stream

SLOW_SHARE = 0.1
LAST_RATES = 16


@dataclass(slots=True)
class _Measurement:
    """The counters of a stream and of all streams when the stream's present measurement began."""

    scope: asyncio.Timeout
    began: float
    received: int
    all_received: int
    all_seconds: float


class SlowStreamWatch:
    """Compares each stream's rate with the rate of the others.

    A slow stream is one that has less than `SLOW_SHARE` of their rate over the time `timings.slow_stream`.
    """

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.received = 0
        """Bytes of all streams since the start."""
        self._seconds = 0.0
        """How long all streams have been open, summed up."""
        self._measurements: dict[Stream, _Measurement] = {}
        self._last_rates: deque[float] = deque(maxlen=LAST_RATES)

    def arrived(self, stream: Stream, size: int) -> None:
        stream.received += size
        self.received += size

    def passed(self, stream_seconds: float) -> None:
        """Count time: the seconds that passed, times the streams that were open."""
        self._seconds += stream_seconds

    def ended(self, stream: Stream, now: float) -> None:
        seconds = now - stream.began
        if stream.received and seconds > 0:
            self._last_rates.append(stream.received / seconds)

    @contextmanager
    def watched(self, stream: Stream, scope: asyncio.Timeout) -> Iterator[None]:
        """While the block runs, `scope` expires when the stream is slow."""
        self._measure(stream, scope, asyncio.get_running_loop().time())
        try:
            yield
        finally:
            del self._measurements[stream]

    def expire_slow(self, streams: Iterable[Stream], now: float) -> None:
        for stream in streams:
            measurement = self._measurements.get(stream)
            if measurement is None or now - measurement.began < self._timings.slow_stream:
                continue
            rate = (stream.received - measurement.received) / (now - measurement.began)
            if rate < SLOW_SHARE * self._usual_rate(stream, measurement, now):
                measurement.scope.reschedule(now)
            self._measure(stream, measurement.scope, now)

    def _usual_rate(self, stream: Stream, measurement: _Measurement, now: float) -> float:
        seconds = now - measurement.began
        others_received = self.received - measurement.all_received - (stream.received - measurement.received)
        others_seconds = self._seconds - measurement.all_seconds - seconds
        # A slow first range stops the other streams as soon as the window is full: then compare it with ended ones.
        if others_seconds >= seconds:
            return others_received / others_seconds
        return median(self._last_rates) if self._last_rates else 0.0

    def _measure(self, stream: Stream, scope: asyncio.Timeout, now: float) -> None:
        self._measurements[stream] = _Measurement(scope, now, stream.received, self.received, self._seconds)
