"""How glibc keeps memory for the chunks of a transfer: other C libraries are left as they are."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""
TRIM_BYTES = 32 * 1024 * 1024
MMAP_BYTES = 16 * 1024 * 1024


def tune() -> None:
    """Before the first thread: one heap for all threads, which keeps what is freed.

    A heap for each thread took 50 MB more at the peak of a conversion, since what one thread frees serves no other.
    With glibc's own limits each chunk's memory is given back and taken anew, which was a tenth of a transfer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
