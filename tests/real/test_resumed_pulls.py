"""The proxy, Ollama, or both are killed in the middle of a blob: the next pull goes on where it was."""

import random
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.standins.tiny_llama import tiny_llama
from tests.kit.kills import BOTH, LOST, OLLAMA, PROXY, RealVictim, Stage, Way, converted, serving_hub
from tests.kit.real_ollama import running
from tests.kit.tiny_conversions import repository

WAYS: dict[str, Callable[[], Way]] = {
    "bf16": lambda: converted("bf16", tiny_llama()),
    "q4_K_M": lambda: converted("q4_K_M", tiny_llama(shards=2)),
    "experts": lambda: converted("q4_K_M", repository("mixtral")),
}
KILLS = 10
"""Of each victim, spread over the ways."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [PROXY, OLLAMA, BOTH])
async def test_a_kill_costs_only_the_last_bytes(tmp_path: Path, session: aiohttp.ClientSession, victim: str) -> None:
    """And the blob is that of an undisturbed pull. Its header depends on the version of Ollama."""
    chance = random.Random(victim)
    ways = {kind: make() for kind, make in WAYS.items()}
    undisturbed: dict[str, tuple[int, set[str]]] = {}
    for kind, way in ways.items():
        with running(tmp_path / kind) as ollama:
            async with serving_hub(way) as hub:
                undisturbed[kind] = await Stage(hub, RealVictim(ollama), session).undisturbed(way), set(ollama.blobs)
    for number in range(KILLS):
        kind = list(ways)[number % len(ways)]
        size, blobs = undisturbed[kind]
        after = size * (number + chance.random()) / KILLS
        with running(tmp_path / str(number)) as ollama:
            async with serving_hub(ways[kind]) as hub:
                sent = await Stage(hub, RealVictim(ollama), session).interrupted(ways[kind], victim, after)
            assert set(ollama.blobs) == blobs
        print(f"{kind} {victim} after {after / size:.2f}: {sent - size} bytes of {size} were fetched twice")
        assert sent - size <= LOST
