"""Makes a recipe's bytes of the bytes of its ranges: cut into slices, changed by several threads, joined in order."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from proxy.errors import Damaged, TransferError
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.sources.base import RepositoryFile
from proxy.transfer.threads import give_way
from proxy.transfer.window import Window

SLICE = 256 * 1024
"""Bytes of a range that one thread changes at a time, where its blocks are not larger."""

Piece = bytes | Future[bytes]


class Assembly:
    """Cuts what comes of a recipe's ranges into pieces, has the `pool` change them, and joins and hashes the result.

    The files are checked on the way, where the blob is not a file as it is; `where` names their repository. One thread
    may cut while another joins.
    """

    def __init__(self, recipe: Recipe, pool: Executor, where: str = "") -> None:
        self._parts = iter(recipe.parts)
        self._pool = pool
        self._checks_files = recipe.digest is None or len(recipe.parts) > 1
        self._check: _Check | None = None
        self._where = where
        self._left = 0
        self._block = 1
        self._change: Callable[[bytes], bytes] | None = None
        self._held = bytearray()
        self._keeps = False
        self._beside = bytearray()
        self._share = 0
        self._changing: deque[Future[bytes]] = deque()
        self._begun = False
        self._ended = False
        self._expected = recipe.size
        self._hash = hashlib.sha256()
        self._size = 0

    def cut(self, chunks: Sequence[bytes]) -> list[Piece]:
        """The next pieces of the blob, some of which are still being changed. Blocking: for a thread."""
        pieces: list[Piece] = []
        if not self._begun:
            self._begun = True
            self._next_range(pieces)
        for chunk in chunks:
            rest = chunk
            while rest:
                if self._ended:
                    raise TransferError("more bytes came than the recipe has ranges for")
                taken, rest = (rest, b"") if len(rest) <= self._left else (rest[: self._left], rest[self._left :])
                self._left -= len(taken)
                if self._check:
                    self._check.add(self._where, taken)
                if self._keeps:
                    self._beside += taken
                elif self._change is None:
                    pieces.append(taken)
                else:
                    self._held += taken
                    pieces.extend(self._slices(self._change))
                if self._left == 0:
                    self._next_range(pieces)
        return pieces

    def join(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The bytes of the oldest pieces that were cut. Raises what a change raised. Blocking: for a thread."""
        ready = []
        for piece in pieces:
            content = piece if isinstance(piece, bytes) else self._changing.popleft().result()
            self._hash.update(content)
            self._size += len(content)
            ready.append(content)
        return ready

    def close(self) -> None:
        """Give up what is still being changed, where the blob is given up."""
        for piece in list(self._changing):
            piece.cancel()

    def digest(self) -> str:
        """The whole blob's. Raises TransferError when it is not whole."""
        if not self._ended or self._size != self._expected:
            raise TransferError(f"{self._size} bytes were made instead of {self._expected}")
        return f"sha256:{self._hash.hexdigest()}"

    def _slices(self, change: Callable[[bytes], bytes]) -> Iterator[Piece]:
        """What is held, in slices of whole blocks; the end of a range may be a shorter one."""
        size = max(SLICE // self._block, 1) * self._block
        at = shared = 0
        while len(self._held) - at >= size or (self._left == 0 and at < len(self._held)):
            blocks = self._held[at : at + size]
            share = len(blocks) // self._block * self._share
            piece = self._pool.submit(change, b"".join((self._beside[shared : shared + share], blocks)))
            self._changing.append(piece)
            yield piece
            at, shared = at + size, shared + share
        del self._held[:at], self._beside[:shared]

    def _next_range(self, pieces: list[Piece]) -> None:
        for part in self._parts:
            if isinstance(part, Literal):
                pieces.append(part.content)
            elif part.stop > part.start:
                self._left = part.stop - part.start
                self._check = self._next_check(part)
                self._block, self._change = (
                    (part.transform.block, part.transform.change) if part.transform else (1, None)
                )
                self._keeps = part.beside
                self._share = len(self._beside) // (self._left // self._block) if self._beside else 0
                return
        self._ended = True

    def _next_check(self, part: Range) -> "_Check | None":
        if self._check and self._check.file is part.file and self._check.reached == part.start:
            return self._check
        expected = part.file.sha256 if self._checks_files and part.start == 0 else None
        return _Check(part.file, expected) if expected is not None else None


async def assembled(assembly: Assembly, window: Window, ahead: int) -> AsyncGenerator[list[bytes], None]:
    """The blob in the batches of the window, up to `ahead` of which are in work at once.

    One thread cuts and checks, another joins and hashes; both go on while Ollama takes its time. Raises what ends the
    window, and what a change raises.
    """
    cutter, joiner = (ThreadPoolExecutor(1, name, give_way) for name in ("cut", "join"))
    batches: asyncio.Queue[_Batch | Exception | None] = asyncio.Queue(ahead)
    feeding = asyncio.create_task(_feed(window, assembly, cutter, joiner, batches))
    try:
        while (batch := await batches.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            joined = await batch.joined
            if batch.is_held:
                window.used()
            yield joined
    finally:
        feeding.cancel()
        assembly.close()
        for thread in (cutter, joiner):
            thread.shutdown(wait=False, cancel_futures=True)


class _Batch(NamedTuple):
    """Bytes of a blob on their way. `is_held` says that they still count as the window's."""

    joined: asyncio.Future[list[bytes]]
    is_held: bool


async def _feed(
    window: Window,
    assembly: Assembly,
    cutter: ThreadPoolExecutor,
    joiner: ThreadPoolExecutor,
    batches: "asyncio.Queue[_Batch | Exception | None]",
) -> None:
    """Put all that comes into `batches`, then None; or the exception that ends it."""
    loop = asyncio.get_running_loop()

    def begin(chunks: Sequence[bytes]) -> asyncio.Future[list[bytes]]:
        cut = cutter.submit(assembly.cut, chunks)
        joined = loop.run_in_executor(joiner, lambda: assembly.join(cut.result()))
        # Nobody takes the batches behind one that failed, and asyncio would log what they say.
        joined.add_done_callback(lambda done: done.cancelled() or done.exception())
        return joined

    try:
        await batches.put(_Batch(begin(()), is_held=False))
        while chunks := await window.next():
            await batches.put(_Batch(begin(chunks), is_held=True))
    except Exception as error:  # noqa: BLE001 - it is raised where the batches are taken
        await batches.put(error)
    else:
        await batches.put(None)


class _Check:
    """Hashes a file that a recipe takes whole and in order, if in pieces, and compares."""

    def __init__(self, file: RepositoryFile, expected: str) -> None:
        self.file = file
        self._expected = expected
        self._hash = hashlib.sha256()
        self.reached = 0

    def add(self, where: str, piece: bytes) -> None:
        """Raises Damaged at the file's last byte."""
        self._hash.update(piece)
        self.reached += len(piece)
        if self.reached == self.file.size:
            check_digest(f"{where}/{self.file.path}", self._expected, self._hash.hexdigest())


def check_digest(what: str, expected: str, computed: str) -> None:
    """Raises Damaged where they differ."""
    if expected != computed:
        raise Damaged(
            f"{what} arrived damaged: its digest is {computed}, not {expected} as announced; pull again: "
            "finished files are kept"
        )
