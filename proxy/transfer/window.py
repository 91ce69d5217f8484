"""Fetches a recipe's ranges with several streams at once, and passes their bytes on in order."""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Self

from proxy.errors import Interrupted
from proxy.planning.recipe import Recipe
from proxy.planning.spans import Span
from proxy.sources.base import Repository
from proxy.transfer.admission import Stream
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.gathering import HELD_BYTES, PIECE_BYTES, Gathering, InOrder
from proxy.transfer.passed_bytes import PassedBytes
from proxy.transfer.progress import ProgressListener
from proxy.transfer.retry import Retries

log = logging.getLogger(__name__)

AHEAD = 1
"""Spans that may wait to be passed on while every stream fetches another one."""
BATCH_BYTES = 2 * 1024 * 1024
JOINED_BYTES = 1024 * 1024
"""Chunks are joined up to this size while the processor has them in its cache: each costs time in all later steps."""
GAINED_BYTES = 256 * 1024
"""What a try has to fetch so that the next failure counts as the first one."""
MAX_SLOW_RESTARTS = 3
WHOLE_BYTES = 8 * 1024 * 1024
"""Bytes of a non-range download that may be buffered."""


class Fetching:
    """What all fetches of one pull share; only the listener of their progress may differ."""

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
        """Identifies the pull when streams are shared fairly."""
        self.passed: PassedBytes | None = pull.passed if pull else None
        """Keeps bytes that one blob reads past for another one."""
        self.ranges_ignored: asyncio.Event = pull.ranges_ignored if pull else asyncio.Event()
        """Set when the source has ignored a range: from then on, each of its files is fetched whole, in one stream."""

    def reporting_to(self, progress: ProgressListener) -> "Fetching":
        """For a file that other pulls need too."""
        return Fetching(self.repository, self.limits, progress, self.pull)


