"""Bytes of files that one blob of a pull reads past and another one needs: kept on disk, so that they come once."""

import asyncio
import shutil
import sys
import tempfile
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from io import RawIOBase
from pathlib import Path

from msgspec.structs import replace as replace_struct

from proxy.errors import SourceError
from proxy.planning.recipe import Range, Recipe
from proxy.sources.base import Repository, RepositoryFile
from proxy.sources.threads import in_daemon_thread
from proxy.transfer.checkpoints import write_all

CHUNK_BYTES = 1024 * 1024


class PassedBytes:
    """A file for the bytes of a recipe's ranges. It has no name, so nothing is left of it after a crash.

    `ended` is set when no more bytes will come. `add` and `read` block.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Raises OSError if the folder has no room for them."""
        self._recipe = recipe
        self.ended = asyncio.Event()
        self._spans: dict[str, list[_Kept]] = {}
        size = 0
        for span in recipe.spans(sys.maxsize):
            self._spans.setdefault(span.file.path, []).append(_Kept(span.start, span.stop, size))
            size += span.size
        for kept in self._spans.values():
            kept.sort(key=lambda one: one.start)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The blobs themselves are kept there too.
        if shutil.disk_usage(folder).free < 2 * size:
            raise OSError(f"{folder} has no room for {size} bytes")
        self._size = size
        self._file: RawIOBase = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `close` closes it
        self._lock = threading.Lock()
        self._failed = False

    def close(self) -> None:
        self._file.close()

    def add(self, file: RepositoryFile, start: int, content: bytes) -> None:
        """`content` begins at offset `start` of the file. Bytes that nothing needs are passed over."""
        spans = self._spans.get(file.path, ())
        stop = start + len(content)
        at = max(bisect_right(spans, start, key=lambda one: one.start) - 1, 0)
        for kept in spans[at:]:
            first, last = max(kept.start, start), min(kept.stop, stop)
            if kept.start >= stop:
                break
            # A try that begins again reads the file again: what is there must continue what came before.
            if first < last and first <= kept.reached and not self._failed:
                self._write(content[first - start : last - start], kept.place + first - kept.start)
                kept.reached = max(kept.reached, last)

    def _write(self, content: bytes, place: int) -> None:
        """Without room on the disk, the bytes are fetched once more."""
        try:
            with self._lock:
                self._file.seek(place)
                write_all(self._file, content)
        except OSError:
            self._failed = True

    def read(self, place: int, size: int) -> bytes:
        """At most `size` bytes of our file."""
        with self._lock:
            self._file.seek(place)
            return self._file.read(size) or b""

    @property
    def complete(self) -> bool:
        return not self._failed and all(one.reached == one.stop for kept in self._spans.values() for one in kept)

    def source(self, name: str) -> tuple[Repository, Recipe]:
        """The bytes as the only file of a repository with this name, and how the blob is made of it."""
        stored = RepositoryFile("passed bytes", self._size)
        parts = (self._moved(part, stored) if isinstance(part, Range) else part for part in self._recipe.parts)
        return _Repository(self, stored, name), replace(self._recipe, parts=tuple(parts))

    def _moved(self, part: Range, stored: RepositoryFile) -> Range:
        spans = self._spans[part.file.path]
        kept = spans[bisect_right(spans, part.start, key=lambda one: one.start) - 1]
        start = kept.place + part.start - kept.start
        return replace_struct(part, file=stored, start=start, stop=start + part.stop - part.start)


class _Kept:
    """The bytes from offset `start` up to `stop` of a repository's file, at `place` of ours. They are there up to
    `reached`.
    """

    __slots__ = ("place", "reached", "start", "stop")

    def __init__(self, start: int, stop: int, place: int) -> None:
        self.start, self.stop, self.place, self.reached = start, stop, place, start


class _Repository:
    """The bytes as the only file of a repository."""

    public = False
    modified = None

    def __init__(self, passed: PassedBytes, file: RepositoryFile, name: str) -> None:
        self.id, self.commit, self.files = name, "", (file,)
        self._passed = passed

    @asynccontextmanager
    async def stream(
        self, file: RepositoryFile, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._chunks(start, file.size if stop is None else stop)

    async def _chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            read = partial(self._passed.read, start, min(CHUNK_BYTES, stop - start))
            if not (chunk := await in_daemon_thread(read)):
                raise SourceError(f"{self.id}: bytes that were on the disk are gone; pull again")
            start += len(chunk)
            yield chunk

    async def gguf_repositories(self) -> Sequence[str]:
        return ()
