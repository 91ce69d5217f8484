"""Reads what a plan needs from one repository: small files whole, and the headers of weight files."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from proxy.errors import Refusal
from proxy.gguf.header import GgufHeader, Incomplete
from proxy.gguf.header import read_header as read_gguf_header
from proxy.gguf.tensors import GgufError
from proxy.planning.conversion_plan import FilePart
from proxy.planning.file_kinds import check_kind
from proxy.planning.json_files import UPLOAD_AGAIN
from proxy.planning.safetensors import LENGTH_BYTES, SafetensorsHeader, header_size, read_header
from proxy.planning.spans import neighbours
from proxy.sources.base import Repository, RepositoryFile
from proxy.tasks import gather_or_cancel
from proxy.transfer.progress import Progress
from proxy.transfer.transfer import Transfer

T = TypeVar("T")

log = logging.getLogger(__name__)

READABLE_BYTES = 64 * 1024 * 1024
"""Bytes of small files that one pull may hold in memory."""
GGUF_BYTES = 256 * 1024
"""Bytes of a GGUF that are read first. In most models the vocabulary is longer, and more bytes follow."""

MOST_PARTS = 1024
"""Requests for parts of weight files that one plan may need."""


class Reading:
    """Keeps the contents and the headers, so that nothing is read twice."""

    def __init__(self, transfer: Transfer, repository: Repository, progress: Progress) -> None:
        self.repository = repository
        self._transfer = transfer
        self.progress = progress
        self.contents: dict[str, bytes] = {}
        self._headers: dict[str, SafetensorsHeader] = {}
        # Several parsing threads at once would delay the server: each takes the interpreter lock in turn.
        self._parsing = asyncio.Lock()

    async def read(self, files: Iterable[RepositoryFile]) -> None:
        """Put small files into `contents`. Raises Refusal if they are too large, or are Git LFS pointers or HTML."""
        missing = [file for file in files if file.path not in self.contents]
        kept = sum(len(content) for content in self.contents.values())
        check_readable(self.repository.id, missing, READABLE_BYTES - kept)
        contents = await self._transfer.read(self.repository, missing, self.progress)
        for path, content in contents.items():
            if content:
                check_kind(f"{self.repository.id}/{path}", content)
        self.contents |= contents

    async def headers(self, files: Iterable[RepositoryFile]) -> dict[str, SafetensorsHeader]:
        """The headers of safetensors files, by path."""
        files = list(files)
        missing = [file for file in files if file.path not in self._headers]
        headers = await gather_or_cancel(self._retry_once(self._header, file) for file in missing)
        self._headers |= {file.path: header for file, header in zip(missing, headers, strict=True)}
        return {file.path: self._headers[file.path] for file in files}

    async def _retry_once(self, read: Callable[[RepositoryFile], Awaitable[T]], file: RepositoryFile) -> T:
        try:
            return await read(file)
        except Refusal as refusal:
            # There is no digest of a header alone, so it may be broken in the repository or damaged on its way.
            log.warning("%s; the proxy reads it once more", refusal)
            self.progress.retried()
            return await read(file)

    async def _header(self, file: RepositoryFile) -> SafetensorsHeader:
        where = f"{self.repository.id}/{file.path}"
        first = await self._part(file, 0, min(LENGTH_BYTES, file.size))
        size = header_size(where, first, file.size)
        content = first + await self._part(file, len(first), size)
        async with self._parsing:
            return await asyncio.to_thread(read_header, where, content, file.size)

    async def parts(self, files: Iterable[RepositoryFile], parts: Iterable[FilePart]) -> dict[tuple[str, int], bytes]:
        """Small parts of the files, by path and first offset; neighbours are one request. Raises Refusal for many."""
        by_path = {file.path: file for file in files}
        runs = list(neighbours(parts))
        if len(runs) > MOST_PARTS:
            raise Refusal(
                f"{self.repository.id}: a plan would have to read {len(runs)} parts of its weight files, and may read "
                f"at most {MOST_PARTS}; pull the repository that these weights were made from"
            )
        contents = await gather_or_cancel(self._part(by_path[run[0].path], run[0].start, run[-1].stop) for run in runs)
        return {
            (part.path, part.start): content[part.start - run[0].start : part.stop - run[0].start]
            for run, content in zip(runs, contents, strict=True)
            for part in run
        }

    async def gguf_headers(self, files: Iterable[RepositoryFile]) -> list[GgufHeader]:
        return await gather_or_cancel(self._retry_once(self._gguf_header, file) for file in files)

    async def _gguf_header(self, file: RepositoryFile) -> GgufHeader:
        where = f"{self.repository.id}/{file.path}"
        content, size = b"", GGUF_BYTES
        while True:
            content += await self._part(file, len(content), min(size, file.size))
            check_kind(where, content)
            try:
                async with self._parsing:
                    return await asyncio.to_thread(read_gguf_header, content, size=file.size)
            except Incomplete as error:
                size = error.at_least
            except GgufError as error:
                raise Refusal(
                    f"{where} is not a GGUF that can be used: {error}; pull another file, or {UPLOAD_AGAIN}"
                ) from error

    async def _part(self, file: RepositoryFile, start: int, stop: int) -> bytes:
        if (content := self.contents.get(file.path)) is not None:
            return content[start:stop]
        if start == stop:
            return b""
        return await self._transfer.read_part(self.repository, file, start, stop, self.progress)


def check_readable(repository: str, files: list[RepositoryFile], most: int = READABLE_BYTES) -> None:
    """Raises Refusal if files that have to be read whole are too large."""
    if sum(file.size for file in files) > most:
        largest = max(files, key=lambda file: file.size)
        raise Refusal(
            f"{repository}/{largest.path} has {largest.size} bytes and would have to be read into memory, but a pull "
            f"may read at most {READABLE_BYTES} bytes; look for a GGUF of the same model"
        )
