"""Makes the bytes of a blob from the bytes of its ranges: cut into slices, transformed by threads, joined in order."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from proxy.errors import Damaged, TransferError
from proxy.gguf.transforms import Transform
from proxy.planning.recipe import START, Beside, Literal, Position, Range, Recipe
from proxy.sources.base import RepositoryFile
from proxy.transfer.checkpoints import Checkpoint, CheckpointWriter, FileState, Kept
from proxy.transfer.sha256 import new_sha256, restored_sha256, saved_state
from proxy.transfer.threads import lower_priority
from proxy.transfer.window import Window

Passing = Callable[[RepositoryFile, int, bytes], None]
"""Gets a file, an offset, and the bytes there."""
SLICE = 256 * 1024
"""Bytes of a range that one thread transforms at a time; one block when blocks are larger."""

CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Bytes of the ranges between two checkpoints; more if a single block is larger."""


class _Mark(NamedTuple):
    """A checkpoint that waits for the outputs before it."""

    position: Position
    file: FileState | None


Output = bytes | Future[bytes] | _Mark
"""The next bytes of a blob, perhaps still in a thread."""


class Assembly:
    """Makes one blob and its digest. `pool` runs the transforms; `repository` names the files in errors.

    One thread may cut while another joins. Files that the blob takes whole are checked against their digests, unless
    the blob is just one of them: then its own digest is enough. `writer` gets all bytes, and checkpoints between them;
    `kept` says where to begin. `passing` gets all bytes of the ranges.

    It has more than five arguments because each comes from another part of an upload.
    """

    def __init__(  # noqa: PLR0913
        self,
        recipe: Recipe,
        pool: Executor,
        repository: str = "",
        writer: CheckpointWriter | None = None,
        kept: Kept | None = None,
        passing: Passing | None = None,
    ) -> None:
        self._passing = passing
        self._parts = recipe.after(kept.checkpoint.position if kept else START)
        self._pool = pool
        self._repository = repository
        self._checks_files = recipe.digest is None or len(recipe.parts) > 1
        self._check: _FileCheck | None = None
        if kept and (state := kept.checkpoint.file):
            self._check = _FileCheck.restored(state, recipe.files)
        self._writer = writer
        self._position = START
        """Of the present range."""
        self._range_size = self._range_stop = 0
        self._file: RepositoryFile | None = None
        self._since_mark = 0
        """Bytes of ranges since the last checkpoint."""
        self._until_mark = 0
        """Bytes of the present range before the next checkpoint."""
        self._missing = 0
        """Bytes of the present range that have not arrived."""
        self._transform: Transform | None = None
        self._held = bytearray()
        """Bytes of the present range that do not fill a slice yet."""
        self._is_beside = False
        self._beside: list[_BesideBytes] = []
        """Of the ranges before, for the transform of the present one."""
        self._transforming: deque[Future[bytes]] = deque()
        self._begun = False
        self._ended = False
        self._expected = recipe.size
        self._hash = kept.hash.copy() if kept else hashlib.sha256()
        self._size = kept.checkpoint.size if kept else 0

    def cut(self, chunks: Sequence[bytes]) -> list[Output]:
        """Take bytes of the ranges; the next outputs. Blocking: for a thread."""
        outputs: list[Output] = []
        if not self._begun:
            self._begun = True
            self._next_range(outputs)
        for chunk in chunks:
            rest = chunk
            while rest:
                if self._ended:
                    raise TransferError("more bytes arrived than the recipe has ranges for")
                limit = min(self._missing, self._until_mark)
                content, rest = rest[:limit], rest[limit:]
                self._add(content, outputs)
                self._mark(outputs)
                if self._missing == 0:
                    self._next_range(outputs)
        return outputs

    def join(self, outputs: Sequence[Output]) -> list[bytes]:
        """The bytes of the oldest outputs of `cut`. Raises what a transform raised. Blocking: for a thread."""
        ready = []
        for output in outputs:
            if isinstance(output, _Mark):
                if self._writer:
                    digest = self._hash.copy().hexdigest()
                    self._writer.mark(Checkpoint(self._size, digest, output.position, output.file))
                continue
            content = output if isinstance(output, bytes) else self._transforming.popleft().result()
            self._hash.update(content)
            self._size += len(content)
            if self._writer:
                self._writer.write(content)
            ready.append(content)
        return ready

    def close(self) -> None:
        """Cancel the transforms that have not begun."""
        for output in list(self._transforming):
            output.cancel()

    def digest(self) -> str:
        """The digest of the whole blob. Raises TransferError when it is not complete."""
        if not self._ended or self._size != self._expected:
            raise TransferError(f"{self._size} bytes were made instead of {self._expected}")
        return f"sha256:{self._hash.hexdigest()}"

    def _add(self, content: bytes, outputs: list[Output]) -> None:
        """Add bytes of the present range."""
        if self._passing and self._file:
            self._passing(self._file, self._range_stop - self._missing, content)
        self._missing -= len(content)
        self._since_mark += len(content)
        self._until_mark -= len(content)
        if self._check:
            self._check.add(self._repository, content)
        if self._is_beside:
            self._beside[-1].content += content
        elif self._transform is None:
            outputs.append(content)
        else:
            self._held += content
            outputs.extend(self._slices(self._transform))

    def _slices(self, transform: Transform) -> Iterator[Output]:
        """The held bytes in slices of whole blocks; the last slice of a range may be shorter."""
        size = _slice_size(transform)
        start = 0
        while len(self._held) - start >= size or (self._missing == 0 and start < len(self._held)):
            blocks = self._held[start : start + size]
            beside = [one.take(len(blocks) // transform.block) for one in self._beside]
            output = self._pool.submit(transform.change, b"".join((*beside, blocks)))
            self._transforming.append(output)
            yield output
            start += size
        del self._held[:start]

    def _mark(self, outputs: list[Output]) -> None:
        """Add a checkpoint at the end of enough bytes, or of the present range after enough bytes."""
        is_due = self._until_mark == 0 or (self._missing == 0 and self._since_mark >= CHECKPOINT_BYTES)
        if self._until_mark == 0:
            self._until_mark = self._mark_distance()
        if not is_due or self._writer is None or self._is_beside:
            return
        state = None
        if self._check and self._check.reached < self._check.file.size:
            state = self._check.state()
            if state is None or any(one.is_left for one in self._beside):
                return
        part, taken = self._position
        position = Position(part + 1)
        if self._missing:
            position = Position(part, taken + self._range_size - self._missing)
        self._since_mark = 0
        outputs.append(_Mark(position, state))

    def _mark_distance(self) -> int:
        """Whole slices: after them, no byte is held for the next slice."""
        slice_size = _slice_size(self._transform) if self._transform else SLICE
        return max(CHECKPOINT_BYTES // slice_size, 1) * slice_size

    def _next_range(self, outputs: list[Output]) -> None:
        if not self._is_beside:
            self._beside.clear()
        for position, part in self._parts:
            self._position = position
            if isinstance(part, Literal):
                outputs.append(part.content)
            elif part.stop > part.start:
                self._missing = self._range_size = part.stop - part.start
                self._file, self._range_stop = part.file, part.stop
                self._check = self._next_check(part)
                self._transform = part.transform
                self._until_mark = self._mark_distance()
                self._is_beside = part.beside is not None
                if part.beside:
                    self._beside.append(_BesideBytes(is_whole=part.beside is Beside.WHOLE))
                elif part.transform:
                    for one in self._beside:
                        one.split(self._missing // part.transform.block)
                return
        self._ended = True

    def _next_check(self, part: Range) -> "_FileCheck | None":
        if self._check and self._check.file is part.file and self._check.reached == part.start:
            return self._check
        expected = part.file.sha256 if self._checks_files and part.start == 0 else None
        return _FileCheck(part.file, expected) if expected is not None else None


class _BesideBytes:
    """The bytes of a range beside the blocks."""

    def __init__(self, *, is_whole: bool) -> None:
        self.content = bytearray()
        self._is_whole = is_whole
        self._per_block = self._start = 0

    @property
    def is_left(self) -> bool:
        """Whether later blocks need some of them."""
        return self._start < len(self.content)

    def split(self, blocks: int) -> None:
        """All are there, for so many blocks."""
        self._per_block = 0 if self._is_whole else len(self.content) // blocks

    def take(self, blocks: int) -> bytearray:
        """Those for the next blocks."""
        if self._is_whole:
            return self.content
        start, self._start = self._start, self._start + blocks * self._per_block
        return self.content[start : self._start]


def _slice_size(transform: Transform) -> int:
    return max(SLICE // transform.block, 1) * transform.block


async def assembled(assembly: Assembly, window: Window, ahead: int) -> AsyncGenerator[list[bytes], None]:
    """The blob in the batches of the window. Up to `ahead` of them are in work at once.

    One thread cuts and checks, another joins and hashes; both continue while Ollama takes its time. Raises what ends
    the window, and what a transform raises.
    """
    cutter, joiner = (ThreadPoolExecutor(1, name, lower_priority) for name in ("cut", "join"))
    batches: asyncio.Queue[_Batch | Exception | None] = asyncio.Queue(ahead)
    feeding = asyncio.create_task(_feed(window, assembly, cutter, joiner, batches))
    try:
        while (batch := await batches.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            joined = await batch.joined
            if batch.is_held:
                window.used()
            # Tensors that no blob needs give no bytes. They must not follow the last batch.
            if any(joined):
                yield joined
    finally:
        feeding.cancel()
        assembly.close()
        for thread in (cutter, joiner):
            thread.shutdown(wait=False, cancel_futures=True)


class _Batch(NamedTuple):
    """Bytes of a blob in work. `is_held`: they still count as memory of the window."""

    joined: asyncio.Future[list[bytes]]
    is_held: bool


async def _feed(
    window: Window,
    assembly: Assembly,
    cutter: ThreadPoolExecutor,
    joiner: ThreadPoolExecutor,
    batches: "asyncio.Queue[_Batch | Exception | None]",
) -> None:
    """Put everything that arrives into `batches`, then None, or the exception that ends it."""
    loop = asyncio.get_running_loop()

    def begin(chunks: Sequence[bytes]) -> asyncio.Future[list[bytes]]:
        cut = cutter.submit(assembly.cut, chunks)
        joined = loop.run_in_executor(joiner, lambda: assembly.join(cut.result()))
        # No one awaits the batches after a failed one, and asyncio would log their exceptions.
        joined.add_done_callback(lambda done: done.cancelled() or done.exception())
        return joined

    try:
        await batches.put(_Batch(begin(()), is_held=False))
        while chunks := await window.next():
            await batches.put(_Batch(begin(chunks), is_held=True))
    except Exception as error:  # noqa: BLE001 - `assembled` raises it
        await batches.put(error)
    else:
        await batches.put(None)


class _FileCheck:
    """Checks the digest of a file that a recipe takes whole and in order, perhaps in several ranges."""

    def __init__(self, file: RepositoryFile, expected: str) -> None:
        self.file = file
        self.reached = 0
        self._expected = expected
        self._hash = new_sha256()

    def state(self) -> FileState | None:
        """None if the hash cannot be saved."""
        saved = saved_state(self._hash)
        return FileState(self.file.path, self.reached, saved) if saved else None

    @classmethod
    def restored(cls, state: FileState, files: Iterable[RepositoryFile]) -> "_FileCheck":
        file = next(file for file in files if file.path == state.path)
        check = cls(file, str(file.sha256))
        check.reached, check._hash = state.reached, restored_sha256(state.hash)
        return check

    def add(self, repository: str, content: bytes) -> None:
        """Raises Damaged at the file's last byte."""
        self._hash.update(content)
        self.reached += len(content)
        if self.reached == self.file.size:
            check_digest(f"{repository}/{self.file.path}", self._expected, self._hash.hexdigest())


def check_digest(what: str, expected: str, computed: str) -> None:
    """Raises Damaged when they differ."""
    if expected != computed:
        raise Damaged(
            f"{what} arrived damaged: its digest is {computed}, not {expected} as announced; pull again: "
            "finished files are kept"
        )
