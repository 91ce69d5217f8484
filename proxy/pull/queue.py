"""How many pulls move bytes at once: the others wait in the order in which they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.transfer.progress import ProgressListener


class Queue:
    """At most `most` pulls at once. The others show how many pulls are before them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: list[tuple[ProgressListener, asyncio.Event]] = []

    @asynccontextmanager
    async def slot(self, progress: ProgressListener) -> AsyncIterator[None]:
        admitted = asyncio.Event()
        place = (progress, admitted)
        self._places.append(place)
        self._update()
        try:
            await admitted.wait()
            yield
        finally:
            self._places.remove(place)
            self._update()

    def _update(self) -> None:
        for before, (progress, admitted) in enumerate(self._places):
            if before < self._most:
                admitted.set()
            elif not admitted.is_set():
                progress.status(f"waiting for {before} pulls")