class Window:
    """The bytes of a recipe's ranges in order, while the block runs.

    Entering waits for the first stream. The first span starts alone: it finds the signed URL, and whether the source
    sends ranges.
    """

    def __init__(self, fetching: Fetching, recipe: Recipe, order: int) -> None:
        self._fetching = fetching
        self._streams = fetching.limits.streams
        # Another file of the pull may find out that there are no ranges while this one still gets them.
        self._ranged = not fetching.ranges_ignored.is_set() or not recipe.takes_whole_files
        gathering = Gathering(recipe, PIECE_BYTES if self._ranged else 0, HELD_BYTES)
        self._spans = gathering.requests(self._streams.span_bytes if self._ranged else sys.maxsize)
        self._in_order = InOrder(gathering.steps())
        self._order = order
        self._fetches: deque[_Fetch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: BaseException | None = None
        self._all_begun = False
        self._passed_on: deque[tuple[_Fetch, int]] = deque()

    async def __aenter__(self) -> Self:
        first = next(self._spans, None)
        if first is None:
            self._all_begun = True
            return self
        fetch = await self._begin(first)
        self._start(self._begin_others(fetch))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        # Before the tasks end: a second cancellation would interrupt the wait for them.
        for fetch in {*self._fetches, *(fetch for fetch, _ in self._passed_on)}:
            fetch.free_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self) -> list[bytes]:
        """The next bytes, at least one, about `BATCH_BYTES`; empty at the end. They count as memory until `used`.

        Raises SourceError; Interrupted when a download without ranges has to begin again; RangesIgnored when the
        source ignored a range.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._fetches and (batch := self._fetches[0].take()):
                size = sum(map(len, batch))
                if ready := self._in_order.take(batch):
                    self._passed_on.append((self._fetches[0], size))
                    return ready
                self._fetches[0].free(size)
                continue
            if self._fetches and self._fetches[0].is_complete:
                self._fetches.popleft()
                self._room.set()
            elif not self._fetches and self._all_begun:
                return []
            else:
                self._news.clear()
                await self._news.wait()

    def used(self) -> None:
        """The oldest batch is no longer needed: free its memory."""
        fetch, size = self._passed_on.popleft()
        fetch.free(size)

    async def _begin_others(self, first: "_Fetch") -> None:
        if not await first.begun:
            return
        for span in self._spans:
            while len(self._fetches) >= self._streams.limit + AHEAD:
                self._room.clear()
                await self._room.wait()
            await self._begin(span)
        self._all_begun = True
        self._news.set()

    async def _begin(self, span: Span) -> "_Fetch":
        size = span.size if self._ranged else min(span.size, WHOLE_BYTES)
        stream = await self._streams.enter(self._fetching.pull, self._order, size)
        fetch = _Fetch(self._fetching, span, stream, self._notify, ranged=self._ranged)
        self._fetches.append(fetch)
        # A task that is cancelled before its first step never reaches a `finally` of its own.
        self._start(fetch.run()).add_done_callback(lambda _: fetch.ended())
        return fetch

    def _notify(self, fetch: "_Fetch") -> None:
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
    """The download of one span, and its bytes that have arrived but were not passed on."""

    def __init__(
        self, fetching: Fetching, span: Span, stream: Stream, notify: Callable[["_Fetch"], None], *, ranged: bool
    ) -> None:
        self.begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the source has answered; False when the download ended before it did."""
        self._fetching = fetching
        self._streams = fetching.limits.streams
        self._span = span
        self._stream = stream
        self._notify = notify
        self._ranged = ranged
        self._what = f"{fetching.repository.id}/{span.file.path}"
        self._received = 0
        self._reserved = stream.size
        """Bytes of memory that are not given back yet."""
        self._used = 0
        self._chunks: deque[bytes] = deque()
        self._latest: list[bytes] = []
        """Chunks that are not joined yet."""
        self._latest_bytes = 0
        self._waiting = 0
        """Bytes that wait to be passed on."""
        self._taken = asyncio.Event()
        self._taken_at = 0.0
        self._slow_restarts = 0

    @property
    def is_complete(self) -> bool:
        return self._received == self._span.size and not self._waiting

    def take(self) -> list[bytes]:
        """The next bytes that wait, about `BATCH_BYTES`."""
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
        """Give back the memory of bytes that are no longer needed."""
        self._used += size
        if self._ranged:
            self._give_back(size)
        elif self._used == self._span.size:
            self.free_all()

    def free_all(self) -> None:
        self._give_back(self._reserved)

    def _give_back(self, size: int) -> None:
        # After an upload that fails, aiohttp's writer still takes bytes for a moment: all memory is given back then.
        left = min(size, self._reserved)
        self._reserved -= left
        self._streams.free(left)

    async def run(self) -> None:
        retries = Retries(self._fetching.progress, self._fetching.limits)
        while self._received < self._span.size:
            before = self._received
            try:
                await self._receive_watched()
            except Interrupted as error:
                if self._received and not self._ranged:
                    raise
                if self._received - before >= GAINED_BYTES:
                    retries.reset()
                await retries.pause(error)

    def ended(self) -> None:
        """Give the connection back, however the download ended."""
        if not self.begun.done():
            self.begun.set_result(False)
        self._streams.leave(self._stream)

    async def _receive_watched(self) -> None:
        """Receive, and return early when the stream is far slower than the others: it restarts on a new connection."""
        is_watched = self._ranged and self._slow_restarts < MAX_SLOW_RESTARTS
        try:
            async with asyncio.timeout(None) as scope:
                with self._streams.watched(self._stream, scope) if is_watched else nullcontext():
                    await self._receive()
        except TimeoutError:
            self._slow_restarts += 1
            self._fetching.progress.retried()
            log.warning(
                "%s: restarting a slow stream at byte %d: it had less than a tenth of the other streams' rate",
                self._what,
                self._span.start + self._received,
            )

    async def _receive(self) -> None:
        bandwidth = self._fetching.limits.bandwidth
        start = self._span.start + self._received
        is_whole = not self._ranged or (self._span.whole and not self._received)
        stop = None if is_whole else self._span.stop
        async with self._fetching.repository.stream(self._span.file, start, stop) as chunks:
            if not self.begun.done():
                self.begun.set_result(True)
            async for chunk in chunks:
                if wait := bandwidth.take(len(chunk)):
                    await asyncio.sleep(wait)
                self._add(chunk[: self._span.size - self._received])
                while not self._ranged and self._waiting >= WHOLE_BYTES:
                    self._taken.clear()
                    self._notify(self)
                    await self._taken.wait()
                if self._received == self._span.size:
                    return
        raise Interrupted(f"{self._what}: only {self._received} of {self._span.size} bytes arrived")

    def _add(self, chunk: bytes) -> None:
        self._latest.append(chunk)
        self._latest_bytes += len(chunk)
        if self._latest_bytes >= JOINED_BYTES:
            self._join_latest()
        self._waiting += len(chunk)
        self._received += len(chunk)
        self._streams.arrived(self._stream, len(chunk))
        waited = asyncio.get_running_loop().time() - self._taken_at
        is_due = waited >= self._fetching.limits.timings.batch
        if self._waiting >= BATCH_BYTES or self._received == self._span.size or is_due:
            self._notify(self)

    def _join_latest(self) -> None:
        if self._latest:
            self._chunks.append(b"".join(self._latest))
            self._latest.clear()
            self._latest_bytes = 0
