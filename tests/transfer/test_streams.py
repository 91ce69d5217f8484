"""Connections and memory: what is given to whom, how many streams there are, which one is slow, and the bandwidth."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import log2

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.timings import DEFAULT, Timings
from proxy.transfer.admission import Stream
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.streams import FIRST_STREAMS, MIB, Streams
from tests.kit.support import PATIENCE, eventually

MEMORY = 100
MANY = 100
HOLD_SECONDS, SLOW_SECONDS = DEFAULT.concurrency_hold, DEFAULT.slow_stream
NO_TICKS = Timings(concurrency_tick=3600)

MOVE = (
    st.tuples(st.just("enter"), st.integers(0, 3), st.integers(1, 150))
    | st.tuples(st.just("settle"), st.just(0), st.just(0))
    | st.tuples(st.sampled_from(["cancel", "leave", "free"]), st.integers(0, 9), st.just(0))
)


class Clock:
    """The loop's. Its steps are exact in binary, so that a sum of them is what it says."""

    def __init__(self) -> None:
        self.now = 1024.0

    def time(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The test itself says when time has passed: a machine that is busy meanwhile lets none pass."""
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock


async def settle() -> None:
    """Let every task do what it can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


def asking(streams: Streams, pull: str, order: int, size: int = 1) -> "asyncio.Task[Stream]":
    return asyncio.create_task(streams.enter(pull, order, size))


def done_with(streams: Streams, stream: Stream) -> None:
    streams.leave(stream)
    streams.free(stream.size)


@asynccontextmanager
async def crowd(streams: Streams, size: int = 1) -> AsyncIterator[None]:
    """More than enough that wait for a stream; all is given back in the end."""
    tasks = [asking(streams, "crowd", order, size) for order in range(MANY)]
    await settle()
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in list(streams._admission.open):
        done_with(streams, stream)
    assert streams.idle


class Line:
    """A line that gives `rate(n)` bytes a second for n streams, and the clock goes on with it."""

    def __init__(self, streams: Streams, clock: Clock, rate: Callable[[int], float]) -> None:
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
            done_with(streams, stream)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVE, max_size=40))
async def test_whatever_comes_and_goes_limit_and_memory_hold_and_all_is_given_back(
    moves: list[tuple[str, int, int]],
) -> None:
    streams = Streams(3, MEMORY)
    tasks: list[asyncio.Task[Stream]] = []
    open_now: list[Stream] = []
    taken: list[Stream] = []
    freed: set[Stream] = set()

    def collect() -> None:
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if not task.cancelled():
                open_now.append(task.result())
                taken.append(task.result())
        assert len(open_now) <= len(streams._admission.open) <= 3
        assert sum(stream.size for stream in taken) <= streams.used
        assert streams.used <= MEMORY or len((streams._admission.open - freed) | set(taken)) == 1

    for move, number, size in moves:
        match move:
            case "enter":
                tasks.append(asking(streams, f"pull {number % 2}", number, size))
            case "settle":
                await settle()
            case "cancel" if tasks:
                tasks[number % len(tasks)].cancel()
            case "leave" if open_now:
                streams.leave(open_now.pop(number % len(open_now)))
            case "free" if taken:
                stream = taken.pop(number % len(taken))
                freed.add(stream)
                streams.free(stream.size)
        collect()
    for _ in range(len(tasks) + 1):
        await settle()
        collect()
        while open_now:
            streams.leave(open_now.pop())
        while taken:
            streams.free(taken.pop().size)
    assert not tasks
    assert streams.idle


async def test_what_is_larger_than_the_memory_gets_it_alone() -> None:
    streams = Streams(3, MEMORY)
    small = await streams.enter("pull", 0, 1)
    large = asking(streams, "pull", 1, MEMORY + 1)
    await settle()
    streams.leave(small)
    await settle()
    assert not large.done()
    streams.free(small.size)
    another = asking(streams, "pull", 2)
    streams.leave(await large)
    await settle()
    assert not another.done()
    streams.free((await large).size)
    done_with(streams, await another)
    assert streams.idle


async def test_what_waits_for_memory_is_not_overtaken_by_what_needs_less() -> None:
    streams = Streams(3, MEMORY)
    first = await streams.enter("pull", 0, MEMORY - 1)
    large = asking(streams, "pull", 1, 2)
    small = asking(streams, "pull", 2, 1)
    await settle()
    assert not large.done()
    assert not small.done()
    done_with(streams, first)
    done_with(streams, await large)
    done_with(streams, await small)
    assert streams.idle


