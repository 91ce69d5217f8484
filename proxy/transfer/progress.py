"""The progress of a pull as data, and as the lines that clients read: Ollama's own (server/routes.go)."""

import asyncio
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from textwrap import wrap
from typing import Protocol
from unicodedata import east_asian_width

import orjson

from proxy.timings import DEFAULT

LINE_SECONDS = 0.06
MAX_BARS = 16
MAX_COLUMNS = 58
"""Ollama's command line draws 3 more columns after a status, and expects one row. A status of two rows leaves a row on
the screen ten times a second. Its bars need 61 columns."""
RATE_SECONDS = 10

# Clients accept a line with a digest as a sign of life, also when the digest is unknown and nothing is left to do.
NOTHING_DIGEST = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def printable(text: str) -> str:
    """Without control characters: a text may quote a repository, and a terminal obeys them."""
    return "".join(character if character.isprintable() else " " for character in text)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a pull's stream. `total` and `completed` are in bytes; only bars have a digest."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""

    def encode(self) -> bytes:
        if self.error:
            return orjson.dumps({"error": self.error}) + b"\n"
        fields: dict[str, str | int] = {"status": self.status}
        if self.digest:
            fields |= {"digest": self.digest, "total": self.total}
            # Ollama omits a zero, and clients rely on that.
            if self.completed:
                fields["completed"] = self.completed
        return orjson.dumps(fields) + b"\n"

    def rows(self) -> "list[Line]":
        """Several lines when a terminal would wrap this one."""
        if self.digest or self.error:
            return [self]
        # The characters of some scripts take two columns.
        wide = any(east_asian_width(character) in "FW" for character in self.status)
        columns = MAX_COLUMNS // 2 if wide else MAX_COLUMNS
        return [Line(row) for row in wrap(self.status, columns, break_on_hyphens=False)]


@dataclass(slots=True)
class FileProgress:
    """The progress of one weight file in bytes, even if it shares its bar. `path` is empty when it is unknown."""

    path: str
    total: int
    completed: int


class ProgressListener(Protocol):
    """Gets reports about bytes on their way."""

    def status(self, text: str) -> None: ...

    def warn(self, texts: Sequence[str]) -> None: ...

    def retried(self) -> None: ...

    def sent(self, size: int) -> None:
        """That many bytes have just gone to Ollama."""


class Progress:
    """The progress of one pull, which writes it. Any number of subscriptions read it."""

    def __init__(self, keep_alive: float = DEFAULT.keep_alive) -> None:
        """`keep_alive` is the longest silence in seconds."""
        self.keep_alive = keep_alive
        self._bars: dict[str, Line] = {}
        self._bar_of: dict[str, str] = {}
        self._files: dict[str, FileProgress] = {}
        self._paths: dict[str, str] = {}
        self._status: Line | None = None
        self._first: Line | None = None
        self.keep_alive_line = Line(f"pulling {NOTHING_DIGEST[7:19]}", NOTHING_DIGEST, 1, 1)
        """What is repeated in a silence: the newest bar with bytes."""
        self._subscriptions: set[Subscription] = set()
        self.latest_status = ""
        self.retries = 0
        self.ended = False
        self._warned = False
        self._rate = Rate()

    @property
    def total(self) -> int:
        """Bytes of all weight files."""
        return sum(line.total for line in self._bars.values())

    @property
    def completed(self) -> int:
        return sum(line.completed for line in self._bars.values())

    @property
    def rate(self) -> float:
        """Bytes a second over the last seconds."""
        return self._rate.now()

    @property
    def files(self) -> Collection[FileProgress]:
        return self._files.values()

    def retried(self) -> None:
        self.retries += 1

    def sent(self, size: int) -> None:
        self._rate.add(size)

    def name_files(self, paths: Mapping[str, str]) -> None:
        """`paths` by the digests with which the files will be announced."""
        self._paths |= paths

    @property
    def has_begun(self) -> bool:
        """Whether clients have got a line."""
        return self._first is not None

    def begin(self) -> None:
        """Show the first line of every pull, unless clients have got it."""
        if not self.has_begun:
            self.status("pulling manifest")

    def status(self, text: str) -> None:
        """Show what happens now; only once, even if it happens to many streams or files."""
        text = printable(text)
        self.latest_status = text
        if not self.ended and self._status != Line(text):
            self._status = Line(text)
            self._first = self._first or self._status
            self._publish(self._status)

    def warn(self, texts: Sequence[str]) -> None:
        """At most one line a pull: clients show each line without a digest as a separate message."""
        if texts and not self._warned:
            self._warned = True
            self.status(f"warning: {'; '.join(texts)}")

    def announce(self, files: Iterable[tuple[str, int, int]]) -> None:
        """Show (digest, bytes, bytes held) of every weight file before a byte moves: later, no total may change."""
        changed: dict[str, None] = {}
        for digest, size, held in files:
            if digest in self._bar_of:  # files with the same content move once
                continue
            bar = digest if len(self._bars) < MAX_BARS else next(reversed(self._bars))
            self._bar_of[digest] = bar
            self._files[digest] = FileProgress(self._paths.get(digest, ""), size, held)
            line = self._bars.get(bar, Line(f"pulling {bar.removeprefix('sha256:')[:12]}", bar))
            self._bars[bar] = replace(line, total=line.total + size, completed=line.completed + held)
            changed[bar] = None
        for bar in changed:
            self._publish(self._bars[bar])

    def moved(self, digest: str, size: int) -> None:
        """Bytes of a file reached Ollama; a negative size takes bytes back."""
        if bar := self._bar_of.get(digest):
            line = self._bars[bar]
            self._bars[bar] = replace(line, completed=min(line.completed + size, line.total))
            file = self._files[digest]
            file.completed = min(file.completed + size, file.total)
            self._publish(self._bars[bar])

    def success(self) -> None:
        self._end(Line("success"))

    def fail(self, text: str) -> None:
        self._end(Line(error=text))

    def end_silently(self) -> None:
        """End without a line: Ollama answers instead."""
        self._end(None)

    def subscribe(self) -> "Subscription":
        """Read the first status, the present state of every bar, the latest status, and then all that follows."""
        subscription = Subscription(self)
        latest = self._status if self._status is not self._first else None
        for line in (self._first, *self._bars.values(), latest):
            if line is not None:
                subscription.put(line)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)

    def _publish(self, line: Line) -> None:
        if self.ended:  # a pull that was cancelled may still finish its model
            return
        if line.digest and line.completed:
            self.keep_alive_line = line
        for subscription in self._subscriptions:
            subscription.put(line)

    def _end(self, line: Line | None) -> None:
        if self.ended:
            return
        self._status = line
        if line is not None:
            self._publish(line)
        self.ended = True
        for subscription in self._subscriptions:
            subscription.wake()


