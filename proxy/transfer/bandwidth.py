"""The limit in bytes a second that all pulls share."""

import asyncio
from collections.abc import Callable

BUFFERED_SECONDS = 0.2
MIN_BUFFER = 32 * 1024


class Bandwidth:
    """At most `rate` bytes a second; 0 is no limit. `count` is called with the size of everything that arrives."""

    def __init__(self, rate: int, count: Callable[[int], object] = lambda _: None) -> None:
        self._rate = rate
        self._count = count
        self._free_at = 0.0

    def receive_buffer(self, connections: int) -> int | None:
        """The kernel's buffer for each connection, in bytes; None for its default.

        With the default of several megabytes, the bytes of a slow line arrive in bursts.
        """
        return max(MIN_BUFFER, int(self._rate * BUFFERED_SECONDS / connections)) if self._rate else None

    def take(self, size: int) -> float:
        """Count bytes that arrived; the seconds to wait until they fit the rate."""
        self._count(size)
        if not self._rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at - now
