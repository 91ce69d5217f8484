"""The upload of one blob: made from its ranges, written to Ollama meanwhile, and begun again when that fails."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from rich.filesize import decimal

from proxy.errors import (
    Damaged,
    DigestMismatch,
    Interrupted,
    OllamaError,
    ProxyError,
    RangesIgnored,
    SourceError,
    TransferError,
)
from proxy.ollama.blobs import PROBE, PROBE_DIGEST, Write
from proxy.planning.identity import data_identity, upload_identity
from proxy.planning.plan import Upload
from proxy.planning.recipe import Recipe
from proxy.sources.base import Mirrored, Repository, RepositoryFile
from proxy.store.journal import Journal
from proxy.transfer.assembly import Assembly, assembled, check_digest
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.checkpoints import CheckpointFile, Checkpoints, NotKept
from proxy.transfer.held_data import HeldData
from proxy.transfer.retry import Retries
from proxy.transfer.sharing import UploadListener
from proxy.transfer.spool import open_spool
from proxy.transfer.wait_for_ollama import WaitForOllama
from proxy.transfer.window import Fetching, Window

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Sent = Callable[[int], object]

NOT_COPIED = (
    "Ollama has these weights already, with another header, but the proxy cannot read Ollama's files, so it fetches "
    "the weights again; set ollama.models if the files are on this machine"
)


@dataclass(frozen=True, slots=True)
class UploadServices:
    """What all uploads share.

    `checkpoints` keep on disk what is made. `sent` gets the number of bytes that went to Ollama. `hashers` are threads
    for hashes and for the disk, `workers` transform and quantize. `ahead` is the number of batches that may be in work
    before the oldest one is sent.
    """

    wait_for_ollama: WaitForOllama
    journal: Journal
    checkpoints: Checkpoints
    sent: Callable[[int], object]
    hashers: ThreadPoolExecutor
    workers: ThreadPoolExecutor
    ahead: int


class BlobUpload:
    """Makes one blob in Ollama. Of the blobs of a pull, the one with the lowest `order` is fetched first."""

    def __init__(
        self, services: UploadServices, fetching: Fetching, upload: Upload, order: int, listener: UploadListener
    ) -> None:
        self._services = services
        self._ollama = services.wait_for_ollama.ollama
        self._journal = services.journal
        self._fetching = fetching
        self._planned = upload
        self._recipe = upload.recipe
        self._source: tuple[Fetching, Recipe, str] | None = None
        """What to use, and what to say, when bytes that are on this machine already cannot be used."""
        self._data: str | None = None
        """The identity of the tensor data."""
        self._file: CheckpointFile | None = None
        self._what = f"{fetching.repository.id}/{upload.path}"
        self._order = order
        self._listener = listener
        self._reached = 0
        self._digest = ""
        """The digest of the finished blob, known before its last bytes are sent."""

    async def run(self) -> str:
        """Upload the blob, and re-upload it where that may help; its digest.

        Raises SourceError, TransferError or OllamaError.
        """
        if isinstance(self._fetching.repository, Mirrored):
            for file in self._recipe.unchecked:
                self._fetching.repository.keep_to_source(file)
        await self._find_held_data()
        self._use_passed_bytes()
        if self._source is None:
            await self._open_checkpoints()
        try:
            digest = await self._run()
        except BaseException:
            if self._file:
                await self._in_thread(self._file.close)
            raise
        if self._file:
            await self._in_thread(self._file.remove)
        return digest

    async def _run(self) -> str:
        retries = Retries(self._fetching.progress, self._fetching.limits)
        while True:
            try:
                return await self._services.wait_for_ollama.run(self._upload, self._what, self._fetching.progress)
            except ProxyError as error:
                await self._recover(error, retries)

    async def _in_thread(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._services.hashers, partial(call, *arguments, **named))

    async def _open_checkpoints(self) -> None:
        identity = await self._in_thread(upload_identity, self._fetching.repository, self._planned)
        try:
            self._file = await self._in_thread(self._services.checkpoints.open, identity, self._what, self._recipe.size)
        except NotKept as error:
            log.warning("%s", error)
            self._fetching.progress.warn([str(error)])

    async def _find_held_data(self) -> None:
        """Copy the tensor data from a blob of Ollama, if one has them and the proxy can read it."""
        fetching = self._fetching
        self._data = await self._in_thread(data_identity, fetching.repository, self._planned)
        digest = self._journal.digest_of(self._data) if self._data is not None else None
        if digest is None:
            return
        has_blob = partial(self._ollama.has_blob, digest)
        if not await self._services.wait_for_ollama.run(has_blob, self._what, fetching.progress):
            return
        held = await self._in_thread(HeldData.find, self._ollama, digest, self._recipe)
        if held is None:
            self._warn_of_fetching()
            return
        self._source = fetching, self._recipe, NOT_COPIED
        self._fetching, self._recipe = held.fetching(fetching), held.recipe

    def _use_passed_bytes(self) -> None:
        """Make the blob from the bytes that the first blob of the pull has read past, if they are all there."""
        passed = self._fetching.passed
        if self._planned.is_read_past and self._source is None and passed is not None and passed.complete:
            self._source = self._fetching, self._recipe, ""
            repository, self._recipe = passed.source(self._fetching.repository.id)
            # The limit of the bandwidth is for sources.
            limits = replace(self._fetching.limits, bandwidth=Bandwidth(0))
            self._fetching = Fetching(repository, limits, self._fetching.progress, self._fetching.pull)

    def _warn_of_fetching(self, text: str = NOT_COPIED) -> None:
        log.warning("%s: %s", self._what, text)
        self._fetching.progress.warn([text])

    async def _recover(self, error: ProxyError, retries: Retries) -> None:
        """Returns when a re-upload may help; else raises the error that ends this upload."""
        if self._source is not None and isinstance(error, SourceError | TransferError):
            log.warning("%s: %s", self._what, error)
            self._fetching, self._recipe, text = self._source
            self._source = None
            if text:
                self._warn_of_fetching(text)
            await self._open_checkpoints()
            return
        if isinstance(error, Damaged | DigestMismatch | RangesIgnored) and self._file:
            await self._in_thread(self._file.discard)
        match error:
            case Damaged():
                retries.refetch_once(with_origin(error, self._fetching.repository, self._recipe.files))
            case DigestMismatch():
                retries.refetch_once(OllamaError(f"{self._what}: {error}"))
            case RangesIgnored():
                self._fetch_whole_files(error)
            case Interrupted():
                await retries.pause(error)
            case OllamaError():
                raise OllamaError(f"{self._what}: {error}") from error
            case _:
                raise error

    def _fetch_whole_files(self, error: RangesIgnored) -> None:
        if not self._recipe.takes_whole_files:
            raise SourceError(
                f"{error}, and this model needs the tensors in another order than its files have them; use an endpoint "
                "that sends ranges"
            ) from error
        self._fetching.ranges_ignored.set()
        log.warning("%s; its files are fetched whole, each in one stream", error)

    async def _upload(self) -> str:
        """Make the blob in Ollama from its first byte; its digest."""
        self._digest = ""
        digest = self._recipe.digest
        if digest is None:
            digest = await self._upload_unnamed()
        # Another pull may have uploaded it meanwhile, or the answer to an earlier upload may have been lost.
        elif not await self._ollama.has_blob(digest):
            self._journal.track(digest, self._recipe.size)
            async with self._making() as make:
                is_ours = await self._ollama.push_blob(digest, self._recipe.size, lambda write: make(write, self._sent))
            if not is_ours:
                self._journal.untrack([digest])
        self._count(self._recipe.size - self._reached)
        return digest

    async def _upload_unnamed(self) -> str:
        """Upload a blob whose digest is not known yet."""
        if not await self._ollama.has_blob(PROBE_DIGEST):
            self._journal.track(PROBE_DIGEST, len(PROBE))
        if not await self._ollama.keeps_unnamed_blobs():
            return await self._upload_spooled()
        async with self._making() as make:
            digest = await self._ollama.push_unnamed_blob(self._recipe.size, lambda write: make(write, self._sent))
        # Ollama's answer may come before the proxy has finished the blob.
        if digest != self._digest:
            raise DigestMismatch(f"Ollama received {digest}, but {self._digest or 'an unfinished blob'} was sent")
        if not await self._ollama.has_blob(digest):
            raise OllamaError(f"Ollama did not keep {digest}, which was uploaded before its digest was known")
        return digest

    async def _upload_spooled(self) -> str:
        with open_spool(self._what, self._recipe.size, self._services.hashers) as spool:
            async with self._making() as make:
                await make(spool.write, lambda _: None)
            self._count(-self._reached)

            async def produce(write: Write) -> None:
                async for piece in spool.read():
                    await write(piece)
                    self._sent(len(piece))

            await self._ollama.push_blob(self._digest, self._recipe.size, produce)
        return self._digest

    @asynccontextmanager
    async def _making(self) -> AsyncIterator[Callable[[Write, Sent], Awaitable[None]]]:
        """Begin to fetch what is not kept; yields what writes the blob."""
        kept = await self._in_thread(self._file.last_good) if self._file else None
        if kept and self._fetching.ranges_ignored.is_set():
            kept = None
        writer = await self._in_thread(self._file.begin, kept) if self._file else None
        reached = kept.checkpoint.size if kept else 0
        self._count(reached - self._reached)
        recipe = self._recipe
        if kept:
            self._fetching.progress.status(f"resuming {self._what}: {decimal(reached)} are kept")
            recipe = replace(recipe, parts=tuple(part for _, part in recipe.after(kept.checkpoint.position)))
        passing = self._fetching.passed.add if self._fetching.passed else None
        assembly = Assembly(self._recipe, self._services.workers, self._fetching.repository.id, writer, kept, passing)
        async with Window(self._fetching, recipe, self._order) as window:
            yield partial(self._make, window, assembly, reached)

    async def _make(self, window: Window, assembly: Assembly, kept: int, write: Write, sent: Sent) -> None:
        """Write the blob. The last batch is sent after the digest is checked: Ollama keeps what ends cleanly.

        The first `kept` bytes come from the disk. `sent` gets the sizes of all others.
        """
        if self._file and kept:
            pieces = self._file.read(kept)
            while piece := await self._in_thread(next, pieces, b""):
                await write(piece)
                self._services.sent(len(piece))

        async def send(pieces: Sequence[bytes]) -> None:
            await _write_all(write, pieces)
            sent(sum(map(len, pieces)))

        ready: list[bytes] = []
        async with aclosing(assembled(assembly, window, self._services.ahead)) as batches:
            async for batch in batches:
                await send(ready)
                ready = batch
        digest = assembly.digest()
        if self._recipe.digest is not None:
            check_digest(self._what, self._recipe.digest, digest)
        else:
            self._listener.digest_known(digest)
            if not await self._ollama.has_blob(digest):
                self._journal.track(digest, self._recipe.size)
        if self._data is not None:
            self._journal.remember_digest(self._data, digest)
        self._digest = digest
        await send(ready)

    def _sent(self, size: int) -> None:
        """Bytes reached Ollama for the first time."""
        self._services.sent(size)
        self._fetching.progress.sent(size)
        self._count(size)

    def _count(self, size: int) -> None:
        self._reached += size
        if size:
            self._listener.moved(size)


async def _write_all(write: Write, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        await write(piece)


def with_origin(error: Damaged, repository: Repository, files: Iterable[RepositoryFile]) -> Damaged:
    """`error` with the names of the mirrors that may have damaged the files; the repository stops using these."""
    if not isinstance(repository, Mirrored):
        return error
    names = " and ".join(dict.fromkeys(filter(None, (repository.report_damaged(file) for file in files))))
    return Damaged(f"{error} (some of it came from {names})") if names else error
