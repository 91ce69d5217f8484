"""How many pulls move bytes at once: the others wait in the order in which they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.transfer.progress import ProgressListener


class Queue:
    """At most `most` at once. Who waits is told how many are before it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._line: list[tuple[ProgressListener, asyncio.Event]] = []

    @asynccontextmanager
    async def slot(self, progress: ProgressListener) -> AsyncIterator[None]:
        place = (progress, asyncio.Event())
        self._line.append(place)
        self._tell()
        try:
            await place[1].wait()
            yield
        finally:
            self._line.remove(place)
            self._tell()

    def _tell(self) -> None:
        for before, (progress, admitted) in enumerate(self._line):
            if before < self._most:
                admitted.set()
            elif not admitted.is_set():
                progress.status(f"waiting for {before} pulls")
