"""The proxy, Ollama, or both are killed in the middle of a blob: the next pull goes on where it was.

What came from the Hub is not fetched again, but for the bytes since the last checkpoint and those in flight.
"""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import gguf_digest
from tests.kit.support import GGUF_BYTES, Client, digest_of, fetched, serving
from tests.kit.tiny_conversions import repository
from tests.kit.tiny_gguf import tiny_gguf

KIB = 1024
STEP = 32 * KIB
SPAN = 16 * KIB
CONNECTIONS = 8
LOST = STEP + (CONNECTIONS + 4) * SPAN
"""Bytes that a kill may cost: since the last checkpoint, and in flight."""
HUB_RATE = 1_500_000
"""Bytes a second of each connection."""
KILLS = int(os.environ.get("RESUME_KILLS", "2"))
"""In each test; more by hand."""
PROXY, OLLAMA, BOTH = "proxy", "ollama", "both"
PROGRAM = f"""
from proxy.pull import reading
from proxy.transfer import assembly, checkpoints, streams
reading.GGUF_BYTES = {GGUF_BYTES}
checkpoints.MIN_BYTES = 0
assembly.CHECKPOINT_BYTES = {STEP}
assembly.SLICE = {SPAN}
streams.MIN_SPAN = streams.MAX_SPAN = {SPAN}
from proxy.cli import main
main()
"""


@dataclass(frozen=True)
class Way:
    """A model, and the digest of the blob that its pull makes."""

    name: str
    files: Mapping[str, bytes]
    digest: str


def converted(quantization: str, files: Mapping[str, bytes]) -> Way:
    name = f"hf.co/acme/tiny:{quantization}"
    return Way(name, files, gguf_digest(files, name))


def whole_gguf() -> Way:
    content = tiny_gguf("Q8_0", blocks=20)
    return Way("hf.co/acme/tiny:q8_0", {"tiny-Q8_0.gguf": content}, digest_of(content))


WAYS = {
    "bf16": converted("bf16", tiny_llama()),
    "q4_K_M": converted("q4_K_M", tiny_llama(shards=3)),
    "gguf": whole_gguf(),
    # The tensors of the next two are not in the files' order. MXFP4 has the scales beside the blocks.
    "experts": converted("q4_K_M", repository("mixtral")),
    "mxfp4": converted("mxfp4_moe", repository("gpt_oss")),
}


@dataclass
class Stage:
    hub: StandInHub
    ollama: StandInOllama
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Client]:
        arguments = ("--hub", self.hub.endpoint, "--ollama", self.ollama.url)
        async with serving(*arguments, command=[sys.executable, "-c", PROGRAM]) as (process, url):
            assert process.stderr is not None
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
            await self.ollama.close()
            await asyncio.sleep(0.1)
            await self.ollama.start()


async def pull(client: Client, name: str) -> list[dict[str, object]]:
    with suppress(aiohttp.ClientError):
        return await client.pull(name)
    return []


@asynccontextmanager
async def staged(session: aiohttp.ClientSession, way: Way) -> AsyncIterator[Stage]:
    async with StandInHub() as hub, StandInOllama() as ollama:
        hub.rate = HUB_RATE
        hub.add("acme/tiny", way.files)
        yield Stage(hub, ollama, session)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [PROXY, OLLAMA, BOTH])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_kill_costs_only_the_last_bytes(session: aiohttp.ClientSession, way: Way, victim: str) -> None:
    chance = random.Random(f"{way.name} {victim}")
    async with staged(session, way) as stage, stage.proxy() as client:
        assert (await pull(client, way.name))[-1] == {"status": "success"}
        undisturbed = stage.sent()
    for number in range(KILLS):
        async with staged(session, way) as stage:
            sent = await interrupted(stage, way, victim, undisturbed * (number + chance.random()) / KILLS)
            print(f"{sent - undisturbed} bytes of {undisturbed} were fetched twice")
            assert sent - undisturbed <= LOST


async def interrupted(stage: Stage, way: Way, victim: str, after: float) -> int:
    """Kill when the Hub has sent so many bytes; how many it has sent at the end."""
    async with stage.proxy() as client:
        pulling = asyncio.create_task(pull(client, way.name))
        while stage.sent() < after and not pulling.done():
            await asyncio.sleep(0.005)
        assert not pulling.done(), await pulling
        await stage.kill(victim)
        lines = await pulling
    if victim != OLLAMA:
        async with stage.proxy() as client:
            lines = await pull(client, way.name)
    assert lines[-1] == {"status": "success"}, lines[-3:]
    assert way.digest in stage.ollama.blobs
    return stage.sent()
