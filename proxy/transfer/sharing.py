"""One upload of a blob for all pulls that need it."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.transfer.progress import ProgressListener

OnDigest = Callable[[str], object]
"""Gets the digest of a blob that the plan did not know, before Ollama has the blob."""


class UploadListener(Protocol):
    def moved(self, size: int) -> None:
        """More bytes reached Ollama; a negative size takes bytes back, when the upload begins again."""

    def digest_known(self, digest: str) -> None:
        """The digest of a blob that the plan did not know. Comes before Ollama has the blob."""


@dataclass(frozen=True, eq=False, slots=True)
class Subscriber:
    """One pull that needs the blob. `moved` and `sent` get the bytes that reached Ollama; `moved` as its listener."""

    moved: Callable[[int], None]
    sent: Callable[[int], None]
    progress: ProgressListener
    on_digest: OnDigest


class SingleFlightUpload:
    """Runs as long as a pull subscribes to it, no matter which pull began it.

    It is in `running` until it ends or its last subscriber leaves. `remember` gets its digest.
    """

    def __init__(self, running: "MutableMapping[str, SingleFlightUpload]", identity: str, remember: OnDigest) -> None:
        self._running = running
        self._identity = identity
        self._remember = remember
        self._subscribers: set[Subscriber] = set()
        self._reached = 0
        self._digest: str | None = None
        self._task: asyncio.Task[str]

    def begin(self, push: Coroutine[Any, Any, str]) -> None:
        self._running[self._identity] = self
        self._task = asyncio.create_task(push)
        self._task.add_done_callback(self._ended)

    async def subscribe(self, subscriber: Subscriber) -> str:
        """Wait for the blob's digest. Raises what ended the upload. The last subscriber to leave cancels it."""
        self._subscribers.add(subscriber)
        subscriber.moved(self._reached)
        if self._digest is not None:
            subscriber.on_digest(self._digest)
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

    def digest_known(self, digest: str) -> None:
        self._remember(digest)
        self._digest = digest
        for subscriber in self._subscribers:
            subscriber.on_digest(digest)

    def status(self, text: str) -> None:
        for subscriber in self._subscribers:
            subscriber.progress.status(text)

    def warn(self, texts: Sequence[str]) -> None:
        for subscriber in self._subscribers:
            subscriber.progress.warn(texts)

    def retried(self) -> None:
        for subscriber in self._subscribers:
            subscriber.progress.retried()

    def sent(self, size: int) -> None:
        for subscriber in self._subscribers:
            subscriber.sent(size)

    def _ended(self, task: "asyncio.Task[str]") -> None:
        self._withdraw()
        if not task.cancelled():
            task.exception()  # the subscribers got it; asyncio would log it again

    def _withdraw(self) -> None:
        if self._running.get(self._identity) is self:
            del self._running[self._identity]
