"""The stand-in Ollama's blobs: any size goes in, only the beginning of each is remembered."""

import asyncio
import hashlib
import re

from aiohttp import web

from proxy.standins.gguf_facts import WeightFacts
from proxy.standins.listener import LOGGED, reset

REMEMBERED = 1 << 20
HASHED_AT_ONCE = 1 << 20
VALID_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class BlobStore:
    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.facts: dict[str, WeightFacts] = {}  # by digest, of what a create has seen
        self._beginnings: dict[str, bytes] = {}

    def beginning(self, digest: str) -> bytes:
        """The first megabyte, which is all of a file that is not a weight."""
        return self._beginnings.get(digest, b"")

    def keep(self, data: bytes) -> tuple[str, bool]:
        """Store a small blob; its digest, and whether it is new."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        new = digest not in self.sizes
        self._remember(digest, len(data), data[:REMEMBERED])
        return digest, new

    def claim(self, digest: str, size: int) -> bool:
        """Pretend to hold what a conversion or a pull would have written; whether it is new."""
        new = digest not in self.sizes
        self.sizes[digest] = size
        return new

    def forget(self, digest: str) -> None:
        self.sizes.pop(digest, None)
        self._beginnings.pop(digest, None)

    async def receive(self, request: web.Request, *, break_at: int | None, hold: asyncio.Event | None) -> str | None:
        """Store an upload under its true digest; nothing stays of one that is broken off."""
        hashing, beginning, waiting, size = hashlib.sha256(), bytearray(), bytearray(), 0
        async for chunk in request.content.iter_any():
            if hold is not None:
                await hold.wait()
            size += len(chunk)
            request[LOGGED].received = size
            if break_at is not None and size >= break_at:
                reset(request)
                return None
            beginning += chunk[: REMEMBERED - len(beginning)]
            waiting += chunk
            if len(waiting) >= HASHED_AT_ONCE:
                await asyncio.to_thread(hashing.update, bytes(waiting))
                waiting.clear()
        hashing.update(waiting)
        digest = f"sha256:{hashing.hexdigest()}"
        self._remember(digest, size, bytes(beginning))
        return digest

    def _remember(self, digest: str, size: int, beginning: bytes) -> None:
        self.sizes[digest] = size
        self._beginnings[digest] = beginning
