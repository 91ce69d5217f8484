"""The threads that change and quantize what comes: they leave the processor to all that answers clients."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_NICENESS = 10


def worker_count(threads: int) -> int:
    """`pull.threads`; 0 is all cores but one, at least one."""
    return threads or max(cores() - 1, 1)


def workers(threads: int) -> ThreadPoolExecutor:
    """`threads` as in the configuration."""
    return ThreadPoolExecutor(worker_count(threads), thread_name_prefix="work", initializer=give_way)


def cores() -> int:
    """Those that this process may use, which a container can make fewer."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def give_way() -> None:
    # Only on Linux a thread has a priority of its own.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
