"""Removes what no model and no pull needs: unused blobs, temporary models, and what interrupted pulls uploaded.

Ollama's API removes blobs only together with a model that has them. So the proxy offers Ollama a model of just the
unneeded blobs, has Ollama pull it, and deletes that model.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.filesize import decimal

from proxy.config.sections import Config
from proxy.errors import OllamaError, OllamaGone, ProxyError
from proxy.ollama.blobs import PROBE, Write
from proxy.ollama.client import Ollama
from proxy.ollama.registry import NAMESPACE, UNUSED, Blob, Layer, Registry, blob_of
from proxy.store.journal import Journal, JournalError
from proxy.tasks import gather_or_cancel
from proxy.timings import Timings

log = logging.getLogger(__name__)

_OWN_NAME = rf"(?:(?:https?://)?[^/]+/)?{NAMESPACE}/[0-9a-f]{{32}}"
TEMPORARY = re.compile(f"{_OWN_NAME}:temporary", re.IGNORECASE)
REMOVAL = re.compile(f"{_OWN_NAME}:reclaim", re.IGNORECASE)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CONFIG_CONTENT = b'{"os":"ollama-hf-proxy"}'
CONFIG = blob_of(CONFIG_CONTENT)
"""The config of a removal model. It is not just `{}`, because another pull may need a file with that content."""
PROBE_BLOB = blob_of(PROBE)


class NotReclaimed(ProxyError):
    """Ollama did not remove the blobs; the next pull tries again."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was removed, or would be removed in a dry run. The sizes of temporary models are not known.

    `spooled` is in bytes: what the proxy itself kept on disk of unfinished blobs.
    """

    blobs: tuple[Blob, ...] = ()
    models: tuple[str, ...] = ()
    spooled: int = 0

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        blobs = [blob._asdict() for blob in self.blobs]
        return {"blobs": blobs, "models": list(self.models), "bytes": self.size, "spooled": self.spooled}


class Reclaim:
    """Keeps the leases of pulls, and removes what no lease protects.

    A pull acquires its lease before it asks Ollama for its blobs. One lock, `_leasing`, keeps leases out while blobs
    are chosen and removed. Only one model is created at a time, under the lock `creating`. Temporary models are removed
    only under that lock, because a create may reuse their layers.
    """

    def __init__(  # noqa: PLR0913
        self,
        config: Config,
        journal: Journal,
        ollama: Ollama,
        registry: Registry,
        count: Callable[[int], object] = lambda _: None,
        remove_spools: Callable[[bool], int] = lambda _: 0,
    ) -> None:
        """`count` gets the number of bytes that were removed from Ollama.

        `remove_spools` removes what the proxy keeps of blobs that no pull needs any more, and returns its bytes; with
        True it only counts them. It blocks. There are more than five arguments because each is a service of `App`.
        """
        self._count = count
        self._remove_spools = remove_spools
        self.enabled = config.ollama.reclaim
        self._keep = config.pull.keep_seconds
        self._journal = journal
        self._ollama = ollama
        self._registry = registry
        self._leasing = asyncio.Lock()
        self.creating = asyncio.Lock()
        self._sweeping = asyncio.Lock()
        self._removing: frozenset[str] = frozenset()
        self.deletions: dict[str, asyncio.Task[None]] = {}
        """Running deletes of clients, by model name in lower case. A pull of that name creates its model after them."""
        self._may_have_removal_models = True
        journal.expire_abandoned_at(time.time() + self._keep)

    async def acquire(self, model: str, temporary: str | None, digests: Iterable[str]) -> int:
        """Begin a pull's lease on its blobs and its temporary model; the lease's number in the journal."""
        async with self._leasing:
            if self._may_have_removal_models:
                # An interrupted removal would delete these blobs later, so it is finished first.
                await self._remove_models(REMOVAL)
                self._may_have_removal_models = False
            return self._journal.acquire(model, temporary, digests)

    async def touch(self, digest: str) -> None:
        """A client asks Ollama for a blob, or uploads it. Wait while that blob is being removed."""
        if not DIGEST.fullmatch(digest):
            return
        if digest in self._removing:
            async with self._leasing:
                pass
        try:
            self._journal.touch(digest)
        except JournalError as error:
            log.warning("%s may be removed although a client uses it: %s", digest, error)

    def add(self, lease: int, digests: Iterable[str]) -> None:
        """Protect more blobs. Raises JournalError."""
        self._journal.add(lease, digests)

    def expire_later(self, lease: int) -> None:
        """The pull was interrupted: keep its blobs for the next pull of the model, for `pull.keep`."""
        with _logged():
            self._journal.expire_at(lease, time.time() + self._keep)

    def complete(self, lease: int) -> None:
        """The model is made: protect nothing any more."""
        with _logged():
            self._journal.complete(lease)

    def release(self, lease: int) -> None:
        """The pull has ended: delete its lease."""
        with _logged():
            self._journal.release(lease)

    def adopt(self, digests: Iterable[str]) -> None:
        """These blobs now belong to a model and are deleted with it; stop tracking them."""
        with _logged():
            self._journal.untrack(digests)

    async def sweep_temporary(self) -> list[str]:
        """Remove the temporary models that no lease protects. The caller holds `creating`. Raises OllamaError."""
        async with self._leasing:
            return await self._remove_models(TEMPORARY)

    async def collect(self, *, dry_run: bool = False) -> Reclaimed:
        """Remove the blobs that nobody needs. Raises NotReclaimed or OllamaError; the blobs stay then."""
        async with self._leasing:
            candidates = self._journal.unneeded()
            self._removing = frozenset(blob.digest for blob in candidates)
            try:
                return await self._remove_unused(candidates, dry_run=dry_run)
            finally:
                self._removing = frozenset()

    async def _remove_unused(self, candidates: list[Blob], *, dry_run: bool) -> Reclaimed:
        held = await self._held(candidates)
        # An interrupted removal may have left its config. The next removal has the same config and removes it.
        unused = [blob for blob in held if blob != CONFIG]
        if dry_run:
            return Reclaimed(tuple(unused))
        if held:
            await self._remove(unused)
        # A blob that Ollama still has belongs to a model, and is deleted with it.
        in_models = await self._held(unused)
        self._journal.untrack(blob.digest for blob in candidates)
        removed = Reclaimed(tuple(blob for blob in unused if blob not in in_models))
        if removed.blobs:
            self._count(removed.size)
            log.info("removed %d blobs that no model needs, %s", len(removed.blobs), decimal(removed.size))
        return removed

    async def _held(self, blobs: list[Blob]) -> list[Blob]:
        """Those that Ollama has."""
        answers = await gather_or_cancel(self._ollama.has_blob(blob.digest) for blob in blobs)
        return [blob for blob, is_held in zip(blobs, answers, strict=True) if is_held]

    async def sweep(self, *, dry_run: bool = False, blobs: bool = True) -> Reclaimed:
        """Remove everything that no lease protects: expired blobs of interrupted pulls, and temporary models.

        A second sweep waits for the first one. Without `_sweeping` it would see that `creating` is locked, and skip the
        temporary models as if a pull were creating a model.
        """
        async with self._sweeping:
            return await self._sweep(dry_run=dry_run, blobs=blobs)

    async def _sweep(self, *, dry_run: bool, blobs: bool) -> Reclaimed:
        if not dry_run:
            self._journal.release_expired(time.time())
        # A pull that creates a model removes the temporary models itself.
        if self.creating.locked():
            models = []
        elif dry_run:
            models = [name for name in await self._own_models() if self._is_unneeded(name)]
        else:
            async with self.creating, self._leasing:
                models = await self._remove_models(REMOVAL, TEMPORARY)
            for name in models:
                log.info("removed %s, which no pull needs", name)
        collected = await self.collect(dry_run=dry_run) if blobs else Reclaimed()
        return Reclaimed(collected.blobs, tuple(models), await asyncio.to_thread(self._remove_spools, dry_run))

    async def clean_up(self, model: str) -> Reclaimed:
        """Remove what interrupted pulls of a finished model left, and everything else that no lease protects."""
        self._journal.complete_interrupted(model)
        removed = await self.sweep(blobs=self.enabled)
        self._journal.release_interrupted(model)
        return removed

    async def check_reached(self) -> None:
        """Have Ollama pull a manifest of a few bytes. Raises NotReclaimed if Ollama cannot get it from the proxy."""
        async with self._leasing:
            await self._upload(PROBE_BLOB, PROBE)
            await self._remove([PROBE_BLOB])
            self._journal.untrack([PROBE_BLOB.digest])

    async def _upload(self, blob: Blob, content: bytes) -> None:
        async def produce(write: Write) -> None:
            await write(content)

        if not await self._ollama.has_blob(blob.digest):
            self._journal.track(*blob)
            try:
                await self._ollama.push_blob(*blob, produce)
            except OllamaGone:
                # The blob may be there although the answer was lost.
                if not await self._ollama.has_blob(blob.digest):
                    raise

    async def watch(self, timings: Timings) -> None:
        """Sweep at intervals, as long as the proxy runs."""
        pause = timings.first_sweep
        while True:
            await asyncio.sleep(pause)
            try:
                await self.sweep(blobs=self.enabled)
                pause = timings.sweep
            except ProxyError as error:
                log.debug("the sweep failed: %s", error)
                pause = timings.sweep_retry

    async def _remove(self, blobs: list[Blob]) -> None:
        self._may_have_removal_models = True
        await self._upload(CONFIG, CONFIG_CONTENT)
        name = f"{NAMESPACE}/{secrets.token_hex(16)}:reclaim"
        with self._registry.offering(name, CONFIG, [Layer(UNUSED, blob) for blob in blobs]) as offer:
            try:
                await self._ollama.pull(offer.name)
            except OllamaError as error:
                raise NotReclaimed(_why(offer.requested, self._registry.url, error)) from error
        await self._ollama.delete(offer.name)
        self._journal.untrack([CONFIG.digest])
        self._may_have_removal_models = False

    async def _own_models(self) -> list[str]:
        """The names of temporary models and of removal models."""
        names = [str(model["name"]) for model in await self._ollama.models()]
        return [name for name in names if REMOVAL.fullmatch(name) or TEMPORARY.fullmatch(name)]

    def _is_unneeded(self, name: str) -> bool:
        _, namespace, rest = name.lower().rpartition(NAMESPACE)
        return namespace + rest not in self._journal.temporary_models()

    async def _remove_models(self, *patterns: re.Pattern[str]) -> list[str]:
        names = [name for name in await self._own_models() if any(pattern.fullmatch(name) for pattern in patterns)]
        unneeded = [name for name in names if self._is_unneeded(name)]
        for name in unneeded:
            await self._ollama.delete(name)
        return unneeded


@contextmanager
def _logged() -> Iterator[None]:
    """A write that fails loses nothing: the next start takes the lease for an interrupted pull's, and it expires."""
    try:
        yield
    except JournalError as error:
        log.warning("%s", error)


def _why(asked_for: bool, url: str, error: OllamaError) -> str:
    if asked_for:
        return f"files that no model needs stay: Ollama refuses to take over their removal ({error})"
    return (
        f"files that no model needs stay, because Ollama does not reach the proxy at {url} ({error}); set "
        "ollama.advertise_url, or ollama.reclaim = false"
    )
