"""Bytes from a source into Ollama's blobs: hashed on the way, never staged, never ended cleanly when wrong."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

from proxy.errors import OllamaError, TransferError
from proxy.ollama import Ollama, Write
from proxy.pull.plan import Plan, Upload
from proxy.pull.progress import Progress
from proxy.sources.base import Repository, RepositoryFile

T = TypeVar("T")

READERS = 8
STREAM_BYTES = 6 * 1024 * 1024
"""What one running file holds: aiohttp's read and write buffers, a chunk held back and one being hashed."""


class Transfer:
    """Moves files of all pulls: at most `connections` at once, fewer where `memory` (bytes) is small."""

    def __init__(self, ollama: Ollama, connections: int, memory: int) -> None:
        self._ollama = ollama
        self._streams = asyncio.Semaphore(max(1, min(connections, memory // STREAM_BYTES)))
        # Apart from the streams, so that a plan never waits for somebody else's shards.
        self._readers = asyncio.Semaphore(READERS)
        self._hashers = ThreadPoolExecutor(2, thread_name_prefix="hash")

    def close(self) -> None:
        self._hashers.shutdown(wait=False)

    async def read(self, repository: Repository, files: Sequence[RepositoryFile]) -> dict[str, bytes]:
        """Small files whole, by path, each checked against the digest that the source announced."""
        contents = await _together(self._read(repository, file) for file in files)
        return {file.path: content for file, content in zip(files, contents, strict=True)}

    async def _read(self, repository: Repository, file: RepositoryFile) -> bytes:
        received = bytearray()
        async with self._readers, repository.stream(file) as chunks:
            async for chunk in chunks:
                received += chunk
                _check_length(repository, file, len(received), at_end=False)
        _check_length(repository, file, len(received), at_end=True)
        content = bytes(received)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._hashers, _check_content, repository, file, content)
        return content

    async def run(self, plan: Plan, progress: Progress) -> None:
        """Bring every blob of the plan into Ollama; those that it holds are left alone.

        Raises SourceError, TransferError or OllamaError, the first that happens; finished blobs stay.
        """
        held = await self.held(plan)
        blobs = {upload.digest: upload for upload in plan.uploads}
        progress.announce(
            (upload.digest, upload.size, upload.digest in held) for upload in blobs.values() if upload.is_weights
        )
        missing = [upload for digest, upload in blobs.items() if digest not in held]
        await _together(self._push(plan.repository, upload, progress) for upload in missing)

    async def held(self, plan: Plan) -> set[str]:
        """The digests of the plan's blobs that Ollama already has."""
        digests = sorted({upload.digest for upload in plan.uploads})
        answers = await _together(self._ollama.has_blob(digest) for digest in digests)
        return {digest for digest, has in zip(digests, answers, strict=True) if has}

    async def _push(self, repository: Repository, upload: Upload, progress: Progress) -> None:
        async def produce(write: Write) -> None:
            if upload.content is not None:
                await write(upload.content)
                progress.moved(upload.digest, upload.size)
            else:
                await self._forward(repository, upload, write, progress)

        try:
            # Only what comes from the source takes one of the connections to it.
            async with nullcontext() if upload.content is not None else self._streams:
                await self._ollama.push_blob(upload.digest, upload.size, produce)
        except OllamaError as error:
            raise OllamaError(f"{repository.id}/{upload.path}: {error}") from error

    async def _forward(self, repository: Repository, upload: Upload, write: Write, progress: Progress) -> None:
        """Stream one file through the hash. The last chunk waits for the digest: Ollama keeps what ends well."""
        loop = asyncio.get_running_loop()
        digest = hashlib.sha256()
        received, held_back = 0, b""
        async with repository.stream(upload.file) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                _check_length(repository, upload.file, received, at_end=False)
                hashing = loop.run_in_executor(self._hashers, digest.update, chunk)
                await write(held_back)
                progress.moved(upload.digest, len(held_back))
                await hashing
                held_back = chunk
        _check_length(repository, upload.file, received, at_end=True)
        _check_digest(repository, upload.file, upload.digest, f"sha256:{digest.hexdigest()}")
        await write(held_back)
        progress.moved(upload.digest, len(held_back))


async def _together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. The first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _check_content(repository: Repository, file: RepositoryFile, content: bytes) -> None:
    if file.sha256 is not None:
        _check_digest(repository, file, file.sha256, hashlib.sha256(content).hexdigest())
    elif file.git_sha1 is not None:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        _check_digest(repository, file, file.git_sha1, git.hexdigest())


def _check_length(repository: Repository, file: RepositoryFile, received: int, *, at_end: bool) -> None:
    if received > file.size or (at_end and received < file.size):
        raise TransferError(
            f"{repository.id}/{file.path}: {'more than ' if received > file.size else f'only {received} of '}"
            f"{file.size} bytes came; pull again: finished files are kept"
        )


def _check_digest(repository: Repository, file: RepositoryFile, expected: str, computed: str) -> None:
    if expected != computed:
        raise TransferError(
            f"{repository.id}/{file.path} arrived damaged: its digest is {computed}, not {expected} as the Hub "
            "announced; pull again: finished files are kept"
        )
