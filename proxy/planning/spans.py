"""Bytes of files as requests fetch them: neighbours together, and not too many at once. Pure."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from proxy.sources.base import RepositoryFile

NEIGHBOUR_BYTES = 64 * 1024
"""Parts of a file with at most so many bytes between them are fetched at once.

A stream of 4 MB/s needs 16 ms for them, and an answer of the Hub's CDN takes longer than that to begin.
"""


class FileBytes(Protocol):
    """The bytes of a file from offset `start` up to `stop`."""

    @property
    def file(self) -> RepositoryFile: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one file that one request fetches."""

    file: RepositoryFile
    start: int
    stop: int
    whole: bool
    """Whether it is the whole file, which needs no range."""

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def size(self) -> int:
        return self.stop - self.start


def merged(ranges: Iterable[FileBytes], max_bytes: int) -> Iterator[Span]:
    """The ranges in their order: those that follow each other in a file are merged, then cut into spans."""
    file, start, stop = None, 0, 0
    for part in ranges:
        if part.file is not file or part.start != stop:
            yield from _cut(file, start, stop, max_bytes)
            file, start = part.file, part.start
        stop = part.stop
    yield from _cut(file, start, stop, max_bytes)


def _cut(file: RepositoryFile | None, start: int, stop: int, max_bytes: int) -> Iterator[Span]:
    if file is not None:
        for offset in range(start, stop, max_bytes):
            end = min(offset + max_bytes, stop)
            yield Span(file, offset, end, whole=end - offset == file.size)


class Part(Protocol):
    """The bytes of the file `path` from offset `start` up to `stop`."""

    @property
    def path(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


P = TypeVar("P", bound=Part)


def neighbours(parts: Iterable[P], max_bytes: int = sys.maxsize) -> Iterator[list[P]]:
    """The parts in groups that can be fetched at once: at most NEIGHBOUR_BYTES apart, and `max_bytes` from end to end.

    They are sorted by path and offset. Parts may overlap.
    """
    group: list[P] = []
    stop = 0
    for part in sorted(parts, key=lambda part: (part.path, part.start, part.stop)):
        if group and (
            part.path != group[0].path
            or part.start > stop + NEIGHBOUR_BYTES
            or max(stop, part.stop) - group[0].start > max_bytes
        ):
            yield group
            group = []
        stop = max(stop, part.stop) if group else part.stop
        group.append(part)
    if group:
        yield group
