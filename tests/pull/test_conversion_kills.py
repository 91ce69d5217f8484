"""The proxy is killed at any moment of a conversion: at every request that changes Ollama, and at random moments.

The next pull succeeds, fetches nothing that Ollama has already, and leaves nothing behind.
"""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.standins.hub import StandInHub
from proxy.standins.listener import reset
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.forked import ForkedProcess, serving_forked
from tests.kit.support import Client, digest_of, fetched

SHARDS = 4
HUB_RATE = 4_000_000
CREATE_SECONDS = 0.1
RANDOM_KILLS = int(os.environ.get("RANDOM_KILLS", "1"))
"""Random kills in each life, in addition to those at every step.

By hand there can be more; then there is a kill at each small blob too, and not only at the first two and the last.
"""
SMALL_BLOB = "POST /api/blobs/small"
LARGE = 1_000_000
"""A blob of at least so many bytes is not a small file."""
OWN_NAME = re.compile(r"ollama-hf-proxy/", re.IGNORECASE)


@dataclass(frozen=True)
class Way:
    """One kind of pull. `replaces`: an older model of that name is there.

    At a kill, steps with even numbers are done, and those with odd numbers have not begun; with `odd`, the opposite.
    """

    tag: str
    replaces: bool
    verify: bool
    odd: bool

    def __str__(self) -> str:
        traits = {"replaces": self.replaces, "verify": self.verify, "odd": self.odd}
        return "-".join([self.tag, *(name for name, has in traits.items() if has)])

    def weights(self, files: Mapping[str, bytes]) -> str:
        """The digest of the model's weights."""
        return digest_of(converted(files, quantization=self.tag.upper()))


WAYS = [
    Way("bf16", replaces=True, verify=False, odd=False),
    Way("bf16", replaces=True, verify=True, odd=True),
    Way("q8_0", replaces=False, verify=False, odd=False),
    Way("q4_K_M", replaces=True, verify=False, odd=True),
    Way("q4_K_M", replaces=True, verify=True, odd=False),
]


class Kill(NamedTuple):
    """At the n-th request that changes Ollama, before or after Ollama does it; or after some seconds."""

    step: int = 0
    is_done: bool = False
    seconds: float = 30.0


@dataclass
class Life:
    """A Hub and an Ollama for a series of proxies that are killed.

    `steps` are the requests that change Ollama, and those that list its models: the last one records the pull.
    """

    way: Way
    hub: StandInHub
    ollama: StandInOllama
    session: aiohttp.ClientSession
    steps: list[str] = field(default_factory=list)
    commits: int = 0
    kill: Kill | None = None
    process: ForkedProcess | None = None

    @property
    def name(self) -> str:
        return f"hf.co/acme/tiny:{self.way.tag}"

    @property
    def weights(self) -> str | None:
        """The model's layers. If the model is there, all its blobs have to be there."""
        model = self.ollama.models.get(self.name)
        if model is None:
            return None
        assert {layer.digest for layer in model.layers} <= self.ollama.blobs.keys()
        return next(layer.digest for layer in model.layers if layer.kind == "model")

    def commit(self) -> dict[str, bytes]:
        """New weights in each round."""
        self.commits += 1
        files = tiny_llama(seed=self.commits, shards=SHARDS)
        if "acme/tiny" in self.hub.repositories:
            self.hub.repositories["acme/tiny"].update(files)
        else:
            self.hub.add("acme/tiny", files)
        return files

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_look = request.method not in ("POST", "DELETE") or request.path == "/api/show"
        if is_look and request.path != "/api/tags":
            return await handler(request)
        size = int(request.headers.get("Content-Length", 0))
        blob = f"/api/blobs/{'large' if size > LARGE else 'small'}"
        path = blob if request.path.startswith("/api/blobs/") else request.path
        if path == "/api/create":
            await asyncio.sleep(CREATE_SECONDS)
        self.steps.append(f"{request.method} {path}")
        is_due = self.kill is not None and self.kill.step == len(self.steps)
        if is_due and self.kill is not None and not self.kill.is_done:
            await self.end()
            reset(request)
            return web.Response()
        response = await handler(request)
        if is_due:
            await self.end()
        return response

    async def end(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def pull_and_die(self, client: Client, kill: Kill) -> None:
        self.kill = kill
        self.steps.clear()

        async def pull() -> None:
            with suppress(aiohttp.ClientError):
                await client.pull(self.name)

        pulling = asyncio.create_task(pull())
        await asyncio.wait([pulling], timeout=kill.seconds)
        await self.end()
        await pulling
        self.kill = None

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Client]:
        arguments = ("--hub", self.hub.endpoint, "--ollama", self.ollama.url)
        async with serving_forked(*arguments, verify=self.way.verify) as (process, url):
            reading = asyncio.create_task(process.stderr.read())  # a process that writes to a full pipe stops
            self.process = process
            try:
                yield Client(url, self.session)
            finally:
                await self.end()
                await reading

    async def remove(self, client: Client) -> None:
        async with client.session.delete(f"{client.url}/api/delete", json={"model": self.name}) as response:
            assert response.status == 200, await response.read()
        assert not self.ollama.blobs
        assert not self.ollama.models


