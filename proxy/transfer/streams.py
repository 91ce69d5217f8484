"""Who may fetch: connections to the source and memory, shared by all files of all pulls."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median

log = logging.getLogger(__name__)

MIB = 1024 * 1024
LEAST_SPAN, MOST_SPAN = 8 * MIB, 32 * MIB
FIRST_STREAMS = 4
TICK_SECONDS = 0.1
BASELINE_SECONDS, TRIAL_SECONDS = 0.2, 1.0
GAIN, CLEAR_GAIN = 1.1, 1.5
HOLD_SECONDS = 20.0
LEAST_PAUSE = 1.0
SLOW_SECONDS = 5.0
SLOW_SHARE = 0.1
LAST_RATES = 16
BUFFERED_SECONDS = 0.2
LEAST_BUFFER = 32 * 1024


@dataclass(eq=False, slots=True)
class Stream:
    """A connection, and memory for all that it will bring."""

    pull: Hashable
    size: int
    began: float
    received: int = 0
    scope: asyncio.Timeout | None = None
    marked: tuple[float, int, int, float] = (0.0, 0, 0, 0.0)


@dataclass(order=True, slots=True)
class _Waiter:
    order: int
    number: int
    pull: Hashable = field(compare=False)
    size: int = field(compare=False)
    admitted: "asyncio.Future[Stream]" = field(compare=False)


class Streams:
    """At most `connections` streams and `memory` bytes at once.

    The number adapts: it doubles as long as the line gives more for it, and is halved when the source throttles.
    Pulls get an equal share; within a pull, the file with the lowest order goes first.
    """

    def __init__(self, connections: int, memory: int, *, span_bytes: int | None = None) -> None:
        self.span_bytes = span_bytes or max(LEAST_SPAN, min(MOST_SPAN, memory // (2 * connections)))
        self.limit = min(FIRST_STREAMS, connections)
        self._connections = connections
        self._memory = memory
        self._used = 0
        self._open: set[Stream] = set()
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._paused_until = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0
        self._received = 0
        self._busy_seconds = 0.0
        self._wanted = False
        self._received_before = 0
        self._measured: tuple[float, int] | None = None
        self._trial: tuple[int, float] | None = None
        self._hold_until = 0.0
        self._rates: deque[float] = deque(maxlen=LAST_RATES)

    @property
    def idle(self) -> bool:
        """Whether every connection and every byte has been given back."""
        return not self._open and not self._used and not self._waiting

    async def enter(self, pull: Hashable, order: int, size: int) -> Stream:
        """Wait for a connection and `size` bytes of memory."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(order, next(self._numbers), pull, size, loop.create_future())
        self._waiting.append(waiter)
        self._admit()
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.admitted.cancelled():
                stream = waiter.admitted.result()
                self.leave(stream)
                self.free(size)
            raise

    def leave(self, stream: Stream) -> None:
        """Give the connection back; the memory stays taken until it is freed."""
        self._open.discard(stream)
        seconds = asyncio.get_running_loop().time() - stream.began
        if stream.received and seconds > 0:
            self._rates.append(stream.received / seconds)
        self._admit()

    def free(self, size: int) -> None:
        self._used -= size
        self._admit()

    def arrived(self, stream: Stream, size: int) -> None:
        stream.received += size
        self._received += size

    def throttle(self, seconds: float) -> bool:
        """The source asked for fewer requests: half as many streams, and no new one for so long.

        False where that pause had begun already.
        """
        now = asyncio.get_running_loop().time()
        begins = now >= self._paused_until
        if begins:
            self._set_limit(max(1, self.limit // 2))
        self._paused_until = max(self._paused_until, now + max(seconds, LEAST_PAUSE))
        self._hold_until = self._paused_until + HOLD_SECONDS
        return begins

    @contextmanager
    def watched(self, stream: Stream, scope: asyncio.Timeout) -> Iterator[None]:
        """While the block runs, `scope` ends when the stream brings far less than the others."""
        stream.scope = scope
        stream.marked = self._mark(stream)
        try:
            yield
        finally:
            stream.scope = None

    def _admit(self) -> None:
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._start_ticking(loop)
        while self._waiting and len(self._open) < self.limit and loop.time() >= self._paused_until:
            waiter = self._next()
            if not self._has_room(waiter.size):
                return
            self._waiting.remove(waiter)
            if waiter.admitted.cancelled():
                continue
            stream = Stream(waiter.pull, waiter.size, loop.time())
            self._open.add(stream)
            self._used += waiter.size
            waiter.admitted.set_result(stream)
        if self._waiting and len(self._open) >= self.limit and self._has_room(self._next().size):
            self._wanted = True

    def _next(self) -> _Waiter:
        streams: dict[Hashable, int] = {}
        for stream in self._open:
            streams[stream.pull] = streams.get(stream.pull, 0) + 1
        return min(self._waiting, key=lambda waiter: (streams.get(waiter.pull, 0), waiter))

    def _has_room(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._memory

    def _start_ticking(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ticking is None:
            self._ticked_at = loop.time()
            self._ticking = loop.call_later(TICK_SECONDS, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticking = None
        if not self._open and not self._waiting:
            self._set_limit(self.limit if self._trial is None else self._trial[0])
            return
        now = loop.time()
        self._busy_seconds += (now - self._ticked_at) * len(self._open)
        self._adapt(now)
        self._restart_slow(now)
        self._start_ticking(loop)
        self._admit()

    def _adapt(self, now: float) -> None:
        """Judge the present number of streams by what the line has given since, and perhaps try a larger one."""
        # Where nothing has waited for a connection alone, Ollama or the memory is the limit.
        wanted, self._wanted = self._wanted, False
        if not wanted:
            self._measured, self._received_before = None, self._received
            return
        if self._measured is None:
            if self._received > self._received_before:
                self._measured = (now, self._received)
            return
        began, received = self._measured
        rate = (self._received - received) / (now - began)
        if self._trial is not None:
            before, rate_before = self._trial
            if rate >= CLEAR_GAIN * rate_before or (now - began >= TRIAL_SECONDS and rate >= GAIN * rate_before):
                self._trial = None
            elif now - began >= TRIAL_SECONDS:
                self._hold_until = now + HOLD_SECONDS
                self._set_limit(before)
                log.debug("more than %d streams bring no more", before)
        measured = now - began >= BASELINE_SECONDS and rate > 0
        if self._trial is None and measured and now >= self._hold_until and self.limit < self._connections:
            trial = (self.limit, rate)
            self._set_limit(min(2 * self.limit, self._connections))
            self._trial = trial

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        self._trial = None
        self._measured = None
        self._received_before = self._received

    def _mark(self, stream: Stream) -> tuple[float, int, int, float]:
        return asyncio.get_running_loop().time(), stream.received, self._received, self._busy_seconds

    def _restart_slow(self, now: float) -> None:
        for stream in self._open:
            if stream.scope is None:
                continue
            began, own_then, all_then, busy_then = stream.marked
            seconds = now - began
            if seconds < SLOW_SECONDS:
                continue
            own = stream.received - own_then
            others = self._received - all_then - own
            others_seconds = self._busy_seconds - busy_then - seconds
            # A slow first range stops the others as soon as the window is full: then the last ones are the measure.
            if others_seconds >= seconds:
                usual = others / others_seconds
            else:
                usual = median(self._rates) if self._rates else 0.0
            if own / seconds < SLOW_SHARE * usual:
                stream.scope.reschedule(now)
            stream.marked = self._mark(stream)


class Bandwidth:
    """At most `rate` bytes a second, all pulls together; 0 is no limit."""

    def __init__(self, rate: int, count: Callable[[int], object] = lambda _: None) -> None:
        """`count` is told all that comes."""
        self._rate = rate
        self._count = count
        self._free_at = 0.0

    def receive_buffer(self, connections: int) -> int | None:
        """Bytes of each connection that the kernel may hold: with its usual megabytes a slow line comes in gusts."""
        return max(LEAST_BUFFER, int(self._rate * BUFFERED_SECONDS / connections)) if self._rate else None

    def take(self, size: int) -> float:
        """Seconds until the line would have brought these bytes at that rate."""
        self._count(size)
        if not self._rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at - now
