"""The stand-in Ollama's blobs. They may have any size; only the first megabyte of each is kept."""

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
        self.facts: dict[str, WeightFacts] = {}  # by digest, for the GGUFs that a create has read
        self._beginnings: dict[str, bytes] = {}

    def beginning(self, digest: str) -> bytes:
        """The first megabyte, which is the whole content of any file without weights."""
        return self._beginnings.get(digest, b"")

    def keep(self, data: bytes) -> tuple[str, bool]:
        """Store a small blob; return its digest and whether it is new."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        new = digest not in self.sizes
        self._remember(digest, len(data), data[:REMEMBERED])
        return digest, new

    def pretend(self, digest: str, size: int) -> bool:
        """Record a blob whose bytes do not exist here; return whether it is new."""
        new = digest not in self.sizes
        self.sizes[digest] = size
        return new

    def forget(self, digest: str) -> None:
        self.sizes.pop(digest, None)
        self._beginnings.pop(digest, None)

    async def receive(self, request: web.Request, *, break_at: int | None, hold: asyncio.Event | None) -> str | None:
        """Store an upload under its true digest. Nothing is stored if the upload breaks off."""
        hashing, beginning, unhashed, size = hashlib.sha256(), bytearray(), bytearray(), 0
        async for chunk in request.content.iter_any():
            if hold is not None:
                await hold.wait()
            size += len(chunk)
            request[LOGGED].received = size
            if break_at is not None and size >= break_at:
                reset(request)
                return None
            beginning += chunk[: REMEMBERED - len(beginning)]
            unhashed += chunk
            if len(unhashed) >= HASHED_AT_ONCE:
                await asyncio.to_thread(hashing.update, bytes(unhashed))
                unhashed.clear()
        hashing.update(unhashed)
        digest = f"sha256:{hashing.hexdigest()}"
        self._remember(digest, size, bytes(beginning))
        return digest

    def _remember(self, digest: str, size: int, beginning: bytes) -> None:
        self.sizes[digest] = size
        self._beginnings[digest] = beginning