@asynccontextmanager
async def a_life(session: aiohttp.ClientSession, way: Way) -> AsyncIterator[Life]:
    async with StandInHub() as hub, StandInOllama() as ollama:
        hub.rate = HUB_RATE
        life = Life(way, hub, ollama, session)
        ollama.around = life.answer
        yield life


async def kills(life: Life, chance: random.Random) -> tuple[list[Kill], list[str]]:
    """Kills at every step of an undisturbed pull, and spread over its duration; and the steps."""
    for _ in range(1 + life.way.replaces):
        async with life.proxy() as client:
            files = life.commit()
            life.steps.clear()
            began = time.monotonic()
            assert (await client.pull(life.name))[-1] == {"status": "success"}
            seconds = time.monotonic() - began
            assert life.weights == life.way.weights(files)
            steps = list(life.steps)
            if not life.way.replaces:
                await life.remove(client)
    small = [number for number, step in enumerate(steps, 1) if step == SMALL_BLOB]
    alike = set(small[2:-1]) if RANDOM_KILLS == 1 else set()
    with_steps = [
        Kill(number, number % 2 == life.way.odd) for number in range(1, len(steps) + 1) if number not in alike
    ]
    times = [Kill(seconds=seconds * (number + chance.random()) / RANDOM_KILLS) for number in range(RANDOM_KILLS)]
    return [*with_steps, *times], steps


async def live(life: Life) -> tuple[Counter[str], list[str]]:
    """How often Ollama had the model, the GGUF or nothing when the proxy was killed; and the steps of the kills."""
    way, chance = life.way, random.Random(f"{life.way}")
    planned, steps = await kills(life, chance)
    states = Counter[str]()
    async with AsyncExitStack() as proxies:
        client = await proxies.enter_async_context(life.proxy())
        for kill in planned:
            old = life.weights
            assert (old is not None) == way.replaces
            files = life.commit()
            weights = way.weights(files)
            await life.pull_and_die(client, kill)

            why = f"{way}, {kill}, after {life.steps}"
            assert life.weights in (old, weights), why
            has = "model" if life.weights == weights else "gguf" if weights in life.ollama.blobs else "nothing"
            states[has] += 1
            client = await proxies.enter_async_context(life.proxy())
            life.hub.requests.clear()
            life.steps.clear()
            assert (await client.pull(life.name))[-1] == {"status": "success"}, why
            assert life.weights == weights, why
            assert has == "nothing" or not fetched(life.hub), why
            assert "POST /api/create" not in life.steps, why
            assert [name for name in life.ollama.models if OWN_NAME.search(name)] == [], why
            assert set(life.ollama.blobs) == life.ollama.models.used_digests(), why
            if not way.replaces:
                await life.remove(client)
        if way.replaces:
            await life.remove(client)
    return states, steps


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_the_pull_after_a_kill_at_any_moment(session: aiohttp.ClientSession, way: Way) -> None:
    """It succeeds, fetches nothing that Ollama has already, and leaves nothing."""
    async with a_life(session, way) as life:
        states, steps = await live(life)
    # The kills have to hit different states.
    assert min(states[has] for has in ("nothing", "gguf", "model")) >= 1, states
    wanted = {SMALL_BLOB, "POST /api/blobs/large", "POST /api/pull", "POST /api/copy"}
    wanted |= {"POST /api/generate"} if way.verify else set()
    wanted |= {"DELETE /api/delete"} if way.replaces else set()
    assert wanted <= set(steps), steps
