"""The proxy, Ollama, or both are killed in the middle of a blob: the next pull goes on where it was.

What came from the Hub is not fetched again, but for the bytes since the last checkpoint and those in flight.
"""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product

import aiohttp
import pytest

from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.gguf.splitting import split
from tests.kit.gguf_pulls import FLOATS
from tests.kit.kills import BOTH, LOST, OLLAMA, PROXY, Stage, StandInVictim, Way, converted, serving_hub
from tests.kit.support import digest_of
from tests.kit.tiny_conversions import repository
from tests.kit.tiny_gguf import tiny_gguf

KILLS = int(os.environ.get("RESUME_KILLS", "0"))
"""By hand: so many kills in each test, and every victim in every way."""
GGUF = tiny_gguf("Q8_0", blocks=20)
WAYS: dict[str, Callable[[], Way]] = {
    "bf16": lambda: converted("bf16", tiny_llama()),
    "q4_K_M": lambda: converted("q4_K_M", tiny_llama(shards=3)),
    "gguf": lambda: Way("hf.co/acme/tiny:q8_0", {"tiny-Q8_0.gguf": GGUF}, digest_of(GGUF)),
    "shards": lambda: Way("hf.co/acme/tiny:f16", split(FLOATS, 3, prefix="F16/Tiny-F16"), digest_of(FLOATS)),
    # The tensors of the next two are not in the files' order. MXFP4 has the scales beside the blocks.
    "experts": lambda: converted("q4_K_M", repository("mixtral")),
    "mxfp4": lambda: converted("mxfp4_moe", repository("gpt_oss")),
}
VICTIMS = (PROXY, OLLAMA, BOTH)
CASES = list(product(WAYS, VICTIMS) if KILLS else zip(WAYS, VICTIMS * 2, strict=True))
UNDISTURBED: dict[str, int] = {}
"""By digest: the bytes that the Hub sends for a pull without a kill."""


@asynccontextmanager
async def staged(session: aiohttp.ClientSession, way: Way) -> AsyncIterator[Stage]:
    async with serving_hub(way) as hub, StandInOllama() as ollama:
        yield Stage(hub, StandInVictim(ollama), session)


@pytest.mark.timeout(300 + 30 * KILLS)
@pytest.mark.parametrize(("kind", "victim"), CASES)
async def test_a_kill_costs_only_the_last_bytes(session: aiohttp.ClientSession, kind: str, victim: str) -> None:
    way = WAYS[kind]()
    chance = random.Random(f"{way.name} {victim}")
    if way.digest not in UNDISTURBED:
        async with staged(session, way) as stage:
            UNDISTURBED[way.digest] = await stage.undisturbed(way)
    undisturbed = UNDISTURBED[way.digest]
    for number in range(KILLS or 1):
        async with staged(session, way) as stage:
            sent = await stage.interrupted(way, victim, undisturbed * (number + chance.random()) / (KILLS or 1))
            print(f"{sent - undisturbed} bytes of {undisturbed} were fetched twice")
            assert sent - undisturbed <= LOST
            assert way.digest in stage.ollama.blobs