async def served(streams: Streams, waiting: dict[str, "asyncio.Task[Stream]"], busy: list[Stream]) -> list[str]:
    """Who gets a stream each time that one of the busy ones, and then of the served ones, is given back."""
    order: list[str] = []
    while busy:
        done_with(streams, busy.pop(0))
        await settle()
        for name in [name for name, task in waiting.items() if task.done()]:
            order.append(name)
            busy.append(waiting.pop(name).result())
    assert streams.idle
    return order


async def test_a_pull_with_fewer_streams_goes_first() -> None:
    streams = Streams(4, MEMORY)
    busy = [await streams.enter(pull, 0, 1) for pull in ("many", "many", "many", "few")]
    waiting = {"many": asking(streams, "many", 0), "few": asking(streams, "few", 9)}
    await settle()
    assert await served(streams, waiting, busy) == ["few", "many"]


async def test_within_a_pull_the_lowest_order_goes_first_and_then_who_came_first() -> None:
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    waiting = {}
    for name in ("2 early", "1 early", "2 late", "1 late", "0"):
        waiting[name] = asking(streams, "pull", int(name[0]))
        await settle()
    assert await served(streams, waiting, [busy]) == ["0", "1 early", "1 late", "2 early", "2 late"]


def cancel(waiting: "asyncio.Task[Stream]", give_back: Callable[[], None]) -> None:
    waiting.cancel()
    give_back()


def admit_and_cancel(waiting: "asyncio.Task[Stream]", give_back: Callable[[], None]) -> None:
    give_back()
    waiting.cancel()


@pytest.mark.parametrize("end", [cancel, admit_and_cancel])
async def test_who_is_cancelled_about_when_it_is_admitted_leaves_its_place_to_the_next(
    end: Callable[["asyncio.Task[Stream]", Callable[[], None]], None],
) -> None:
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    cancelled, following = asking(streams, "pull", 1, MEMORY), asking(streams, "pull", 2, MEMORY)
    await settle()
    end(cancelled, lambda: done_with(streams, busy))
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    done_with(streams, await following)
    assert streams.idle


async def test_who_is_cancelled_while_it_waits_leaves_nothing() -> None:
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    waiting = asking(streams, "pull", 1)
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    streams.leave(busy)
    assert not streams.idle
    streams.free(busy.size)
    assert streams.idle


async def test_throttling_halves_the_streams_once_within_a_pause_down_to_one(clock: Clock) -> None:
    streams = Streams(8, MEMORY, NO_TICKS)
    limits = []
    for _ in range(3):
        for pause in (3, 2, 0):
            streams.throttle(pause)
            clock.now += 0.5
        limits.append(streams.limit)
        clock.now += 2
    assert limits == [FIRST_STREAMS // 2, 1, 1]


async def test_nobody_is_admitted_before_a_pause_ends_and_then_somebody_is() -> None:
    loop = asyncio.get_running_loop()
    streams = Streams(8, MEMORY, Timings(concurrency_tick=0.01))
    busy = await streams.enter("pull", 0, 1)
    began = loop.time()
    streams.throttle(0.1)
    streams.throttle(0.01)
    waiting = asking(streams, "pull", 1)
    await settle()
    done_with(streams, busy)
    stream = await waiting
    assert loop.time() - began >= 0.1
    done_with(streams, stream)
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
async def test_the_streams_are_doubled_while_the_rate_grows_by_a_tenth(
    clock: Clock, rate: Callable[[int], float], limit: int
) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, rate)
        await line.run(HOLD_SECONDS / 2)
        steps = [4, 8, 16, 30]
        tried = steps[: steps.index(limit) + 2]
        assert line.limits == (tried if limit == 30 else [*tried, limit])
        assert len(streams._admission.open) == limit


