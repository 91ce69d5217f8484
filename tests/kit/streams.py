"""Helpers for tests of streams: a clock that the test moves, and functions to enter and leave."""

import asyncio

import pytest

from proxy.timings import Timings
from proxy.transfer.admission import Stream
from proxy.transfer.streams import Streams

NO_TICKS = Timings(concurrency_tick=3600)


class LoopClock:
    """Replaces the event loop's clock. Its steps are exact in binary, so that their sums are exact."""

    def __init__(self) -> None:
        self.now = 1024.0

    def time(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """Time passes only when the test moves the clock, even on a busy machine."""
    clock = LoopClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def entering(streams: Streams, pull: str, order: int, size: int = 1) -> "asyncio.Task[Stream]":
    return asyncio.create_task(streams.enter(pull, order, size))


def give_back(streams: Streams, stream: Stream) -> None:
    streams.leave(stream)
    streams.free(stream.size)
