"""What a blob is made of: literal bytes and ranges of repository files, in order, perhaps transformed. Pure."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from proxy.errors import Damaged
from proxy.gguf.transforms import Transform
from proxy.sources.base import RepositoryFile


@dataclass(frozen=True, slots=True)
class Literal:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from offset `start` up to `stop` of a file.

    `of` identifies what the `transform` goes by, empty where that may be anything in the commit. Those that are kept
    `beside` are no part of the blob: the next range's blocks have an equal share of them each, and its transform gets
    the shares of some blocks before these.
    """

    file: RepositoryFile
    start: int
    stop: int
    transform: Transform | None = None
    of: str = ""
    beside: bool = False

    @property
    def size(self) -> int:
        taken = 0 if self.beside else self.stop - self.start
        return taken if self.transform is None else self.transform.size(taken)


def skip(file: RepositoryFile, start: int, stop: int) -> Range:
    """Bytes that no blob gets: they are read because a file that comes whole is checked, and needs no ranges."""
    return Range(file, start, stop, Transform(1, 0, _nothing))


def cover_file(file: RepositoryFile, at: int, parts: Sequence[Literal | Range]) -> Iterator[Literal | Range]:
    """The parts, whose ranges are of this file, and what lies between them and behind, for nobody.

    From the offset `at` on the file then comes whole, so that it is checked and needs no ranges; where the parts are
    not in its order they stay alone.
    """
    starts = [part.start for part in parts if isinstance(part, Range)]
    in_order = starts == sorted(starts)
    for part in parts:
        if isinstance(part, Range):
            if in_order and at < part.start:
                yield skip(file, at, part.start)
            at = part.stop
        yield part
    if in_order and at < file.size:
        yield skip(file, at, file.size)


def verify_header(where: str, file: RepositoryFile, size: int, same: Callable[[bytes], bool]) -> Range:
    """A file's header, which was read before: no blob gets it, but it has to be the `same` again."""
    return Range(file, 0, size, Transform(max(size, 1), 0, partial(_compare, where, same)))


def _compare(where: str, same: Callable[[bytes], bool], content: bytes) -> bytes:
    if content and not same(content):
        raise Damaged(f"{where} arrived damaged: its header has come in two versions; pull again")
    return b""


def _nothing(_: bytes) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One blob. `digest` (`sha256:` and hex) is None where nobody knows it before the bytes have come."""

    parts: tuple[Literal | Range, ...]
    digest: str | None = None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def files(self) -> tuple[RepositoryFile, ...]:
        """Those that it takes bytes of."""
        return tuple(dict.fromkeys(part.file for part in self.parts if isinstance(part, Range)))

    @property
    def unchecked(self) -> tuple[RepositoryFile, ...]:
        """Those of which no digest tells whether what came of them is right."""
        if self.digest is not None:
            return ()
        spans = self.spans(sys.maxsize)
        return tuple(dict.fromkeys(span.file for span in spans if not span.whole or span.file.sha256 is None))

    def spans(self, most: int) -> Iterator["Span"]:
        """What has to be fetched, in order: neighbouring ranges together, in spans of `most` bytes or less."""
        file, start, stop = None, 0, 0
        for part in self.parts:
            if not isinstance(part, Range):
                continue
            if part.file is not file or part.start != stop:
                yield from _cut(file, start, stop, most)
                file, start = part.file, part.start
            stop = part.stop
        yield from _cut(file, start, stop, most)

    @property
    def takes_whole_files(self) -> bool:
        return all(span.whole for span in self.spans(sys.maxsize))


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one file that are asked for at once; all of it without a range when it is `whole`."""

    file: RepositoryFile
    start: int
    stop: int
    whole: bool

    @property
    def size(self) -> int:
        return self.stop - self.start


def _cut(file: RepositoryFile | None, start: int, stop: int, most: int) -> Iterator[Span]:
    if file is not None:
        for offset in range(start, stop, most):
            end = min(offset + most, stop)
            yield Span(file, offset, end, whole=end - offset == file.size)
