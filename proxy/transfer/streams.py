"""The connections to the sources and the memory for what they bring, shared by all files of all pulls."""

import asyncio
from collections.abc import Hashable
from contextlib import AbstractContextManager

from proxy.timings import DEFAULT, Timings
from proxy.transfer.admission import Admission, Stream
from proxy.transfer.concurrency import ConcurrencyControl
from proxy.transfer.slow_streams import SlowStreamWatch

MIB = 1024 * 1024
MIN_SPAN, MAX_SPAN = 8 * MIB, 32 * MIB
FIRST_STREAMS = 4


class Streams:
    """At most `connections` streams and `memory` bytes at once.

    Admission decides which file goes next, concurrency control how many streams there are, the watch which of them are
    slow.
    """

    def __init__(
        self, connections: int, memory: int, timings: Timings = DEFAULT, *, span_bytes: int | None = None
    ) -> None:
        self.span_bytes = span_bytes or max(MIN_SPAN, min(MAX_SPAN, memory // (2 * connections)))
        self._timings = timings
        self._admission = Admission(memory)
        self._concurrency = ConcurrencyControl(min(FIRST_STREAMS, connections), connections, timings)
        self._watch = SlowStreamWatch(timings)
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0

    @property
    def limit(self) -> int:
        return self._concurrency.limit

    @property
    def received(self) -> int:
        """Bytes of all streams since the start."""
        return self._watch.received

    @property
    def used(self) -> int:
        """Bytes of memory that are given out."""
        return self._admission.used

    @property
    def idle(self) -> bool:
        """Whether every connection and every byte has been given back."""
        return not (self._admission.open or self._admission.used or self._admission.has_waiters)

    async def enter(self, pull: Hashable, order: int, size: int) -> Stream:
        """Wait for a connection and `size` bytes of memory."""
        waiter = self._admission.wait(pull, order, size)
        self._admit()
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            self._admission.withdraw(waiter)
            self._admit()
            raise

    def leave(self, stream: Stream) -> None:
        """Give the connection back; the memory stays in use until it is freed."""
        self._admission.leave(stream)
        self._watch.ended(stream, asyncio.get_running_loop().time())
        self._admit()

    def free(self, size: int) -> None:
        self._admission.free(size)
        self._admit()

    def arrived(self, stream: Stream, size: int) -> None:
        self._watch.arrived(stream, size)
        self._concurrency.arrived(size)

    def throttle(self, seconds: float) -> bool:
        """The source asked for fewer requests: halve the streams, and admit none for that time.

        False if such a pause had begun already: the streams are then not halved again.
        """
        now = asyncio.get_running_loop().time()
        is_new = now >= self._admission.paused_until
        if is_new:
            self._concurrency.halve()
        self._admission.pause(now + max(seconds, self._timings.least_throttle_pause))
        self._concurrency.hold(self._admission.paused_until + self._timings.concurrency_hold)
        return is_new

    def watched(self, stream: Stream, scope: asyncio.Timeout) -> AbstractContextManager[None]:
        """While the block runs, `scope` expires when the stream is far slower than the others."""
        return self._watch.watched(stream, scope)

    def _admit(self) -> None:
        if not self._admission.has_waiters:
            return
        loop = asyncio.get_running_loop()
        self._start_timer(loop)
        self._admission.admit(self.limit, loop.time())
        if self._admission.lacks_only_a_connection(self.limit):
            self._concurrency.needs_more()

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._ticked_at = loop.time()
            self._timer = loop.call_later(self._timings.concurrency_tick, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        streams = self._admission.open
        if not streams and not self._admission.has_waiters:
            self._concurrency.end_trial()
            return
        now = loop.time()
        self._watch.passed((now - self._ticked_at) * len(streams))
        self._concurrency.adapt(now)
        self._watch.expire_slow(streams, now)
        self._start_timer(loop)
        self._admit()
