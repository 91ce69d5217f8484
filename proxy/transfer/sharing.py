"""One transfer of a blob for all the pulls that want it."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

from proxy.transfer.progress import ProgressListener

OnDigest = Callable[[str], object]
"""Is told the digest of a blob before Ollama has it, where nobody knew it."""


@dataclass(frozen=True, eq=False, slots=True)
class Subscriber:
    """One pull's interest in a blob. `moved` and `sent` take the bytes that reached Ollama; `moved` also negative."""

    moved: Callable[[int], None]
    sent: Callable[[int], None]
    progress: ProgressListener
    claim: OnDigest


class SingleFlightUpload:
    """Goes on as long as a pull watches it, whichever began it; it is in `known` until it ends or is given up."""

    def __init__(self, known: "MutableMapping[str, SingleFlightUpload]", identity: str) -> None:
        self._known = known
        self._identity = identity
        self._subscribers: set[Subscriber] = set()
        self._reached = 0
        self._digest: str | None = None
        self._task: asyncio.Task[str]

    def begin(self, pushing: Coroutine[Any, Any, str]) -> None:
        self._task = asyncio.create_task(pushing)
        self._task.add_done_callback(self._ended)

    async def subscribe(self, subscriber: Subscriber) -> str:
        """Wait for the blob's digest. Raises what ended its upload. The last one to leave ends it."""
        self._subscribers.add(subscriber)
        subscriber.moved(self._reached)
        if self._digest is not None:
            subscriber.claim(self._digest)
        try:
            return await asyncio.shield(self._task)
        finally:
            self._subscribers.discard(subscriber)
            if not self._subscribers and not self._task.done():
                self._withdraw()
                self._task.cancel()
                await asyncio.wait([self._task])

    def moved(self, size: int) -> None:
        self._reached += size
        for subscriber in self._subscribers:
            subscriber.moved(size)

    def claim(self, digest: str) -> None:
        self._digest = digest
        for subscriber in self._subscribers:
            subscriber.claim(digest)

    def status(self, text: str) -> None:
        for subscriber in self._subscribers:
            subscriber.progress.status(text)

    def retried(self) -> None:
        for subscriber in self._subscribers:
            subscriber.progress.retried()

    def sent(self, size: int) -> None:
        for subscriber in self._subscribers:
            subscriber.sent(size)

    def _ended(self, task: "asyncio.Task[str]") -> None:
        self._withdraw()
        if not task.cancelled():
            task.exception()  # whoever watched was told

    def _withdraw(self) -> None:
        if self._known.get(self._identity) is self:
            del self._known[self._identity]
