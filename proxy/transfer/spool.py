"""A blob on disk, for an Ollama that accepts no blob before its digest is known."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from io import RawIOBase

from proxy.errors import TransferError
from proxy.transfer.checkpoints import write_all

PIECE_BYTES = 1024 * 1024


@contextmanager
def open_spool(what: str, size: int, executor: Executor) -> Iterator["Spool"]:
    """A file for `size` bytes in the system's temporary folder (TMPDIR), deleted at the end of the block.

    Raises TransferError when there is no room for them.
    """
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < size:
        raise TransferError(
            f"{what} needs {size} bytes in {folder} before its digest is known, and {free} are free there; make room, "
            "or set TMPDIR for the proxy to a larger folder"
        )
    # Without a buffer the write itself fails on a full disk; with one, closing the file fails once more.
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
        try:
            write_all(self._file, piece)
        except OSError as error:
            raise TransferError(
                f"{self._what} cannot be kept in {tempfile.gettempdir()} before its digest is known "
                f"({error.strerror}); make room there, or set TMPDIR for the proxy to another folder"
            ) from error

    async def read(self) -> AsyncIterator[bytes]:
        """The whole file, from its beginning."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._file.seek, 0)
        while piece := await loop.run_in_executor(self._executor, self._file.read, PIECE_BYTES):
            yield piece
