"""The number of worker threads, and their low priority."""

import os
import sys
import threading

import pytest

from proxy.transfer import threads as module
from proxy.transfer.threads import cores, worker_count, worker_pool


@pytest.mark.parametrize(("there", "count"), [(1, 1), (2, 1), (3, 2), (64, 63)])
def test_0_is_all_cores_but_one_and_at_least_one(monkeypatch: pytest.MonkeyPatch, there: int, count: int) -> None:
    monkeypatch.setattr(module, "cores", lambda: there)
    assert worker_count(0) == count
    assert [worker_count(threads) for threads in (1, 2, 99)] == [1, 2, 99]


def test_only_cores_that_this_process_may_use_count() -> None:
    if sys.platform == "linux":
        assert cores() == len(os.sched_getaffinity(0))
    assert cores() >= 1


def test_as_many_threads_work_at_once() -> None:
    meeting = threading.Barrier(3)
    with worker_pool(3) as pool:
        places = [pool.submit(meeting.wait, 60) for _ in range(3)]
        assert sorted(place.result() for place in places) == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no niceness of its own")
def test_workers_have_a_lower_priority() -> None:
    """Other threads keep their priority."""

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with worker_pool(2) as pool:
        levels = {place.result() for place in [pool.submit(niceness) for _ in range(8)]}
    assert levels == {max(before, 10)}
    assert niceness() == before