class Rate:
    """Bytes a second over the last `RATE_SECONDS`."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_SECONDS)

    def add(self, size: int) -> None:
        second = int(time.monotonic())
        _, before = self._seconds.pop() if self._seconds and self._seconds[-1][0] == second else (second, 0)
        self._seconds.append((second, before + size))

    def now(self) -> float:
        now = time.monotonic()
        recent = [(second, size) for second, size in self._seconds if second > now - RATE_SECONDS]
        return max(0.0, sum(size for _, size in recent) / max(1.0, now - recent[0][0])) if recent else 0.0


class BlobProgress:
    """Spreads the bytes of one blob over the bars of the files from which it is made.

    A stretch of the blob has the digest of a bar, its own length in bytes, and the number of bytes that it takes from
    the file. A blob may have thousands of stretches.
    """

    def __init__(self, progress: Progress, stretches: Sequence[tuple[str, int, int]]) -> None:
        self._progress = progress
        self._stretches = stretches
        self._ends = list(accumulate(length for _, length, _ in stretches))
        self._size = self._ends[-1] if self._ends else 0
        self._file_bytes = sum(file_bytes for _, _, file_bytes in stretches)
        self._reached = 0

    def sent(self, size: int) -> None:
        """Bytes of the blob have just gone to Ollama."""
        self._progress.sent(size * self._file_bytes // self._size if self._size else size)

    def moved(self, size: int) -> None:
        """Bytes of the blob reached Ollama; a negative size takes bytes back."""
        before, self._reached = self._reached, self._reached + size
        at, stop = sorted((before, self._reached))
        shares: Counter[str] = Counter()
        number = bisect_right(self._ends, at)
        while at < stop and number < len(self._ends):
            end = min(self._ends[number], stop)
            digest, length, file_bytes = self._stretches[number]
            start = self._ends[number] - length
            shares[digest] += (end - start) * file_bytes // length - (at - start) * file_bytes // length
            at, number = end, number + 1
        for digest, share in shares.items():
            self._progress.moved(digest, share if size > 0 else -share)


class Subscription:
    """One client's view. A client that reads slowly gets only the newest line of each bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pending: dict[str | int, Line] = {}
        self._numbers = count()
        self._news = asyncio.Event()

    def put(self, line: Line) -> None:
        self._pending[line.digest or next(self._numbers)] = line
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    async def batches(self, *, in_rows: bool = False) -> AsyncIterator[bytes]:
        """NDJSON until the pull ends: at most one line a bar in each batch, and a sign of life in every silence.

        `in_rows` splits lines that a terminal would wrap.
        """
        began = False
        while not (self._progress.ended and not self._pending):
            try:
                async with asyncio.timeout(self._progress.keep_alive):
                    await self._news.wait()
            except TimeoutError:
                # Before the first line, Ollama may still have to answer this pull.
                if began:
                    yield self._progress.keep_alive_line.encode()
                continue
            self._news.clear()
            if self._pending:
                lines, self._pending = self._pending, {}
                began = True
                yield b"".join(row.encode() for line in lines.values() for row in (line.rows() if in_rows else [line]))
                await asyncio.sleep(LINE_SECONDS)
