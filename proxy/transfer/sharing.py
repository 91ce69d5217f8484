"""One transfer of a blob for all the pulls that want it."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

from proxy.transfer.progress import Listener

Claim = Callable[[str], object]
"""Is told the digest of a blob before Ollama has it, where nobody knew it."""


@dataclass(frozen=True, eq=False, slots=True)
class Watcher:
    """One pull's interest in a blob. `moved` and `sent` take the bytes that reached Ollama; `moved` also negative."""

    moved: Callable[[int], None]
    sent: Callable[[int], None]
    progress: Listener
    claim: Claim


class SharedUpload:
    """Goes on as long as a pull watches it, whichever began it; it is in `known` until it ends or is given up."""

    def __init__(self, known: "MutableMapping[str, SharedUpload]", identity: str) -> None:
        self._known = known
        self._identity = identity
        self._watchers: set[Watcher] = set()
        self._reached = 0
        self._digest: str | None = None
        self._task: asyncio.Task[str]

    def begin(self, pushing: Coroutine[Any, Any, str]) -> None:
        self._task = asyncio.create_task(pushing)
        self._task.add_done_callback(self._ended)

    async def watch(self, watcher: Watcher) -> str:
        """Wait for the blob's digest. Raises what ended its upload. The last one to leave ends it."""
        self._watchers.add(watcher)
        watcher.moved(self._reached)
        if self._digest is not None:
            watcher.claim(self._digest)
        try:
            return await asyncio.shield(self._task)
        finally:
            self._watchers.discard(watcher)
            if not self._watchers and not self._task.done():
                self._withdraw()
                self._task.cancel()
                await asyncio.wait([self._task])

    def moved(self, size: int) -> None:
        self._reached += size
        for watcher in self._watchers:
            watcher.moved(size)

    def claim(self, digest: str) -> None:
        self._digest = digest
        for watcher in self._watchers:
            watcher.claim(digest)

    def status(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.progress.status(text)

    def retried(self) -> None:
        for watcher in self._watchers:
            watcher.progress.retried()

    def sent(self, size: int) -> None:
        for watcher in self._watchers:
            watcher.sent(size)

    def _ended(self, task: "asyncio.Task[str]") -> None:
        self._withdraw()
        if not task.cancelled():
            task.exception()  # whoever watched was told

    def _withdraw(self) -> None:
        if self._known.get(self._identity) is self:
            del self._known[self._identity]
