"""The worker's side: it limits its own memory and time, reads a question and writes the answer."""

import signal
import sys
from collections.abc import Callable

READY = b"ready\n"


def answer_once(work: Callable[[bytes], bytes], *, memory: int, seconds: float) -> None:
    """`memory` is bytes of address space. `seconds` is processor time; it starts when the question has been read."""
    announce_ready(memory)
    question = sys.stdin.buffer.read()
    limit_time(seconds)
    sys.stdout.buffer.write(work(question))


def announce_ready(memory: int) -> None:
    """Limit the address space to `memory` bytes, and tell the parent that it can send questions."""
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
    except (ValueError, OSError):  # macOS has the limit but does not accept it
        return


def limit_time(seconds: float) -> None:
    """End this process after `seconds` of processor time from now. A busy machine does not shorten the limit.

    Python sets no handler for this signal, so it ends the process even inside C code.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
