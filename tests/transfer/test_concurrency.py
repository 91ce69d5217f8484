"""Concurrency control: how many streams there are at which rates, and after a throttle."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import log2

import pytest

from proxy.timings import DEFAULT, Timings
from proxy.transfer.streams import FIRST_STREAMS, Streams
from tests.kit.streams import NO_TICKS, LoopClock, entering, give_back, settle

MEMORY = 100
MANY = 100
HOLD_SECONDS = DEFAULT.concurrency_hold


@asynccontextmanager
async def crowd(streams: Streams, size: int = 1) -> AsyncIterator[None]:
    """More waiters than any limit admits; everything is given back in the end."""
    tasks = [entering(streams, "crowd", order, size) for order in range(MANY)]
    await settle()
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in list(streams._admission.open):
        give_back(streams, stream)
    assert streams.idle


class Line:
    """A line with `rate(n)` bytes a second for n streams. It moves the clock."""

    def __init__(self, streams: Streams, clock: LoopClock, rate: Callable[[int], float]) -> None:
        self.rate = rate
        self.limits: list[int] = []
        self._streams = streams
        self._clock = clock

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 8)):
            await self.tick()

    async def run_until(self, limit: int) -> None:
        while self._streams.limit != limit:
            await self.tick()

    async def tick(self) -> None:
        streams = self._streams
        for stream in streams._admission.open:
            streams.arrived(stream, int(self.rate(len(streams._admission.open)) / 8 / len(streams._admission.open)))
        self._clock.now += 0.125
        streams._tick(asyncio.get_running_loop())
        if self.limits[-1:] != [streams.limit]:
            self.limits.append(streams.limit)
        await settle()
        for stream in list(streams._admission.open)[streams.limit :]:
            give_back(streams, stream)


async def test_each_throttle_pause_halves_the_streams_down_to_one(clock: LoopClock) -> None:
    streams = Streams(8, MEMORY, NO_TICKS)
    limits = []
    for _ in range(3):
        for pause in (3, 2, 0):
            streams.throttle(pause)
            clock.now += 0.5
        limits.append(streams.limit)
        clock.now += 2
    assert limits == [FIRST_STREAMS // 2, 1, 1]


async def test_a_stream_is_admitted_only_after_a_throttle_pause() -> None:
    loop = asyncio.get_running_loop()
    streams = Streams(8, MEMORY, Timings(concurrency_tick=0.01))
    busy = await streams.enter("pull", 0, 1)
    began = loop.time()
    streams.throttle(0.1)
    streams.throttle(0.01)
    waiting = entering(streams, "pull", 1)
    await settle()
    give_back(streams, busy)
    stream = await waiting
    assert loop.time() - began >= 0.1
    give_back(streams, stream)
    assert streams.idle


@pytest.mark.parametrize(
    ("rate", "limit"),
    [
        (lambda n: 10**6 * n, 30),
        (lambda n: 10**6 * min(n, 12), 16),
        (lambda n: 10**6 * min(n, 8), 8),
        (lambda n: 10**6 * 1.2 ** log2(n), 30),
        (lambda n: 10**6 * 1.05 ** log2(n), 4),
        (lambda _: 10**6, 4),
        (lambda n: 10**6 / n, 4),
    ],
)
async def test_streams_double_while_the_rate_grows_by_a_tenth(
    clock: LoopClock, rate: Callable[[int], float], limit: int
) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, rate)
        await line.run(HOLD_SECONDS / 2)
        steps = [4, 8, 16, 30]
        tried = steps[: steps.index(limit) + 2]
        assert line.limits == (tried if limit == 30 else [*tried, limit])
        assert len(streams._admission.open) == limit


async def test_a_clear_gain_doubles_the_streams_quickly(clock: LoopClock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run(1.5)
        assert line.limits == [4, 8, 16, 30]


async def test_more_streams_are_tried_again_after_a_while(clock: LoopClock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda _: 10**6)
        await line.run(HOLD_SECONDS)
        assert line.limits == [4, 8, 4]
        line.rate = lambda n: 10**6 * n
        await line.run(HOLD_SECONDS)
        assert line.limits == [4, 8, 4, 8, 16, 30]


async def test_nothing_is_judged_before_bytes_have_arrived(clock: LoopClock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda _: 0)
        await line.run(5)
        assert line.limits == [4]
        line.rate = lambda n: 10**6 * n
        await line.run_until(8)
        line.rate = lambda _: 0
        await line.run(5)
        assert line.limits == [4, 8]
        line.rate = lambda n: 10**6 * n
        await line.run_until(30)


async def test_more_streams_are_not_tried_when_memory_is_the_limit(clock: LoopClock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams, size=MEMORY // FIRST_STREAMS):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run(5)
        assert line.limits == [FIRST_STREAMS]


async def test_more_streams_are_not_tried_when_nothing_waits(clock: LoopClock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    busy = [await streams.enter("pull", order, 1) for order in range(FIRST_STREAMS)]
    line = Line(streams, clock, lambda n: 10**6 * n)
    await line.run(5)
    assert line.limits == [FIRST_STREAMS]
    for stream in busy:
        give_back(streams, stream)


async def test_a_throttle_pause_delays_the_next_doubling(clock: LoopClock) -> None:
    streams = Streams(6, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run_until(6)
        streams.throttle(0.0)
        await line.run(HOLD_SECONDS - 0.25)
        assert line.limits == [4, 6, 3]
        await line.run(5)
        assert line.limits == [4, 6, 3, 6]
