"""Admission to connections and memory, concurrency control, the watch for slow streams, and bandwidth."""

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
    """Replaces the loop's clock. Its steps are exact in binary, so that sums of them are exact."""

    def __init__(self) -> None:
        self.now = 1024.0

    def time(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time passes only when the test moves it: a busy machine changes nothing."""
    clock = Clock()
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
            give_back(streams, stream)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVE, max_size=40))
async def test_any_moves_respect_the_limits_and_everything_is_returned(
    moves: list[tuple[str, int, int]],
) -> None:
    streams = Streams(3, MEMORY)
    tasks: list[asyncio.Task[Stream]] = []
    open_now: list[Stream] = []
    in_memory: list[Stream] = []
    freed: set[Stream] = set()

    def collect() -> None:
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if not task.cancelled():
                open_now.append(task.result())
                in_memory.append(task.result())
        assert len(open_now) <= len(streams._admission.open) <= 3
        assert sum(stream.size for stream in in_memory) <= streams.used
        assert streams.used <= MEMORY or len((streams._admission.open - freed) | set(in_memory)) == 1

    for move, number, size in moves:
        match move:
            case "enter":
                tasks.append(entering(streams, f"pull {number % 2}", number, size))
            case "settle":
                await settle()
            case "cancel" if tasks:
                tasks[number % len(tasks)].cancel()
            case "leave" if open_now:
                streams.leave(open_now.pop(number % len(open_now)))
            case "free" if in_memory:
                stream = in_memory.pop(number % len(in_memory))
                freed.add(stream)
                streams.free(stream.size)
        collect()
    for _ in range(len(tasks) + 1):
        await settle()
        collect()
        while open_now:
            streams.leave(open_now.pop())
        while in_memory:
            streams.free(in_memory.pop().size)
    assert not tasks
    assert streams.idle


async def test_a_span_larger_than_the_memory_gets_all_of_it() -> None:
    streams = Streams(3, MEMORY)
    small = await streams.enter("pull", 0, 1)
    large = entering(streams, "pull", 1, MEMORY + 1)
    await settle()
    streams.leave(small)
    await settle()
    assert not large.done()
    streams.free(small.size)
    another = entering(streams, "pull", 2)
    streams.leave(await large)
    await settle()
    assert not another.done()
    streams.free((await large).size)
    give_back(streams, await another)
    assert streams.idle


async def test_a_waiter_for_much_memory_is_not_overin_memory() -> None:
    streams = Streams(3, MEMORY)
    first = await streams.enter("pull", 0, MEMORY - 1)
    large = entering(streams, "pull", 1, 2)
    small = entering(streams, "pull", 2, 1)
    await settle()
    assert not large.done()
    assert not small.done()
    give_back(streams, first)
    give_back(streams, await large)
    give_back(streams, await small)
    assert streams.idle


async def served(streams: Streams, waiting: dict[str, "asyncio.Task[Stream]"], busy: list[Stream]) -> list[str]:
    """The order in which waiters get streams, as first the busy and then the served streams are given back."""
    order: list[str] = []
    while busy:
        give_back(streams, busy.pop(0))
        await settle()
        for name in [name for name, task in waiting.items() if task.done()]:
            order.append(name)
            busy.append(waiting.pop(name).result())
    assert streams.idle
    return order


async def test_a_pull_with_fewer_streams_goes_first() -> None:
    streams = Streams(4, MEMORY)
    busy = [await streams.enter(pull, 0, 1) for pull in ("many", "many", "many", "few")]
    waiting = {"many": entering(streams, "many", 0), "few": entering(streams, "few", 9)}
    await settle()
    assert await served(streams, waiting, busy) == ["few", "many"]


async def test_within_a_pull_the_lowest_order_goes_first() -> None:
    """Of equal orders, the one that came first."""
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    waiting = {}
    for name in ("2 early", "1 early", "2 late", "1 late", "0"):
        waiting[name] = entering(streams, "pull", int(name[0]))
        await settle()
    assert await served(streams, waiting, [busy]) == ["0", "1 early", "1 late", "2 early", "2 late"]


def cancel(waiting: "asyncio.Task[Stream]", give_back: Callable[[], None]) -> None:
    waiting.cancel()
    give_back()


def admit_and_cancel(waiting: "asyncio.Task[Stream]", give_back: Callable[[], None]) -> None:
    give_back()
    waiting.cancel()


@pytest.mark.parametrize("end", [cancel, admit_and_cancel])
async def test_a_waiter_cancelled_at_its_admission_frees_its_place(
    end: Callable[["asyncio.Task[Stream]", Callable[[], None]], None],
) -> None:
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    cancelled, following = entering(streams, "pull", 1, MEMORY), entering(streams, "pull", 2, MEMORY)
    await settle()
    end(cancelled, lambda: give_back(streams, busy))
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    give_back(streams, await following)
    assert streams.idle


async def test_a_waiter_cancelled_while_it_waits_leaves_nothing() -> None:
    streams = Streams(1, MEMORY)
    busy = await streams.enter("pull", 0, 1)
    waiting = entering(streams, "pull", 1)
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    streams.leave(busy)
    assert not streams.idle
    streams.free(busy.size)
    assert streams.idle


async def test_each_throttle_pause_halves_the_streams_down_to_one(clock: Clock) -> None:
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


async def test_a_clear_gain_doubles_the_streams_quickly(clock: Clock) -> None:
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


async def test_nothing_is_judged_before_bytes_have_arrived(clock: Clock) -> None:
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


async def test_more_streams_are_not_tried_when_memory_is_the_limit(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    async with crowd(streams, size=MEMORY // FIRST_STREAMS):
        line = Line(streams, clock, lambda n: 10**6 * n)
        await line.run(5)
        assert line.limits == [FIRST_STREAMS]


async def test_more_streams_are_not_tried_when_nothing_waits(clock: Clock) -> None:
    streams = Streams(30, MEMORY, NO_TICKS)
    busy = [await streams.enter("pull", order, 1) for order in range(FIRST_STREAMS)]
    line = Line(streams, clock, lambda n: 10**6 * n)
    await line.run(5)
    assert line.limits == [FIRST_STREAMS]
    for stream in busy:
        give_back(streams, stream)


async def test_a_throttle_pause_delays_the_next_doubling(clock: Clock) -> None:
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


async def slow_streams(
    streams: Streams, clock: Clock, watched: list[Stream], periods: list[list[int]], seconds: float
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
    clock: Clock, periods: list[list[int]], seconds: float, slow: list[int]
) -> None:
    streams = Streams(4, MEMORY, NO_TICKS)
    watched = [await streams.enter("pull", number, 1) for number, _ in enumerate(periods[0])]
    assert await slow_streams(streams, clock, watched, periods, seconds) == slow


@pytest.mark.parametrize(("size", "slow"), [(90, [0]), (110, [])])
async def test_a_lone_stream_is_compared_with_ended_ones(clock: Clock, size: int, slow: list[int]) -> None:
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


async def test_the_bandwidth_is_shared_by_all_bytes(clock: Clock) -> None:
    waits: list[float] = []
    bandwidth = Bandwidth(1 << 20)
    for seconds, size in ((0, 1 << 17), (0, 1 << 16), (0.0625, 1 << 19)):
        clock.now += seconds
        waits.append(bandwidth.take(size))
    assert waits == [0.125, 0.1875, 0.6875 - 0.0625]


async def test_unused_bandwidth_is_not_saved_up(clock: Clock) -> None:
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
def test_the_receive_buffer_holds_a_fifth_of_a_second(rate: int, connections: int, buffer: int | None) -> None:
    assert Bandwidth(rate).receive_buffer(connections) == buffer


@pytest.mark.parametrize(("connections", "memory", "span"), [(8, 128, 8), (8, 320, 20), (1, 1024, 32), (64, 16, 8)])
def test_a_span_is_a_share_of_the_memory_within_bounds(connections: int, memory: int, span: int) -> None:
    assert Streams(connections, memory * MIB).span_bytes == span * MIB
