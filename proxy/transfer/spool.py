"""A blob on disk, for an Ollama that takes none whose digest is not known."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from io import RawIOBase

from proxy.errors import TransferError

PIECE_BYTES = 1024 * 1024


@contextmanager
def spooled(what: str, size: int, executor: Executor) -> Iterator["Spool"]:
    """Room for `size` bytes in the system's temporary folder (TMPDIR), gone with the block.

    Raises TransferError where there is none.
    """
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < size:
        raise TransferError(
            f"{what} needs {size} bytes in {folder} before its digest is known, and {free} are free there; make room, "
            "or set TMPDIR for the proxy to a larger folder"
        )
    # Without a buffer, so that a disk that fills is noticed by the write and not again when the file is closed.
    with tempfile.TemporaryFile(prefix="ollama-hf-proxy-", buffering=0) as file:
        yield Spool(what, file, executor)


class Spool:
    def __init__(self, what: str, file: RawIOBase, executor: Executor) -> None:
        self._what = what
        self._file = file
        self._executor = executor

    async def write(self, piece: bytes) -> None:
        """Raises TransferError when the disk is full."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._write, piece)

    def _write(self, piece: bytes) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise TransferError(
                f"{self._what} cannot be kept in {tempfile.gettempdir()} before its digest is known "
                f"({error.strerror}); make room there, or set TMPDIR for the proxy to another folder"
            ) from error

    async def read(self) -> AsyncIterator[bytes]:
        """All of it, from its beginning."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._file.seek, 0)
        while piece := await loop.run_in_executor(self._executor, self._file.read, PIECE_BYTES):
            yield piece
