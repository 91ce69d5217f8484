"""What a blob is made of: literal bytes and ranges of repository files, in order, perhaps transformed. Pure."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from proxy.errors import Damaged, TransferError
from proxy.sources.base import RepositoryFile

Step = Callable[[bytes], bytes]
"""Takes a range's bytes piece by piece and returns what is ready of them; after the last it is given `b""`."""


@dataclass(frozen=True, slots=True)
class Literal:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from offset `start` up to `stop` of a file.

    `transform` makes a fresh step for every upload, since one may have to begin again; it runs in a thread.
    `becomes` is how many bytes it makes of the range, where that is another number. `of` identifies what it goes by,
    empty where that may be anything in the commit.
    """

    file: RepositoryFile
    start: int
    stop: int
    transform: Callable[[], Step] | None = None
    becomes: int | None = None
    of: str = ""

    @property
    def size(self) -> int:
        return self.stop - self.start if self.becomes is None else self.becomes


def unused(file: RepositoryFile, start: int, stop: int) -> Range:
    """Bytes that no blob gets: they are read because a file that comes whole is checked, and needs no ranges."""
    return Range(file, start, stop, lambda: lambda _: b"", 0)


def covered(file: RepositoryFile, at: int, parts: Sequence[Literal | Range]) -> Iterator[Literal | Range]:
    """The parts, whose ranges are of this file, and what lies between them and behind, for nobody.

    From the offset `at` on the file then comes whole, so that it is checked and needs no ranges; where the parts are
    not in its order they stay alone.
    """
    starts = [part.start for part in parts if isinstance(part, Range)]
    in_order = starts == sorted(starts)
    for part in parts:
        if isinstance(part, Range):
            if in_order and at < part.start:
                yield unused(file, at, part.start)
            at = part.stop
        yield part
    if in_order and at < file.size:
        yield unused(file, at, file.size)


def compared(where: str, file: RepositoryFile, size: int, same: Callable[[bytes], bool]) -> Range:
    """A file's header, which was read before: no blob gets it, but it has to be the `same` again."""

    def compare() -> Step:
        held = bytearray()

        def step(piece: bytes) -> bytes:
            held.extend(piece)
            if not piece and not same(bytes(held)):
                raise Damaged(f"{where} arrived damaged: its header has come in two versions; pull again")
            return b""

        return step

    return Range(file, 0, size, compare, 0)


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


class _Check:
    """Hashes a file that a recipe takes whole and in order, if in pieces, and compares."""

    def __init__(self, file: RepositoryFile) -> None:
        self.file = file
        self._hash = hashlib.sha256()
        self.reached = 0

    def add(self, where: str, piece: bytes) -> None:
        """Raises Damaged at the file's last byte."""
        self._hash.update(piece)
        self.reached += len(piece)
        if self.reached == self.file.size and self._hash.hexdigest() != self.file.sha256:
            raise Damaged(
                f"{where}/{self.file.path} arrived damaged: its digest is {self._hash.hexdigest()}, not "
                f"{self.file.sha256} as announced; pull again: finished files are kept"
            )


class Assembly:
    """Makes a recipe's bytes of the bytes of its ranges, which come in order, and hashes them.

    Where it is not a file as it is, the files that it is made of are checked; `where` names their repository.
    """

    def __init__(self, recipe: Recipe, where: str = "") -> None:
        self._parts = iter(recipe.parts)
        self._checks_files = recipe.digest is None or len(recipe.parts) > 1
        self._check: _Check | None = None
        self._where = where
        self._expected = recipe.size
        self._hash = hashlib.sha256()
        self._left = 0
        self._step: Step | None = None
        self._ended = False
        self._begun = False
        self.size = 0

    def add(self, chunks: Sequence[bytes]) -> list[bytes]:
        """The blob's next bytes. Blocking: for a thread."""
        ready: list[bytes] = []
        if not self._begun:
            self._begun = True
            self._next_range(ready)
        for chunk in chunks:
            rest = chunk
            while rest:
                if self._ended:
                    raise TransferError("more bytes came than the recipe has ranges for")
                piece, rest = (rest, b"") if len(rest) <= self._left else (rest[: self._left], rest[self._left :])
                self._left -= len(piece)
                if self._check:
                    self._check.add(self._where, piece)
                ready.append(self._step(piece) if self._step else piece)
                if self._left == 0:
                    self._end_range(ready)
        for piece in ready:
            self._hash.update(piece)
            self.size += len(piece)
        return ready

    def digest(self) -> str:
        """The whole blob's. Raises TransferError when it is not whole."""
        if not self._ended or self.size != self._expected:
            raise TransferError(f"{self.size} bytes were made in the place of {self._expected}")
        return f"sha256:{self._hash.hexdigest()}"

    def _end_range(self, ready: list[bytes]) -> None:
        if self._step:
            ready.append(self._step(b""))
        self._next_range(ready)

    def _next_range(self, ready: list[bytes]) -> None:
        for part in self._parts:
            if isinstance(part, Literal):
                ready.append(part.content)
            elif part.stop > part.start:
                self._left = part.stop - part.start
                self._check = self._next_check(part)
                self._step = part.transform() if part.transform else None
                return
        self._ended = True

    def _next_check(self, part: Range) -> _Check | None:
        if self._check and self._check.file is part.file and self._check.reached == part.start:
            return self._check
        checked = self._checks_files and part.file.sha256 is not None and part.start == 0
        return _Check(part.file) if checked else None