async def test_where_more_streams_clearly_bring_more_they_are_soon_many(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run(1.5)
        assert line.limits == [4, 8, 16, 30]


async def test_more_streams_are_tried_again_after_a_while(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda _: 10**6)
        await line.run(HOLD_SECONDS)
        assert line.limits == [4, 8, 4]
        line.rate = lambda n: 10**6 * n
        await line.run(HOLD_SECONDS)
        assert line.limits == [4, 8, 4, 8, 16, 30]


async def test_nothing_is_judged_before_something_has_come(clock: Clock) -> None:
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


async def test_more_streams_are_not_tried_where_the_memory_is_the_limit(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams, size=MEMORY // FIRST_STREAMS):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run(5)
        assert line.limits == [FIRST_STREAMS]


async def test_more_streams_are_not_tried_where_nobody_waits(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    busy = [await streams.enter("pull", order, 1) for order in range(FIRST_STREAMS)]
    line = Line(streams, clock, lambda n: 10**6 * n)
    await line.run(5)
    assert line.limits == [FIRST_STREAMS]
    for stream in busy:
        done_with(streams, stream)


async def test_after_a_pause_more_streams_are_not_tried_for_a_while(clock: Clock) -> None:
    streams = Streams(6, MEMORY, NO_TICKS)
    async with crowd(streams):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run_until(6)
        streams.throttle(0.0)
        await line.run(HOLD_SECONDS - 0.25)
        assert line.limits == [4, 6, 3]
        await line.run(5)
        assert line.limits == [4, 6, 3, 6]


async def hold(streams: Streams, stream: Stream) -> None:
    async with asyncio.timeout(None) as scope:
        with streams.watched(stream, scope):
            await asyncio.Event().wait()


async def ended(
    streams: Streams, clock: Clock, watched: list[Stream], periods: list[list[int]], seconds: float
) -> list[int]:
    """Which of the streams are ended as slow when they bring so much in periods of so many seconds."""
    tasks = [asyncio.create_task(hold(streams, stream)) for stream in watched]
    await settle()
    for brought in periods:
        clock.now += seconds
        for stream, size in zip(watched, brought, strict=True):
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
async def test_who_brings_less_than_a_tenth_of_the_others_for_a_while_is_ended(
    clock: Clock, periods: list[list[int]], seconds: float, slow: list[int]
) -> None:
    streams = Streams(4, MEMORY, NO_TICKS)
    watched = [await streams.enter("pull", number, 1) for number, _ in enumerate(periods[0])]
    assert await ended(streams, clock, watched, periods, seconds) == slow


@pytest.mark.parametrize(("brought", "slow"), [(90, [0]), (110, [])])
async def test_who_is_alone_is_measured_by_those_that_are_done(clock: Clock, brought: int, slow: list[int]) -> None:
    streams = Streams(4, MEMORY, NO_TICKS)
    for size in (1, 1000, 100_000):
        stream = await streams.enter("pull", 0, 1)
        streams.arrived(stream, size)
        clock.now += 10
        done_with(streams, stream)
    assert await ended(streams, clock, [await streams.enter("pull", 1, 1)], [[brought]], 10) == slow


async def test_streams_are_compared_as_long_as_there_are_some() -> None:
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
        done_with(streams, stream)
    await eventually(lambda: streams._timer is None)


async def test_bytes_wait_as_long_as_the_bandwidth_says_whoever_takes_them(clock: Clock) -> None:
    waits: list[float] = []
    bandwidth = Bandwidth(1 << 20)
    for gone, size in ((0, 1 << 17), (0, 1 << 16), (0.0625, 1 << 19)):
        clock.now += gone
        waits.append(bandwidth.take(size))
    assert waits == [0.125, 0.1875, 0.6875 - 0.0625]


async def test_bandwidth_that_nobody_used_is_not_saved_up(clock: Clock) -> None:
    bandwidth = Bandwidth(1 << 20)
    bandwidth.take(1 << 10)
    clock.now += 1
    assert bandwidth.take(1 << 19) == 0.5


def test_without_a_limit_no_byte_waits() -> None:
    assert Bandwidth(0).take(10**12) == 0


@pytest.mark.parametrize(
    ("rate", "connections", "buffer"),
    [(0, 8, None), (20_000_000, 8, 500_000), (20_000_000, 1, 4_000_000), (100_000, 8, 32 * 1024)],
)
def test_the_kernel_may_hold_a_fifth_of_a_second_of_a_limited_line(
    rate: int, connections: int, buffer: int | None
) -> None:
    assert Bandwidth(rate).receive_buffer(connections) == buffer


@pytest.mark.parametrize(("connections", "memory", "span"), [(8, 128, 8), (8, 320, 20), (1, 1024, 32), (64, 16, 8)])
def test_a_span_is_a_share_of_the_memory_within_bounds(connections: int, memory: int, span: int) -> None:
    assert Streams(connections, memory * MIB).span_bytes == span * MIB
