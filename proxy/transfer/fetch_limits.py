"""What all pulls share when they fetch."""

from dataclasses import dataclass

from proxy.timings import DEFAULT, Timings
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.streams import Streams


@dataclass(frozen=True, slots=True)
class FetchLimits:
    streams: Streams
    bandwidth: Bandwidth
    timings: Timings = DEFAULT
