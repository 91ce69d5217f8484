"""Keeps on disk what was made of a blob, so that a restart of the proxy or of Ollama does not fetch it again.

A blob has two files in the folder: `IDENTITY.blob` with its first bytes, and `IDENTITY.jsonl` with one checkpoint a
line. The identity is that of the recipe (planning/identity.py), so no other plan uses the files. A checkpoint is only
used if the bytes before it have its digest: what a crash, a full disk or a person has damaged is made again.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import msgspec
from rich.filesize import decimal

from proxy.errors import Damaged, ProxyError
from proxy.planning.recipe import Position
from proxy.transfer.sha256 import restored_sha256

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MIN_BYTES = 64 * 1024 * 1024
"""Smaller blobs are not kept: to fetch them again takes seconds."""
PIECE_BYTES = 1024 * 1024
BATCH_BYTES = 4 * 1024 * 1024
"""What is written at once. One batch may wait for the disk while the next one is collected."""
MAX_WAIT, MIN_WAIT_SECONDS = 0.03, 0.5
"""The part of the time of an upload that it may wait for the disk, and what it may wait in any case."""
DATA, RECORD = ".blob", ".jsonl"


class FileState(msgspec.Struct, frozen=True):
    """The check of a repository file that goes on after a checkpoint: the bytes so far, and their hash."""

    path: str
    reached: int
    hash: str
    """As transfer/sha256.py saves it."""


class Checkpoint(msgspec.Struct, frozen=True):
    """The first `size` bytes of a blob are made; `digest` is their SHA-256 in hex. The recipe goes on at `position`."""

    size: int
    digest: str
    position: Position
    file: FileState | None = None


class Kept(NamedTuple):
    """What can be used: the last good checkpoint, and the running hash of the bytes before it."""

    checkpoint: Checkpoint
    hash: "hashlib._Hash"


class NotKept(ProxyError):
    """A blob is made without checkpoints: there is no room for them."""


class Checkpoints:
    """The folder of all kept blobs. `keep` is how long a blob stays there, in seconds, after its last bytes came."""

    def __init__(self, folder: Path | None, keep: float) -> None:
        """Without a folder nothing is kept."""
        self.folder = folder
        self._keep = keep
        self._open: set[str] = set()

    def open(self, identity: str, what: str, size: int) -> "CheckpointFile | None":
        """The files of one blob of `size` bytes; None for a small blob. Raises NotKept. Blocking."""
        name = identity.removeprefix("sha256:")
        if self.folder is None or size < MIN_BYTES or name in self._open:
            return None
        data = self.folder / f"{name}{DATA}"
        try:
            # A gated or private model is not for every user of this machine.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            missing = size - (data.stat().st_size if data.exists() else 0)
            free = shutil.disk_usage(self.folder).free
            # Ollama's store is often on the same disk, and grows by as many bytes.
            if free < 2 * missing:
                raise NotKept(f"{what} starts again after an interruption: {self.folder} has only {decimal(free)} free")
            opened = CheckpointFile(data, what, size, lambda: self._open.discard(name))
        except OSError as error:
            raise NotKept(
                f"{what} starts again after an interruption: {self.folder} cannot be used ({error.strerror}); set "
                "pull.spool to a writable folder"
            ) from error
        self._open.add(name)
        return opened

    def size(self) -> int:
        """Bytes of all kept blobs. Blocking."""
        return sum(_size(path) for path in self._files())

    def remove_old(self, dry_run: bool) -> int:
        """Remove the blobs that no upload has open and that did not grow for `keep` seconds; their bytes. Blocking."""
        oldest = time.time() - self._keep
        removed = 0
        for path in self._files():
            if path.stem not in self._open and _modified(path) < oldest:
                removed += _size(path)
                if not dry_run:
                    path.unlink(missing_ok=True)
        return removed

    def _files(self) -> Iterator[Path]:
        if self.folder is not None and self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if path.suffix in (DATA, RECORD))


class CheckpointFile:
    """The kept bytes of one blob of `size` bytes. All methods block. One thread does all work on the two files."""

    def __init__(self, data: Path, what: str, size: int, closed: Callable[[], object]) -> None:
        self._what = what
        self._size = size
        self._closed = closed
        self._data_path, self._record_path = data, data.with_suffix(RECORD)
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writer: CheckpointWriter | None = None
        # Unbuffered: what is written survives the process.
        self._data: RawIOBase = data.open("a+b", buffering=0)
        self._record: RawIOBase = self._record_path.open("a+b", buffering=0)

    def begin(self, kept: Kept | None) -> "CheckpointWriter":
        """Write after `kept`. A writer of an earlier try writes nothing any more."""
        return self._in_thread(self._begin, kept)

    def _begin(self, kept: Kept | None) -> "CheckpointWriter":
        if kept is None:
            self._truncate(0, 0)
        self._writer = CheckpointWriter(self, self._size - (kept.checkpoint.size if kept else 0))
        return self._writer

    def last_good(self) -> Kept | None:
        """The last checkpoint whose bytes are whole. What comes after it is removed."""
        return self._in_thread(self._last_good)

    def _last_good(self) -> Kept | None:
        self._writer = None
        try:
            kept, record_size = self._verify()
        except OSError as error:
            log.warning("%s: what was kept cannot be read (%s)", self._what, error)
            kept, record_size = None, 0
        self._truncate(kept.checkpoint.size if kept else 0, record_size)
        return kept

    def _verify(self) -> tuple[Kept | None, int]:
        self._record.seek(0)
        kept, record_size, running = None, 0, hashlib.sha256()
        with self._data_path.open("rb") as data:
            for line in self._record.readlines():
                try:
                    checkpoint = msgspec.json.decode(line, type=Checkpoint)
                    if checkpoint.file:
                        restored_sha256(checkpoint.file.hash)
                except (msgspec.MsgspecError, ValueError):
                    break
                missing = checkpoint.size - data.tell()
                while missing > 0 and (piece := data.read(min(missing, PIECE_BYTES))):
                    running.update(piece)
                    missing -= len(piece)
                if missing or running.hexdigest() != checkpoint.digest:
                    log.warning("%s: what was kept is damaged before byte %d", self._what, checkpoint.size)
                    break
                kept, record_size = Kept(checkpoint, running.copy()), record_size + len(line)
        return kept, record_size

    def read(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes. Raises Damaged if they are not there any more."""
        try:
            with self._data_path.open("rb") as data:
                while size > 0 and (piece := data.read(min(size, PIECE_BYTES))):
                    size -= len(piece)
                    yield piece
        except OSError as error:
            raise Damaged(f"{self._what}: {self._data_path} cannot be read ({error.strerror}); pull again") from error
        if size > 0:
            raise Damaged(f"{self._what}: {self._data_path} was cut off by another program; pull again")

    def discard(self) -> None:
        """Forget all bytes: they may be wrong."""
        self._in_thread(self._begin, None)

    def close(self) -> None:
        """Keep the files for the next upload."""
        self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        self._writer = None
        self._data.close()
        self._record.close()
        self._closed()

    def remove(self) -> None:
        """The names are gone at once. The disk frees gigabytes in seconds, and nobody waits for that."""
        try:
            self._record_path.unlink(missing_ok=True)
            self._data_path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s stays: %s", self._data_path, error)
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    def submit(self, writer: "CheckpointWriter", batch: list[bytes], line: bytes) -> "Future[None]":
        """Write a batch, and after it a line of the record."""
        return self._thread.submit(self._write, writer, batch, line)

    def give_up(self, writer: "CheckpointWriter") -> None:
        """End the keeping because the disk holds the upload up."""
        if self._writer is writer:
            self._writer = None
            log.warning(
                "%s is not kept any more: the disk of %s is slower than the pull", self._what, self._data_path.parent
            )

    def _write(self, writer: "CheckpointWriter", batch: list[bytes], line: bytes) -> None:
        """Nothing if `writer` is not the newest. After a failure nothing is written any more."""
        if self._writer is not writer:
            return
        try:
            for content in batch:
                write_all(self._data, content)
            write_all(self._record, line)
            if hasattr(os, "posix_fadvise"):
                # Linux begins to write to the disk now, and soon has its memory back for Ollama's files.
                os.posix_fadvise(self._data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            log.warning("%s is not kept any more: %s cannot be written (%s)", self._what, self._data_path, error)
            self._writer = None

    def _in_thread(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return self._thread.submit(call, *arguments, **named).result()

    def _truncate(self, data: int, record: int) -> None:
        # Opened for appending, both are written at their new ends. The record comes first: without it, no byte counts.
        try:
            self._record.truncate(record)
            self._data.truncate(data)
        except OSError as error:
            log.warning("%s: %s cannot be cut (%s)", self._what, self._data_path, error)


class CheckpointWriter:
    """Writes the bytes of one try, `size` of them. An upload that waits too long for the disk goes on without it."""

    def __init__(self, file: CheckpointFile, size: int) -> None:
        self._file = file
        self._size = size
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._written = 0
        self._writing: Future[None] | None = None
        self._began = time.monotonic()
        self._waited = 0.0

    def write(self, content: bytes) -> None:
        self._batch.append(content)
        self._batch_size += len(content)
        if self._batch_size >= BATCH_BYTES:
            self.flush()

    def mark(self, checkpoint: Checkpoint) -> None:
        self.flush(msgspec.json.encode(checkpoint) + b"\n")

    def flush(self, line: bytes = b"") -> None:
        """Write the batch, and after it a line of the record."""
        self._wait()
        self._writing = self._file.submit(self, self._batch, line)
        self._written += self._batch_size
        self._batch, self._batch_size = [], 0

    def _wait(self) -> None:
        """Wait for the batch before; no more than `MAX_WAIT` of the time that the upload takes at its pace so far."""
        if self._writing is None or self._writing.done():
            return
        began = time.monotonic()
        self._writing.result()
        now = time.monotonic()
        self._waited += now - began
        expected = (now - self._began) * self._size / max(self._written, 1)
        if self._waited > max(MAX_WAIT * expected, MIN_WAIT_SECONDS):
            self._file.give_up(self)


def write_all(file: RawIOBase, content: bytes) -> None:
    """An unbuffered file may take less than it gets. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
