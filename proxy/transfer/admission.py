"""Decides which file may open the next connection: connections and memory, shared fairly between pulls."""

import asyncio
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count


@dataclass(eq=False, slots=True)
class Stream:
    """A connection to the source, and the memory for all that it will bring."""

    pull: Hashable
    size: int
    began: float
    received: int = 0


@dataclass(order=True, slots=True)
class Waiter:
    order: int
    number: int
    pull: Hashable = field(compare=False)
    size: int = field(compare=False)
    admitted: "asyncio.Future[Stream]" = field(compare=False)


class Admission:
    """A queue for connections and memory.

    The pull with the fewest open streams goes first; within a pull, the file with the lowest order. A waiter that needs
    more memory than is free is not overtaken. One that needs more than all of it is admitted when all of it is free.
    """

    def __init__(self, memory: int) -> None:
        self.open: set[Stream] = set()
        self.used = 0
        """Bytes of memory that are given out."""
        self.paused_until = 0.0
        self._memory = memory
        self._waiting: list[Waiter] = []
        self._numbers = count()

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiting)

    def wait(self, pull: Hashable, order: int, size: int) -> Waiter:
        admitted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        waiter = Waiter(order, next(self._numbers), pull, size, admitted)
        self._waiting.append(waiter)
        return waiter

    def withdraw(self, waiter: Waiter) -> None:
        """For a waiter that was cancelled, perhaps after it was admitted."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif not waiter.admitted.cancelled():
            self.leave(waiter.admitted.result())
            self.free(waiter.size)

    def leave(self, stream: Stream) -> None:
        """Give the connection back; the memory stays in use until it is freed."""
        self.open.discard(stream)

    def free(self, size: int) -> None:
        """Give memory back."""
        self.used -= size

    def pause(self, until: float) -> None:
        """Admit nothing before that time."""
        self.paused_until = max(self.paused_until, until)

    def admit(self, limit: int, now: float) -> None:
        """Admit waiters while fewer than `limit` streams are open and the memory suffices."""
        while self._waiting and len(self.open) < limit and now >= self.paused_until:
            waiter = self._next()
            if not self._has_room(waiter.size):
                return
            self._waiting.remove(waiter)
            if waiter.admitted.cancelled():
                continue
            stream = Stream(waiter.pull, waiter.size, now)
            self.open.add(stream)
            self.used += waiter.size
            waiter.admitted.set_result(stream)

    def lacks_only_a_connection(self, limit: int) -> bool:
        """Whether there is memory for the next waiter, but no connection."""
        return bool(self._waiting) and len(self.open) >= limit and self._has_room(self._next().size)

    def _next(self) -> Waiter:
        streams = Counter(stream.pull for stream in self.open)
        return min(self._waiting, key=lambda waiter: (streams[waiter.pull], waiter))

    def _has_room(self, size: int) -> bool:
        return self.used == 0 or self.used + size <= self._memory
