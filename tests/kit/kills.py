"""Pulls whose proxy or Ollama is killed in the middle of a blob."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.conversions import gguf_digest
from tests.kit.forked import ForkedProcess, serving_forked
from tests.kit.real_ollama import RealOllama
from tests.kit.support import GGUF_BYTES, Client, fetched

STEP = 32 * 1024
SPAN = 16 * 1024
CONNECTIONS = 8
LOST = 2 * STEP + (CONNECTIONS + 4) * SPAN + 3 * SPAN
"""Bytes that a kill may cost: since the last checkpoint, before it if it waits for the disk, in flight, and held."""
HUB_RATE = 1_500_000
"""Bytes a second of each connection."""
PROXY, OLLAMA, BOTH = "proxy", "ollama", "both"
STEPS = {
    "proxy.pull.reading": {"GGUF_BYTES": GGUF_BYTES},
    "proxy.transfer.checkpoints": {"MIN_BYTES": 0, "MIN_WAIT_SECONDS": 60},
    "proxy.transfer.assembly": {"CHECKPOINT_BYTES": STEP, "SLICE": SPAN},
    "proxy.transfer.streams": {"MIN_SPAN": SPAN, "MAX_SPAN": SPAN},
    "proxy.transfer.window": {"PIECE_BYTES": SPAN, "HELD_BYTES": SPAN},
}
"""Steps that are small enough for tiny models."""


@dataclass(frozen=True)
class Way:
    """A model, and the digest of the blob that its pull makes."""

    name: str
    files: Mapping[str, bytes]
    digest: str


def converted(quantization: str, files: Mapping[str, bytes]) -> Way:
    name = f"hf.co/acme/tiny:{quantization}"
    return Way(name, files, gguf_digest(files, name))


class Victim(Protocol):
    """An Ollama that can crash."""

    @property
    def url(self) -> str: ...

    @property
    def blobs(self) -> Collection[str]: ...

    async def restart(self) -> None:
        """Kill it, and start it again with the same store."""


@dataclass(frozen=True)
class StandInVictim:
    ollama: StandInOllama

    @property
    def url(self) -> str:
        return self.ollama.url

    @property
    def blobs(self) -> Collection[str]:
        return self.ollama.blobs

    async def restart(self) -> None:
        await self.ollama.close()
        await asyncio.sleep(0.1)
        await self.ollama.start()


@dataclass(frozen=True)
class RealVictim:
    ollama: RealOllama

    @property
    def url(self) -> str:
        return self.ollama.url

    @property
    def blobs(self) -> Collection[str]:
        return self.ollama.blobs

    async def restart(self) -> None:
        self.ollama.kill()
        await asyncio.to_thread(self.ollama.start)


@dataclass
class Stage:
    hub: StandInHub
    ollama: Victim
    session: aiohttp.ClientSession
    process: ForkedProcess | None = None

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Client]:
        arguments = ("--hub", self.hub.endpoint, "--ollama", self.ollama.url)
        async with serving_forked(*arguments, changes=STEPS) as (process, url):
            reading = asyncio.create_task(process.stderr.read())  # a process that writes to a full pipe stops
            self.process = process
            try:
                yield Client(url, self.session)
            finally:
                if process.returncode is None:
                    process.kill()
                await reading

    def sent(self) -> int:
        """Bytes of weight files that the Hub has sent, without those for the plan."""
        return sum(request.body_bytes for request in fetched(self.hub))

    async def kill(self, victim: str) -> None:
        if victim in (PROXY, BOTH):
            assert self.process is not None
            self.process.kill()
        if victim in (OLLAMA, BOTH):
            await self.ollama.restart()

    async def undisturbed(self, way: Way) -> int:
        """Pull without a kill; the bytes that the Hub sends for it."""
        async with self.proxy() as client:
            assert (await pull(client, way.name))[-1] == {"status": "success"}
        return self.sent()

    async def interrupted(self, way: Way, victim: str, after: float) -> int:
        """Kill when the Hub has sent so many bytes, and pull again; how many bytes it has sent at the end."""
        async with self.proxy() as client:
            pulling = asyncio.create_task(pull(client, way.name))
            while self.sent() < after and not pulling.done():
                await asyncio.sleep(0.005)
            assert not pulling.done(), await pulling
            await self.kill(victim)
            lines = await pulling
        if victim != OLLAMA:
            async with self.proxy() as client:
                lines = await pull(client, way.name)
        assert lines[-1] == {"status": "success"}, lines[-3:]
        return self.sent()


async def pull(client: Client, name: str) -> list[dict[str, object]]:
    with suppress(aiohttp.ClientError):
        return await client.pull(name)
    return []


@asynccontextmanager
async def serving_hub(way: Way) -> AsyncIterator[StandInHub]:
    async with StandInHub() as hub:
        hub.rate = HUB_RATE
        hub.add("acme/tiny", way.files)
        yield hub
