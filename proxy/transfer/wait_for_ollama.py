"""Waits for an Ollama that is gone, and then repeats the work that it interrupted."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.errors import OllamaGone
from proxy.ollama.client import Ollama
from proxy.transfer.progress import ProgressListener

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RUNS = 5
"""How often the same work runs if Ollama goes away again and again."""


class WaitForOllama:
    """`patience` is the longest wait in seconds."""

    def __init__(self, ollama: Ollama, patience: float) -> None:
        self.ollama = ollama
        self.patience = patience

    async def run(self, work: Callable[[], Awaitable[T]], what: str, progress: ProgressListener) -> T:
        """Run `work`, and again each time that Ollama went away during it and is back in time.

        Raises what `work` raises; OllamaGone when Ollama does not come back.
        """
        for _ in range(MAX_RUNS - 1):
            try:
                return await work()
            except OllamaGone as error:
                log.warning("%s: %s; waiting up to %.0f s for Ollama", what, error, self.patience)
                progress.status("waiting for Ollama to come back")
                progress.retried()
                await self.ollama.wait_until_back(error, self.patience)
        return await work()
