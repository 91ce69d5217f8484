"""The threads that transform and quantize. Their low priority leaves the processor to what answers clients."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_NICENESS = 10


def worker_count(threads: int) -> int:
    """`threads` as in `pull.threads`; 0 is all cores but one, and at least one."""
    return threads or max(cores() - 1, 1)


def worker_pool(threads: int) -> ThreadPoolExecutor:
    """`threads` as in `pull.threads`."""
    return ThreadPoolExecutor(worker_count(threads), thread_name_prefix="work", initializer=lower_priority)


def cores() -> int:
    """The cores that this process may use: a container can have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def lower_priority() -> None:
    # Only Linux has a priority for each thread.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
