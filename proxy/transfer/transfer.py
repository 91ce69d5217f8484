"""Moves the files of all pulls from their sources into Ollama."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from proxy.errors import Damaged, Interrupted, RangesIgnored, SourceError, TransferError
from proxy.planning.identity import upload_identity
from proxy.planning.plan import Plan, Upload, merged_bars
from proxy.sources.base import Repository, RepositoryFile, Source
from proxy.store.journal import Journal
from proxy.tasks import gather_or_cancel
from proxy.transfer.assembly import check_digest
from proxy.transfer.checkpoints import Checkpoints
from proxy.transfer.fetch_limits import FetchLimits
from proxy.transfer.passed_bytes import PassedBytes
from proxy.transfer.progress import BlobProgress, Progress
from proxy.transfer.retry import OpeningRetries, Retries
from proxy.transfer.sharing import OnDigest, SingleFlightUpload, Subscriber, UploadListener
from proxy.transfer.threads import worker_count, worker_pool
from proxy.transfer.upload import BlobUpload, UploadServices, with_origin
from proxy.transfer.wait_for_ollama import WaitForOllama
from proxy.transfer.window import Fetching

log = logging.getLogger(__name__)

READERS = 8
HASHERS = max(2, min(8, os.cpu_count() or 1))
BATCHES_AHEAD = 2
"""Batches that are in work before the oldest one is sent, and one more for each `BATCH_THREADS` threads."""
BATCH_THREADS = 4


class Transfer:
    """The files of all pulls. `sent` gets the number of bytes that went to Ollama; `threads` as in `pull.threads`.

    It has more than five arguments because each one is a service or a setting that `Backend` has once.
    """

    def __init__(  # noqa: PLR0913
        self,
        wait_for_ollama: WaitForOllama,
        limits: FetchLimits,
        journal: Journal,
        sent: Callable[[int], object] = lambda _: None,
        threads: int = 0,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.wait_for_ollama = wait_for_ollama
        self._limits = limits
        self._journal = journal
        self._running: dict[str, SingleFlightUpload] = {}
        # Apart from the streams, so that a plan never waits for the weights of another pull.
        self._readers = asyncio.Semaphore(READERS)
        self._hashers = ThreadPoolExecutor(HASHERS, thread_name_prefix="hash")
        self._workers = worker_pool(threads)
        ahead = BATCHES_AHEAD + worker_count(threads) // BATCH_THREADS
        self._services = UploadServices(
            wait_for_ollama, journal, checkpoints or Checkpoints(None, 0), sent, self._hashers, self._workers, ahead
        )

    def close(self) -> None:
        self._hashers.shutdown(wait=False)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def open(self, source: Source, repository: str, revision: str | None, progress: Progress) -> Repository:
        """As `Source.open`, but it waits for a source that throttles, fails or is silent."""
        retries = OpeningRetries(progress, self._limits)
        while True:
            try:
                return await source.open(repository, revision)
            except Interrupted as error:
                progress.begin()
                await retries.pause(error)

    async def read(
        self, repository: Repository, files: Sequence[RepositoryFile], progress: Progress
    ) -> dict[str, bytes]:
        """Small files whole, by path, each checked against the digest that the source announced."""
        contents = await gather_or_cancel(self._read(repository, file, progress) for file in files)
        return {file.path: content for file, content in zip(files, contents, strict=True)}

    async def _read(self, repository: Repository, file: RepositoryFile, progress: Progress) -> bytes:
        retries = Retries(progress, self._limits)
        while True:
            try:
                content = await self.read_part(repository, file, 0, file.size, progress)
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._hashers, _check_content, repository, file, content)
            except Damaged as error:
                retries.refetch_once(with_origin(error, repository, [file]))
            else:
                return content

    async def read_part(
        self, repository: Repository, file: RepositoryFile, start: int, stop: int, progress: Progress
    ) -> bytes:
        """The bytes from offset `start` up to `stop`, not checked: digests are for whole files."""
        retries = Retries(progress, self._limits)
        whole = start == 0 and stop == file.size
        while True:
            try:
                async with self._readers:
                    return await self._read_once(repository, file, start, stop, ranged=not whole)
            except RangesIgnored:
                whole = True
            except Interrupted as error:
                await retries.pause(error)

    async def _read_once(
        self, repository: Repository, file: RepositoryFile, start: int, stop: int, *, ranged: bool
    ) -> bytes:
        """Without ranges, the file is read from its beginning up to the end of the part."""
        begin, end = (start, stop) if ranged else (0, file.size)
        received = bytearray()
        async with repository.stream(file, start, stop) if ranged else repository.stream(file) as chunks:
            async for chunk in chunks:
                if wait := self._limits.bandwidth.take(len(chunk)):
                    await asyncio.sleep(wait)
                received += chunk
                if begin + len(received) > end:
                    raise Interrupted(f"{repository.id}/{file.path}: more than {end - begin} bytes arrived")
                if begin + len(received) >= stop and stop < end:
                    break
        part = bytes(memoryview(received)[start - begin : stop - begin])
        if len(part) < stop - start:
            raise Interrupted(f"{repository.id}/{file.path}: only {len(part)} of {stop - start} bytes arrived")
        return part

    async def announce(self, plans: Sequence[Plan], progress: Progress) -> set[str]:
        """Show the bars of everything that one pull makes, before a byte moves: later, no bar can be added.

        Returns the digests of the blobs that Ollama already has.
        """
        held = await self.wait_for_ollama.run(lambda: self.held(*plans), plans[-1].name, progress)
        for plan in plans:
            there = dict(merged_bars(upload for upload in plan.uploads if upload.digest in held))
            progress.announce((*bar, there.get(bar.digest, 0)) for bar in plan.bars)
        return held

    async def run(
        self, plan: Plan, held: Collection[str], progress: Progress, on_digest: OnDigest = lambda _: None
    ) -> dict[str, str]:
        """Upload every blob of the plan that is not in `held`; the digest of each path.

        `on_digest` gets the digests that the plan does not know. Raises the first SourceError, TransferError or
        OllamaError; finished blobs stay in Ollama.
        """
        missing = {upload.digest or upload.path: upload for upload in plan.uploads if upload.digest not in held}
        fetching = Fetching(plan.repository, self._limits, progress)
        fetching.passed = await self._passed_bytes(list(missing.values()))

        def subscriber(upload: Upload) -> Subscriber:
            blob = BlobProgress(progress, upload.bar_ranges)
            return Subscriber(blob.moved, blob.sent, progress, on_digest)

        async def share(order: int, upload: Upload) -> str:
            passed = fetching.passed
            if upload.is_read_past and passed is not None:
                await passed.ended.wait()
            try:
                return await self._share(fetching, upload, order, subscriber(upload))
            finally:
                if passed is not None:
                    passed.ended.set()

        try:
            uploading = (share(order, upload) for order, upload in enumerate(missing.values()))
            digests = dict(zip(missing, await gather_or_cancel(uploading), strict=True))
        finally:
            if fetching.passed is not None:
                fetching.passed.close()
        return {upload.path: upload.digest or digests[upload.path] for upload in plan.uploads}

    async def _passed_bytes(self, missing: Sequence[Upload]) -> PassedBytes | None:
        """Where the first of the blobs keeps what it reads past for another one; None if none needs that, or without
        room on the disk.
        """
        wanted = [upload for upload in missing[1:] if upload.is_read_past]
        folder = self._services.checkpoints.folder
        if not wanted or folder is None:
            return None
        try:
            return await asyncio.to_thread(PassedBytes, wanted[0].recipe, folder)
        except OSError as error:
            log.warning("%s is fetched apart: %s", wanted[0].path, error)
            return None

    async def held(self, *plans: Plan) -> set[str]:
        """The digests of the plans' blobs that Ollama already has."""
        digests = sorted({upload.digest for plan in plans for upload in plan.uploads if upload.digest})
        answers = await gather_or_cancel(self.wait_for_ollama.ollama.has_blob(digest) for digest in digests)
        return {digest for digest, has in zip(digests, answers, strict=True) if has}

    async def _share(self, fetching: Fetching, upload: Upload, order: int, subscriber: Subscriber) -> str:
        """Upload a blob once for all pulls that need it; its digest."""
        identity = upload_identity(fetching.repository, upload)
        if (shared := self._running.get(identity)) is not None:
            try:
                return await shared.subscribe(subscriber)
            except (SourceError, TransferError) as error:
                # This pull may have a token or a source that the other one has not.
                log.warning("%s; %s takes over the upload", error, fetching.repository.id)
        if (shared := self._running.get(identity)) is not None:
            return await shared.subscribe(subscriber)
        shared = SingleFlightUpload(self._running, identity, partial(self._journal.remember_digest, identity))
        shared.begin(self.push(fetching.reporting_to(shared), upload, order, shared))
        return await shared.subscribe(subscriber)

    async def push(self, fetching: Fetching, upload: Upload, order: int, listener: UploadListener) -> str:
        """Make one blob in Ollama; its digest."""
        return await BlobUpload(self._services, fetching, upload, order, listener).run()


def _check_content(repository: Repository, file: RepositoryFile, content: bytes) -> None:
    what = f"{repository.id}/{file.path}"
    if file.sha256 is not None:
        check_digest(what, file.sha256, hashlib.sha256(content).hexdigest())
    elif file.git_sha1 is not None:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        check_digest(what, file.git_sha1, git.hexdigest())
