"""A recipe's ranges, fetched by several streams at once and handed on in order."""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Self

from proxy.errors import Interrupted
from proxy.planning.recipe import Recipe, Span
from proxy.sources.base import Repository
from proxy.transfer.admission import Stream
from proxy.transfer.limits import FetchLimits
from proxy.transfer.progress import ProgressListener
from proxy.transfer.retry import Retries

log = logging.getLogger(__name__)

AHEAD = 1
"""Spans that may wait to be handed on while every stream fetches another."""
BATCH_BYTES = 2 * 1024 * 1024
JOINED_BYTES = 1024 * 1024
"""What comes is joined to chunks of this size while it is in the processor's cache: each one costs all later steps."""
GAINED_BYTES = 256 * 1024
"""What a try has to bring for the next one to count as a first one."""
MOST_SLOW_RESTARTS = 3
WHOLE_BYTES = 8 * 1024 * 1024
"""What of a file without ranges may wait to be handed on."""


class Fetching:
    """What fetches need beside their span: the same for all of a pull, but for who hears of it."""

    def __init__(
        self,
        repository: Repository,
        limits: FetchLimits,
        progress: ProgressListener,
        pull: "Fetching | None" = None,
    ) -> None:
        self.repository = repository
        self.limits = limits
        self.progress = progress
        self.pull = pull or self
        self.ranges_ignored: asyncio.Event = pull.ranges_ignored if pull else asyncio.Event()
        """Set when the source has ignored a range: it ignores them all, and its files are then one stream each."""

    def reporting_to(self, progress: ProgressListener) -> "Fetching":
        """The same pull's, of a file that others wait for too."""
        return Fetching(self.repository, self.limits, progress, self.pull)


