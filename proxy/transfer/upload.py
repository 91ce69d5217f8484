"""One blob's way into Ollama: made of its ranges, written as it is made, kept only when it is right."""

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from proxy.errors import DigestMismatch, OllamaError
from proxy.ollama.client import PROBE, PROBE_DIGEST, Ollama, Write
from proxy.planning.recipe import Recipe
from proxy.store.journal import Journal
from proxy.transfer.assembly import Assembly, assembled, check_digest
from proxy.transfer.sharing import OnDigest
from proxy.transfer.spool import spooled
from proxy.transfer.window import Fetching, Window


@dataclass(eq=False, slots=True)
class BlobUpload:
    """One blob's way into Ollama, which may have to be gone again from its beginning."""

    ollama: Ollama
    journal: Journal
    fetching: Fetching
    recipe: Recipe
    what: str
    moved: Callable[[int], None]
    claim: OnDigest
    sent: Callable[[int], object]
    order: int
    threads: ThreadPoolExecutor
    workers: ThreadPoolExecutor
    ahead: int
    reached: int = 0
    made: str = ""
    """The digest of what was made, before its last bytes are sent."""

    async def run(self) -> str:
        """Make the blob in Ollama from its first byte; its digest.

        Raises SourceError, Damaged, DigestMismatch or OllamaError.
        """
        self._count(-self.reached)
        self.made = ""
        digest = self.recipe.digest
        if digest is None:
            digest = await self._run_unnamed()
        # Another pull may have brought it meanwhile; the answer to an earlier upload may have been lost.
        elif not await self.ollama.has_blob(digest):
            self.journal.track(digest, self.recipe.size)
            async with self._window() as window:
                is_ours = await self.ollama.push_blob(
                    digest, self.recipe.size, lambda write: self._make(window, partial(self._send, write))
                )
            if not is_ours:
                self.journal.untrack([digest])
        self._count(self.recipe.size - self.reached)
        return digest

    async def _run_unnamed(self) -> str:
        if not await self.ollama.has_blob(PROBE_DIGEST):
            self.journal.track(PROBE_DIGEST, len(PROBE))
        if not await self.ollama.keeps_unnamed_blobs():
            return await self._run_spooled()
        async with self._window() as window:
            named = await self.ollama.push_unnamed_blob(
                self.recipe.size, lambda write: self._make(window, partial(self._send, write))
            )
        # Its answer may come while the last bytes are still being written here.
        if named != self.made:
            raise DigestMismatch(f"Ollama received {named}, but {self.made or 'something unfinished'} was sent")
        if not await self.ollama.has_blob(named):
            raise OllamaError(f"Ollama did not keep {named}, which was uploaded before its digest was known")
        return named

    async def _run_spooled(self) -> str:
        with spooled(self.what, self.recipe.size, self.threads) as spool:
            async with self._window() as window:
                await self._make(window, partial(_write_all, spool.write))

            async def produce(write: Write) -> None:
                async for piece in spool.read():
                    await self._send(write, [piece])

            await self.ollama.push_blob(self.made, self.recipe.size, produce)
        return self.made

    def _window(self) -> Window:
        return Window(self.fetching, self.recipe, self.order)

    async def _make(self, window: Window, send: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        """Write the blob. The last bytes wait for its digest to be checked: Ollama keeps what ends well."""
        assembly = Assembly(self.recipe, self.workers, self.fetching.repository.id)
        ready: list[bytes] = []
        async with aclosing(assembled(assembly, window, self.ahead)) as batches:
            async for batch in batches:
                await send(ready)
                ready = batch
        digest = assembly.digest()
        if self.recipe.digest is not None:
            check_digest(self.what, self.recipe.digest, digest)
        else:
            self.claim(digest)
            if not await self.ollama.has_blob(digest):
                self.journal.track(digest, self.recipe.size)
        self.made = digest
        await send(ready)

    async def _send(self, write: Write, pieces: Sequence[bytes]) -> None:
        """Write to Ollama, and tell of what reached it."""
        await _write_all(write, pieces)
        size = sum(map(len, pieces))
        self.sent(size)
        self.fetching.progress.sent(size)
        self._count(size)

    def _count(self, size: int) -> None:
        self.reached += size
        if size:
            self.moved(size)


async def _write_all(write: Write, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        await write(piece)
