"""The proxy, Ollama, or both are killed in the middle of a blob: the next pull goes on where it was."""

import random
from pathlib import Path

import aiohttp
import pytest

from proxy.standins.tiny_llama import tiny_llama
from tests.kit.kills import BOTH, LOST, OLLAMA, PROXY, RealVictim, Stage, converted, serving_hub
from tests.kit.real_ollama import running
from tests.kit.tiny_conversions import repository

WAYS = {
    "bf16": converted("bf16", tiny_llama()),
    "q4_K_M": converted("q4_K_M", tiny_llama(shards=2)),
    "experts": converted("q4_K_M", repository("mixtral")),
}
KILLS = 10
"""Of each victim, spread over the ways."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", [PROXY, OLLAMA, BOTH])
async def test_a_kill_costs_only_the_last_bytes(tmp_path: Path, session: aiohttp.ClientSession, victim: str) -> None:
    chance = random.Random(victim)
    for number in range(KILLS):
        way = list(WAYS.values())[number % len(WAYS)]
        size = sum(len(content) for path, content in way.files.items() if path.endswith(".safetensors"))
        after = size * (number + chance.random()) / KILLS
        with running(tmp_path / str(number)) as ollama:
            async with serving_hub(way) as hub:
                stage = Stage(hub, RealVictim(ollama), session)
                sent = await stage.interrupted(way, victim, after)
        print(f"{way.name} {victim} after {after / size:.2f}: {sent - size} bytes of {size} were fetched twice")
        assert sent - size <= LOST
