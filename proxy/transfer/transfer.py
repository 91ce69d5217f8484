"""Bytes from a source into Ollama's blobs: hashed on the way, never staged, never ended cleanly when wrong."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from proxy.errors import (
    Damaged,
    DigestMismatch,
    Interrupted,
    OllamaError,
    OllamaGone,
    RangesIgnored,
    SourceError,
    TransferError,
)
from proxy.ollama.client import Ollama
from proxy.planning.identity import upload_identity
from proxy.planning.plan import Plan, Upload
from proxy.planning.recipe import Recipe
from proxy.sources.base import Mirrored, Repository, RepositoryFile
from proxy.store.journal import Journal
from proxy.tasks import together
from proxy.transfer.assembly import check_digest
from proxy.transfer.progress import Progress, ProgressListener, Shown
from proxy.transfer.retry import Retries
from proxy.transfer.sharing import OnDigest, SingleFlightUpload, Subscriber
from proxy.transfer.streams import Bandwidth, Streams
from proxy.transfer.threads import worker_count, workers
from proxy.transfer.upload import BlobUpload
from proxy.transfer.window import Fetching

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 8
HASHERS = max(2, min(8, os.cpu_count() or 1))
BATCHES_AHEAD = 2
"""Batches that are changed and hashed before the oldest is sent, and one more for each `BATCH_THREADS` threads."""
BATCH_THREADS = 4
MOST_UPLOADS = 5
"""How often one blob is begun where Ollama goes away again and again."""


class Transfer:
    """Moves the files of all pulls.

    `patience` is how many seconds an Ollama that is gone is waited for. `sent` gets the number of bytes that went to
    Ollama. `threads` change and quantize, as `pull.threads` says.
    """

    def __init__(
        self,
        ollama: Ollama,
        streams: Streams,
        bandwidth: Bandwidth,
        patience: float,
        journal: Journal,
        sent: Callable[[int], object] = lambda _: None,
        threads: int = 0,
    ) -> None:
        self._ollama = ollama
        self._ahead = BATCHES_AHEAD + worker_count(threads) // BATCH_THREADS
        self._workers = workers(threads)
        self._sent = sent
        self._journal = journal
        self._shared: dict[str, SingleFlightUpload] = {}
        self._streams = streams
        self._bandwidth = bandwidth
        self._patience = patience
        # Apart from the streams, so that a plan never waits for somebody else's shards.
        self._readers = asyncio.Semaphore(READERS)
        self._threads = ThreadPoolExecutor(HASHERS, thread_name_prefix="hash")

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def read(
        self, repository: Repository, files: Sequence[RepositoryFile], progress: Progress
    ) -> dict[str, bytes]:
        """Small files whole, by path, each checked against the digest that the source announced."""
        contents = await together(self._read(repository, file, progress) for file in files)
        return {file.path: content for file, content in zip(files, contents, strict=True)}

    async def _read(self, repository: Repository, file: RepositoryFile, progress: Progress) -> bytes:
        tries = Retries(progress, self._streams)
        while True:
            try:
                content = await self.read_part(repository, file, 0, file.size, progress)
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, _check_content, repository, file, content)
            except Damaged as error:
                tries.refetch_once(_with_origin(error, repository, [file]))
            else:
                return content

    async def read_part(
        self, repository: Repository, file: RepositoryFile, start: int, stop: int, progress: Progress
    ) -> bytes:
        """The bytes from offset `start` up to `stop` of a file, unchecked: a digest is of whole files."""
        tries = Retries(progress, self._streams)
        whole = start == 0 and stop == file.size
        while True:
            try:
                async with self._readers:
                    return await self._read_once(repository, file, start, stop, ranged=not whole)
            except RangesIgnored:
                whole = True
            except Interrupted as error:
                await tries.pause(error)

    async def _read_once(
        self, repository: Repository, file: RepositoryFile, start: int, stop: int, *, ranged: bool
    ) -> bytes:
        """Without ranges the file is read from its beginning, and left where the part ends."""
        begin, end = (start, stop) if ranged else (0, file.size)
        received = bytearray()
        async with repository.stream(file, start, stop) if ranged else repository.stream(file) as chunks:
            async for chunk in chunks:
                if wait := self._bandwidth.take(len(chunk)):
                    await asyncio.sleep(wait)
                received += chunk
                if begin + len(received) > end:
                    raise Interrupted(f"{repository.id}/{file.path}: more than {end - begin} bytes came")
                if begin + len(received) >= stop and stop < end:
                    break
        part = bytes(memoryview(received)[start - begin : stop - begin])
        if len(part) < stop - start:
            raise Interrupted(f"{repository.id}/{file.path}: only {len(part)} of {stop - start} bytes came")
        return part

    async def announce(self, plans: Sequence[Plan], progress: Progress) -> set[str]:
        """Show the bars of all that one pull makes: once bytes move, none can be added without changing a total.

        The digests of the blobs that Ollama already has.
        """
        held = await self.patiently(lambda: self.held(*plans), plans[-1].name, progress)
        progress.announce(
            (bar.digest, bar.size, upload.digest in held)
            for plan in plans
            for upload in plan.weights
            for bar in upload.bars
        )
        return held

    async def run(
        self, plan: Plan, held: Collection[str], progress: Progress, claim: OnDigest = lambda _: None
    ) -> dict[str, str]:
        """Bring every blob of the plan into Ollama but those that it holds. The digest of each path.

        `claim` is told the digests that the plan does not know. Raises SourceError, TransferError or OllamaError, the
        first that happens; finished blobs stay.
        """
        missing = {upload.digest or upload.path: upload for upload in plan.uploads if upload.digest not in held}
        fetching = Fetching(plan.repository, self._streams, self._bandwidth, progress)

        def watcher(upload: Upload) -> Subscriber:
            shown = Shown(progress, upload.stretches)
            return Subscriber(shown.moved, shown.sent, progress, claim)

        works = (self._share(fetching, upload, order, watcher(upload)) for order, upload in enumerate(missing.values()))
        pushed = dict(zip(missing, await together(works), strict=True))
        return {upload.path: upload.digest or pushed[upload.path] for upload in plan.uploads}

    async def held(self, *plans: Plan) -> set[str]:
        """The digests of the plans' blobs that Ollama already has."""
        digests = sorted({upload.digest for plan in plans for upload in plan.uploads if upload.digest})
        answers = await together(self._ollama.has_blob(digest) for digest in digests)
        return {digest for digest, has in zip(digests, answers, strict=True) if has}

    async def _share(self, fetching: Fetching, upload: Upload, order: int, watcher: Subscriber) -> str:
        """The digest of a blob that moves once, however many pulls want it."""
        identity = upload_identity(fetching.repository, upload)
        if (shared := self._shared.get(identity)) is not None:
            try:
                return await shared.subscribe(watcher)
            except (SourceError, TransferError) as error:
                log.warning("%s; %s does not leave it at that", error, fetching.repository.id)
        if (shared := self._shared.get(identity)) is not None:
            return await shared.subscribe(watcher)
        shared = self._shared[identity] = SingleFlightUpload(self._shared, identity)

        def claim(digest: str) -> None:
            self._journal.remember_digest(identity, digest)
            shared.claim(digest)

        what = f"{fetching.repository.id}/{upload.path}"
        shared.begin(self.push(fetching.heard_by(shared), upload.recipe, what, shared.moved, order, claim))
        return await shared.subscribe(watcher)

    async def push(
        self,
        fetching: Fetching,
        recipe: Recipe,
        what: str,
        moved: Callable[[int], None],
        order: int = 0,
        claim: OnDigest = lambda _: None,
    ) -> str:
        """Make the blob of a recipe in Ollama; its digest.

        `moved` is told the bytes that reached Ollama, and less than zero where all has to begin again; `claim` the
        digest before Ollama has it, where nobody knew it. `what` names the blob in errors; of one pull's blobs, that
        with the lowest `order` is fetched first.
        """
        upload = BlobUpload(
            self._ollama,
            self._journal,
            fetching,
            recipe,
            what,
            moved,
            claim,
            self._sent,
            order,
            self._threads,
            self._workers,
            self._ahead,
        )
        if isinstance(fetching.repository, Mirrored):
            for file in recipe.unchecked:
                fetching.repository.keep_to_source(file)
        tries = Retries(fetching.progress, self._streams)
        while True:
            try:
                return await self.patiently(upload.run, what, fetching.progress)
            except Damaged as error:
                tries.refetch_once(_with_origin(error, fetching.repository, recipe.files))
            except DigestMismatch as error:
                tries.refetch_once(OllamaError(f"{what}: {error}"))
            except RangesIgnored as error:
                if not recipe.takes_whole_files:
                    raise SourceError(
                        f"{error}, and what is made of this repository takes its tensors in another order than its "
                        "files have them; use an endpoint that sends ranges"
                    ) from error
                fetching.ignored.set()
                log.warning("%s; its files are fetched whole, each in one stream", error)
            except Interrupted as error:
                await tries.pause(error)
            except OllamaError as error:
                raise OllamaError(f"{what}: {error}") from error

    async def patiently(self, work: Callable[[], Awaitable[T]], what: str, progress: ProgressListener) -> T:
        """Do the work again where Ollama was gone and is back within the patience."""
        for _ in range(MOST_UPLOADS - 1):
            try:
                return await work()
            except OllamaGone as error:
                log.warning("%s: %s; it is waited for, for %.0f s", what, error, self._patience)
                progress.status("waiting for Ollama to come back")
                progress.retried()
                await self._ollama.back(error, self._patience)
        return await work()


def _with_origin(error: Damaged, repository: Repository, files: Iterable[RepositoryFile]) -> Damaged:
    """`error` with the mirrors that may have damaged the files, which the repository is told of."""
    if not isinstance(repository, Mirrored):
        return error
    names = " and ".join(dict.fromkeys(filter(None, (repository.damaged(file) for file in files))))
    return Damaged(f"{error} (some of it came from {names})") if names else error


def _check_content(repository: Repository, file: RepositoryFile, content: bytes) -> None:
    what = f"{repository.id}/{file.path}"
    if file.sha256 is not None:
        check_digest(what, file.sha256, hashlib.sha256(content).hexdigest())
    elif file.git_sha1 is not None:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        check_digest(what, file.git_sha1, git.hexdigest())
