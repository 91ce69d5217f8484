"""Nothing left behind: blobs that only a conversion needed, temporary models, and what broken pulls brought."""

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

from proxy.config import Config
from proxy.errors import OllamaError, OllamaGone, ProxyError
from proxy.ollama.blobs import PROBE, Write
from proxy.ollama.client import Ollama
from proxy.ollama.registry import NAMESPACE, UNUSED, Blob, Layer, Registry, blob_of
from proxy.store.journal import Journal, JournalError
from proxy.tasks import gather_or_cancel
from proxy.timings import Timings

log = logging.getLogger(__name__)

_OURS = rf"(?:(?:https?://)?[^/]+/)?{NAMESPACE}/[0-9a-f]{{32}}"
TEMPORARY = re.compile(f"{_OURS}:temporary", re.IGNORECASE)
REMOVAL = re.compile(f"{_OURS}:reclaim", re.IGNORECASE)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CONFIG_CONTENT = b'{"os":"ollama-hf-proxy"}'
CONFIG = blob_of(CONFIG_CONTENT)
"""Of a model that is to be removed. It is not just `{}`: another pull may need a file of that content."""
PROBE_BLOB = blob_of(PROBE)


class NotReclaimed(ProxyError):
    """Something could not be removed; it stays, and is tried again with the next pull."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was removed, or would be; a temporary model's bytes are not known."""

    blobs: tuple[Blob, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        blobs = [blob._asdict() for blob in self.blobs]
        return {"blobs": blobs, "models": list(self.models), "bytes": self.size}


class Reclaim:
    """Knows what pulls need, and removes what none does.

    A pull claims its blobs before it asks Ollama for them, and they are judged and removed while nothing is claimed:
    one lock. `creating` is held by whoever creates a model, one at a time; temporary models are removed only then,
    since a create may take their layers for its own.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        ollama: Ollama,
        registry: Registry,
        count: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`count` is told the bytes that were removed."""
        self._count = count
        self.enabled = config.ollama.reclaim
        self._keep = config.pull.keep_seconds
        self._journal = journal
        self._ollama = ollama
        self._registry = registry
        self._claiming = asyncio.Lock()
        self.creating = asyncio.Lock()
        self._sweeping = asyncio.Lock()
        self._giving_up: frozenset[str] = frozenset()
        self.removals: dict[str, asyncio.Task[None]] = {}
        """By model, in lower case: what a client has asked for while it was made, and comes before it is made anew."""
        self._leftovers = True
        journal.keep_interrupted(time.time() + self._keep)

    async def claim(self, model: str, temporary: str | None, digests: Iterable[str]) -> int:
        """Begin a pull, whose blobs and temporary model stay until it ends; its number in the journal."""
        async with self._claiming:
            if self._leftovers:
                # What an earlier process was removing has to be gone before anybody counts on it.
                await self._remove_models(REMOVAL)
                self._leftovers = False
            return self._journal.begin(model, temporary, digests)

    async def wanted(self, digest: str) -> None:
        """A client asks Ollama for a blob, or sends it; one that is just being removed is waited for."""
        if not DIGEST.fullmatch(digest):
            return
        if digest in self._giving_up:
            async with self._claiming:
                pass
        try:
            self._journal.wanted(digest)
        except JournalError as error:
            log.warning("%s may be removed although a client wants it: %s", digest, error)

    def broke_off(self, pull: int) -> None:
        """What a pull brought stays for the next one, for `pull.keep`."""
        with _logged():
            self._journal.keep(pull, time.time() + self._keep)

    def release(self, pull: int) -> None:
        """Its model is made, and what it was made of is needed no more."""
        with _logged():
            self._journal.release(pull)

    def belongs_to_a_model(self, digests: Iterable[str]) -> None:
        """It goes with that, and before is nothing to remove."""
        with _logged():
            self._journal.forget(digests)

    def end(self, pull: int) -> None:
        """Nothing of it is left, or all of it may go."""
        with _logged():
            self._journal.end(pull)

    async def sweep_temporary(self) -> list[str]:
        """Remove the temporary models that no pull needs; for whoever holds `creating`. Raises OllamaError."""
        async with self._claiming:
            return await self._remove_models(TEMPORARY)

    async def collect(self, *, dry_run: bool = False) -> Reclaimed:
        """Remove the blobs that nobody needs. Raises NotReclaimed or OllamaError; they stay then."""
        async with self._claiming:
            candidates = self._journal.unneeded()
            self._giving_up = frozenset(blob.digest for blob in candidates)
            try:
                return await self._give_up(candidates, dry_run=dry_run)
            finally:
                self._giving_up = frozenset()

    async def _give_up(self, candidates: list[Blob], *, dry_run: bool) -> Reclaimed:
        held = await gather_or_cancel(self._ollama.has_blob(blob.digest) for blob in candidates)
        left = [blob for blob, is_held in zip(candidates, held, strict=True) if is_held]
        # A removal that broke off may have left its config, which goes with the next one.
        there = [blob for blob in left if blob != CONFIG]
        if dry_run:
            return Reclaimed(tuple(there))
        if left:
            await self._remove(there)
        kept = await gather_or_cancel(self._ollama.has_blob(blob.digest) for blob in there)
        # What is still there belongs to a model, and goes with it.
        self._journal.forget(blob.digest for blob in candidates)
        removed = Reclaimed(tuple(blob for blob, is_kept in zip(there, kept, strict=True) if not is_kept))
        if removed.blobs:
            self._count(removed.size)
            log.info("removed %d blobs that no model needs, %s", len(removed.blobs), decimal(removed.size))
        return removed

    async def sweep(self, *, dry_run: bool = False, blobs: bool = True) -> Reclaimed:
        """Remove all that is left behind: what broken pulls had kept, and what a process that was killed had begun.

        A second sweep waits for the first one, which holds `creating` too, but is no pull that removes its own models.
        """
        async with self._sweeping:
            return await self._sweep(dry_run=dry_run, blobs=blobs)

    async def _sweep(self, *, dry_run: bool, blobs: bool) -> Reclaimed:
        if not dry_run:
            self._journal.end_kept(time.time())
        # A pull that creates a model removes the temporary ones itself.
        if self.creating.locked():
            models = []
        elif dry_run:
            models = [name for name in await self._left_models() if self._is_unneeded(name)]
        else:
            async with self.creating, self._claiming:
                models = await self._remove_models(REMOVAL, TEMPORARY)
            for name in models:
                log.info("removed %s, which no pull needs", name)
        found = await self.collect(dry_run=dry_run) if blobs else Reclaimed()
        return Reclaimed(found.blobs, tuple(models))

    async def check_reached(self) -> None:
        """Have Ollama pull a manifest of a few bytes. Raises NotReclaimed where it gets none from the proxy."""
        async with self._claiming:
            await self._bring(PROBE_BLOB, PROBE)
            await self._remove([PROBE_BLOB])
            self._journal.forget([PROBE_BLOB.digest])

    async def _bring(self, blob: Blob, content: bytes) -> None:
        async def produce(write: Write) -> None:
            await write(content)

        if not await self._ollama.has_blob(blob.digest):
            self._journal.brings(*blob)
            try:
                await self._ollama.push_blob(*blob, produce)
            except OllamaGone:
                # Only the answer may be lost.
                if not await self._ollama.has_blob(blob.digest):
                    raise

    async def watch(self, timings: Timings) -> None:
        """Sweep now and then, for as long as the proxy runs."""
        pause = timings.first_sweep
        while True:
            await asyncio.sleep(pause)
            try:
                await self.sweep(blobs=self.enabled)
                pause = timings.sweep
            except ProxyError as error:
                log.debug("nothing was swept: %s", error)
                pause = timings.sweep_retry

    async def _remove(self, blobs: list[Blob]) -> None:
        self._leftovers = True
        await self._bring(CONFIG, CONFIG_CONTENT)
        name = f"{NAMESPACE}/{secrets.token_hex(16)}:reclaim"
        with self._registry.offering(name, CONFIG, [Layer(UNUSED, blob) for blob in blobs]) as offer:
            try:
                await self._ollama.pull(offer.name)
            except OllamaError as error:
                raise NotReclaimed(_why(offer.requested, self._registry.url, error)) from error
        await self._ollama.delete(offer.name)
        self._journal.forget([CONFIG.digest])
        self._leftovers = False

    async def _left_models(self) -> list[str]:
        names = [str(model["name"]) for model in await self._ollama.models()]
        return [name for name in names if REMOVAL.fullmatch(name) or TEMPORARY.fullmatch(name)]

    def _is_unneeded(self, name: str) -> bool:
        _, mark, rest = name.lower().rpartition(NAMESPACE)
        return mark + rest not in self._journal.temporaries()

    async def _remove_models(self, *kinds: re.Pattern[str]) -> list[str]:
        left = [name for name in await self._left_models() if any(kind.fullmatch(name) for kind in kinds)]
        unneeded = [name for name in left if self._is_unneeded(name)]
        for name in unneeded:
            await self._ollama.delete(name)
        return unneeded


@contextmanager
def _logged() -> Iterator[None]:
    """What is not written down now is a broken pull's at the next start, and goes when that has been kept."""
    try:
        yield
    except JournalError as error:
        log.warning("%s", error)


def _why(asked_for: bool, url: str, error: OllamaError) -> str:
    if asked_for:
        return f"files that no model needs stay: Ollama would not take over their removal ({error})"
    return (
        f"files that no model needs stay, since Ollama does not reach the proxy at {url} ({error}); set "
        "ollama.advertise_url, or ollama.reclaim = false"
    )
