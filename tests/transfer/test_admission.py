"""Admission to connections and memory: limits, order, fairness between pulls, cancellations."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.transfer.admission import Stream
from proxy.transfer.streams import MIB, Streams
from tests.kit.streams import entering, give_back, settle

MEMORY = 100

MOVE = (
    st.tuples(st.just("enter"), st.integers(0, 3), st.integers(1, 150))
    | st.tuples(st.just("settle"), st.just(0), st.just(0))
    | st.tuples(st.sampled_from(["cancel", "leave", "free"]), st.integers(0, 9), st.just(0))
)


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


async def test_a_waiter_for_much_memory_is_not_overtaken() -> None:
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


@pytest.mark.parametrize(("connections", "memory", "span"), [(8, 128, 8), (8, 320, 20), (1, 1024, 32), (64, 16, 8)])
def test_a_span_is_a_share_of_the_memory_within_bounds(connections: int, memory: int, span: int) -> None:
    assert Streams(connections, memory * MIB).span_bytes == span * MIB
