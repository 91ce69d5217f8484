"""How to make a blob: literal bytes and ranges of repository files, in order, some of them transformed. Pure."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from proxy.errors import Damaged
from proxy.gguf.transforms import Transform
from proxy.planning.spans import Span, merged
from proxy.sources.base import RepositoryFile


class Literal(msgspec.Struct, frozen=True, gc=False):
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


class Beside(Enum):
    """What a call of the transform gets of a range `beside` its blocks."""

    SHARE = auto()
    """Each block has an equal share, such as the scales of a row: the shares of its blocks."""
    WHOLE = auto()


class Range(msgspec.Struct, frozen=True, gc=False):
    """The bytes of a file from offset `start` up to `stop`. A plan may have 200,000: structs are pickled quickly."""

    file: RepositoryFile
    start: int
    stop: int
    transform: Transform | None = None
    transform_id: str = ""
    """Identifies all inputs of `transform` but the bytes. Empty: it may depend on anything in the commit."""
    beside: Beside | None = None
    """Set if it is no part of the blob, but a second input for the transform of the next range without `beside`.

    The transform gets its bytes of each range `beside`, then its blocks.
    """

    @property
    def size(self) -> int:
        """Bytes of the blob that are made from it."""
        length = 0 if self.beside else self.stop - self.start
        return length if self.transform is None else self.transform.size(length)


def skip(file: RepositoryFile, start: int, stop: int) -> Range:
    """Fetches bytes that no blob needs: a file that is read whole can be checked, and needs no range requests."""
    return Range(file, start, stop, Transform(1, 0, _discard))


def cover_file(file: RepositoryFile, start: int, parts: Sequence[Literal | Range]) -> Iterator[Literal | Range]:
    """Adds skip ranges between and after `parts`, so that the file is read whole from `start` on and can be checked.

    All ranges in `parts` are of this file. If they are not in the file's order, nothing is added.
    """
    starts = [part.start for part in parts if isinstance(part, Range)]
    in_order = starts == sorted(starts)
    for part in parts:
        if isinstance(part, Range):
            if in_order and start < part.start:
                yield skip(file, start, part.start)
            start = part.stop
        yield part
    if in_order and start < file.size:
        yield skip(file, start, file.size)


def verify_header(where: str, file: RepositoryFile, size: int, is_same: Callable[[bytes], bool]) -> Range:
    """Fetches a header that the plan has read before: not part of the blob, but it must not have changed."""
    return Range(file, 0, size, Transform(max(size, 1), 0, partial(_compare, where, is_same)))


def _compare(where: str, is_same: Callable[[bytes], bool], content: bytes) -> bytes:
    if content and not is_same(content):
        raise Damaged(f"{where} arrived damaged: its header differs from the one that the plan read; pull again")
    return b""


def _discard(_: bytes) -> bytes:
    return b""


class Position(NamedTuple):
    """A place in a recipe: before the part with this number, or after `taken` bytes of its range."""

    part: int
    taken: int = 0


START = Position(0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One blob."""

    parts: tuple[Literal | Range, ...]
    digest: str | None = None
    """`sha256:` and hex; None if it is unknown until the bytes have arrived."""

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def files(self) -> tuple[RepositoryFile, ...]:
        """The files that bytes are fetched from."""
        files = {id(part.file): part.file for part in self.parts if isinstance(part, Range)}
        return tuple(dict.fromkeys(files.values()))

    @property
    def unchecked(self) -> tuple[RepositoryFile, ...]:
        """The files whose bytes no digest can check."""
        if self.digest is not None:
            return ()
        spans = self.spans(sys.maxsize)
        return tuple(dict.fromkeys(span.file for span in spans if not span.whole or span.file.sha256 is None))

    def after(self, position: Position) -> Iterator[tuple[Position, Literal | Range]]:
        """The parts that are left, each with the position of its first byte.

        Of the ranges `beside` the range that the position is in, only the shares of its other blocks are left.
        """
        number, taken = position
        if taken and isinstance(begun := self.parts[number], Range):
            for one in self._beside(number):
                used = (one.stop - one.start) * taken // (begun.stop - begun.start)
                yield position, one if one.beside is Beside.WHOLE else replace(one, start=one.start + used)
            yield position, replace(begun, start=begun.start + taken)
            number += 1
        for following, part in enumerate(self.parts[number:], number):
            yield Position(following), part

    def _beside(self, number: int) -> list[Range]:
        """The ranges `beside` the part with this number."""
        beside: list[Range] = []
        for part in reversed(self.parts[:number]):
            if not isinstance(part, Range) or not part.beside:
                break
            beside.insert(0, part)
        return beside

    def spans(self, max_bytes: int) -> Iterator[Span]:
        """The bytes of all ranges in order: neighbouring ranges are merged, then cut into spans of `max_bytes`."""
        return merged((part for part in self.parts if isinstance(part, Range)), max_bytes)

    @property
    def takes_whole_files(self) -> bool:
        return all(span.whole for span in self.spans(sys.maxsize))
