"""The watch for slow streams."""

import asyncio

import pytest

from proxy.timings import DEFAULT, Timings
from proxy.transfer.admission import Stream
from proxy.transfer.streams import Streams
from tests.kit.streams import NO_TICKS, LoopClock, give_back, settle
from tests.kit.support import PATIENCE, eventually

MEMORY = 100
SLOW_SECONDS = DEFAULT.slow_stream


async def hold(streams: Streams, stream: Stream) -> None:
    async with asyncio.timeout(None) as scope:
        with streams.watched(stream, scope):
            await asyncio.Event().wait()


async def slow_streams(
    streams: Streams, clock: LoopClock, watched: list[Stream], periods: list[list[int]], seconds: float
) -> list[int]:
    """Which streams expire as slow when they receive these bytes in periods of so many seconds."""
    tasks = [asyncio.create_task(hold(streams, stream)) for stream in watched]
    await settle()
    for sizes in periods:
        clock.now += seconds
        for stream, size in zip(watched, sizes, strict=True):
            streams.arrived(stream, size)
            streams._watch.passed(seconds)
        streams._watch.expire_slow(streams._admission.open, clock.now)
    await settle()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not streams._watch._measurements
    return [number for number, result in enumerate(results) if isinstance(result, TimeoutError)]


@pytest.mark.parametrize(
    ("periods", "seconds", "slow"),
    [
        ([[1000, 1000, 90]], 10, [2]),
        ([[1000, 1000, 110]], 10, []),
        ([[1000, 1000, 1000]], 10, []),
        ([[10_000, 100, 100]], 10, [1, 2]),
        ([[0, 0, 0]], 10, []),
        ([[0]], 10, []),
        ([[1000, 1000, 0]], SLOW_SECONDS + 0.5, [2]),
        ([[1000, 1000, 0]], SLOW_SECONDS - 0.5, []),
        ([[1000, 1000, 1000], [1000, 1000, 90]], 10, [2]),
        ([[1000, 1000, 1000], [1000, 1000, 110]], 10, []),
    ],
)
async def test_a_stream_below_a_tenth_of_the_usual_rate_is_slow(
    clock: LoopClock, periods: list[list[int]], seconds: float, slow: list[int]
) -> None:
    streams = Streams(4, MEMORY, NO_TICKS)
    watched = [await streams.enter("pull", number, 1) for number, _ in enumerate(periods[0])]
    assert await slow_streams(streams, clock, watched, periods, seconds) == slow


@pytest.mark.parametrize(("size", "slow"), [(90, [0]), (110, [])])
async def test_a_lone_stream_is_compared_with_ended_ones(clock: LoopClock, size: int, slow: list[int]) -> None:
    streams = Streams(4, MEMORY, NO_TICKS)
    for ended_size in (1, 1000, 100_000):
        stream = await streams.enter("pull", 0, 1)
        streams.arrived(stream, ended_size)
        clock.now += 10
        give_back(streams, stream)
    assert await slow_streams(streams, clock, [await streams.enter("pull", 1, 1)], [[size]], 10) == slow


async def test_open_streams_are_compared_when_nothing_waits() -> None:
    streams = Streams(4, MEMORY, Timings(concurrency_tick=0.005, slow_stream=0.03))
    slow, *fast = [await streams.enter("pull", order, 1) for order in range(3)]
    held = asyncio.create_task(hold(streams, slow))
    async with asyncio.timeout(PATIENCE):
        while not held.done():
            for stream in fast:
                streams.arrived(stream, 1000)
            await asyncio.sleep(0.005)
    with pytest.raises(TimeoutError):
        await held
    for stream in (slow, *fast):
        give_back(streams, stream)
    await eventually(lambda: streams._timer is None)
