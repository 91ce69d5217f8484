"""What a worker does around its work: it limits its own memory and time, reads the question and writes the answer."""

import signal
import sys
from collections.abc import Callable

READY = b"ready\n"


def answer_once(work: Callable[[bytes], bytes], *, memory: int, seconds: float) -> None:
    """`memory` is in bytes of address space; `seconds` of the processor count from when the question is there."""
    begin(memory)
    question = sys.stdin.buffer.read()
    limit_time(seconds)
    sys.stdout.buffer.write(work(question))


def begin(memory: int) -> None:
    """Says that questions may come; `memory` is in bytes of address space."""
    _limit_memory(memory)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):  # macOS knows the limit but does not take it
        return


def limit_time(seconds: float) -> None:
    """From now on. Time of the processor, not of the clock, so that a busy machine fails no honest work.

    Python has no handler for this signal, so it ends the process even inside of C code.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