class Window:
    """The bytes of a recipe's ranges in order, while the block runs.

    Entering waits for the first stream. The first span goes ahead alone: it finds the signed address, and whether
    there are ranges at all.
    """

    def __init__(self, fetching: Fetching, recipe: Recipe, order: int) -> None:
        self._fetching = fetching
        self._streams = fetching.limits.streams
        # Another file of the pull may find out that there are none, while this one still gets its ranges.
        self._ranged = not fetching.ranges_ignored.is_set() or not recipe.takes_whole_files
        self._spans = recipe.spans(self._streams.span_bytes if self._ranged else sys.maxsize)
        self._order = order
        self._fetches: deque[_Fetch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: BaseException | None = None
        self._fed = False
        self._handed_on: deque[tuple[_Fetch, int]] = deque()

    async def __aenter__(self) -> Self:
        first = next(self._spans, None)
        if first is None:
            self._fed = True
            return self
        fetch = await self._begin(first)
        self._start(self._feed(fetch))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        # Before the tasks are waited for: a second cancellation would end that wait.
        for fetch in {*self._fetches, *(fetch for fetch, _ in self._handed_on)}:
            fetch.free_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self) -> list[bytes]:
        """The next bytes, about `BATCH_BYTES`; empty at the end. They count as held until `used`.

        Raises SourceError; Interrupted where a file without ranges has to begin again, RangesIgnored where it has
        none and was asked for some.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._fetches and (batch := self._fetches[0].take()):
                self._handed_on.append((self._fetches[0], sum(map(len, batch))))
                return batch
            if self._fetches and self._fetches[0].complete:
                self._fetches.popleft()
                self._room.set()
            elif not self._fetches and self._fed:
                return []
            else:
                self._news.clear()
                await self._news.wait()

    def used(self) -> None:
        """The oldest bytes that were handed on are needed no more."""
        fetch, size = self._handed_on.popleft()
        fetch.free(size)

    async def _feed(self, first: "_Fetch") -> None:
        if not await first.begun:
            return
        for span in self._spans:
            while len(self._fetches) >= self._streams.limit + AHEAD:
                self._room.clear()
                await self._room.wait()
            await self._begin(span)
        self._fed = True
        self._news.set()

    async def _begin(self, span: Span) -> "_Fetch":
        size = span.size if self._ranged else min(span.size, WHOLE_BYTES)
        stream = await self._streams.enter(self._fetching.pull, self._order, size)
        fetch = _Fetch(self._fetching, span, stream, self._tell, ranged=self._ranged)
        self._fetches.append(fetch)
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        self._start(fetch.run()).add_done_callback(lambda _: fetch.ended())
        return fetch

    def _tell(self, fetch: "_Fetch") -> None:
        if self._fetches[0] is fetch:
            self._news.set()

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure = self._failure or error
        self._news.set()


class _Fetch:
    """One span on its way: what has come and was not yet taken."""

    def __init__(
        self, fetching: Fetching, span: Span, stream: Stream, tell: Callable[["_Fetch"], None], *, ranged: bool
    ) -> None:
        self._fetching = fetching
        self._streams = fetching.limits.streams
        self._span = span
        self._stream = stream
        self._tell = tell
        self._ranged = ranged
        self._reserved = stream.size
        self._used = 0
        self._chunks: deque[bytes] = deque()
        self._latest: list[bytes] = []
        self._latest_bytes = 0
        self._waiting = 0
        self._taken = asyncio.Event()
        self._taken_at = 0.0
        self._what = f"{fetching.repository.id}/{span.file.path}"
        self._slow_restarts = 0
        self.received = 0
        self.begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def complete(self) -> bool:
        return self.received == self._span.size and not self._waiting

    def take(self) -> list[bytes]:
        self._join_latest()
        batch, size = [], 0
        while self._chunks and size < BATCH_BYTES:
            chunk = self._chunks.popleft()
            batch.append(chunk)
            size += len(chunk)
        self._waiting -= size
        self._taken_at = asyncio.get_running_loop().time()
        self._taken.set()
        return batch

    def free(self, size: int) -> None:
        """Give back the memory of bytes that are needed no more."""
        self._used += size
        if self._ranged:
            self._give_back(size)
        elif self._used == self._span.size:
            self.free_all()

    def free_all(self) -> None:
        self._give_back(self._reserved)

    def _give_back(self, size: int) -> None:
        self._reserved -= size
        self._streams.free(size)

    async def run(self) -> None:
        tries = Retries(self._fetching.progress, self._fetching.limits)
        while self.received < self._span.size:
            before = self.received
            try:
                await self._receive_watched()
            except Interrupted as error:
                if self.received and not self._ranged:
                    raise
                if self.received - before >= GAINED_BYTES:
                    tries.reset()
                await tries.pause(error)

    def ended(self) -> None:
        """However it ended, the connection is given back."""
        if not self.begun.done():
            self.begun.set_result(False)
        self._streams.leave(self._stream)

    async def _receive_watched(self) -> None:
        """Receive, but begin a new connection where this one brings far less than the others."""
        watch = self._ranged and self._slow_restarts < MOST_SLOW_RESTARTS
        try:
            async with asyncio.timeout(None) as scope:
                with self._streams.watched(self._stream, scope) if watch else nullcontext():
                    await self._receive()
        except TimeoutError:
            self._slow_restarts += 1
            self._fetching.progress.retried()
            log.warning(
                "%s: from byte %d on it comes at less than a tenth of the other streams' rate; fetched anew",
                self._what,
                self._span.start + self.received,
            )

    async def _receive(self) -> None:
        bandwidth = self._fetching.limits.bandwidth
        start = self._span.start + self.received
        as_a_whole = not self._ranged or (self._span.whole and not self.received)
        async with self._fetching.repository.stream(
            self._span.file, start, None if as_a_whole else self._span.stop
        ) as chunks:
            if not self.begun.done():
                self.begun.set_result(True)
            async for chunk in chunks:
                if wait := bandwidth.take(len(chunk)):
                    await asyncio.sleep(wait)
                self._add(chunk[: self._span.size - self.received])
                while not self._ranged and self._waiting >= WHOLE_BYTES:
                    self._taken.clear()
                    self._tell(self)
                    await self._taken.wait()
                if self.received == self._span.size:
                    return
        raise Interrupted(f"{self._what}: only {self.received} of {self._span.size} bytes came")

    def _add(self, chunk: bytes) -> None:
        self._latest.append(chunk)
        self._latest_bytes += len(chunk)
        if self._latest_bytes >= JOINED_BYTES:
            self._join_latest()
        self._waiting += len(chunk)
        self.received += len(chunk)
        self._streams.arrived(self._stream, len(chunk))
        waited = asyncio.get_running_loop().time() - self._taken_at
        is_due = waited >= self._fetching.limits.timings.batch
        if self._waiting >= BATCH_BYTES or self.received == self._span.size or is_due:
            self._tell(self)

    def _join_latest(self) -> None:
        if self._latest:
            self._chunks.append(b"".join(self._latest))
            self._latest.clear()
            self._latest_bytes = 0
