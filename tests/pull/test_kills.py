"""The proxy is killed at any moment of a pull: the next pull continues from what is there, and leaves nothing."""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxy.pull import reading
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.forked import ForkedProcess, serving_forked
from tests.kit.support import Client, digest_of, eventually, fetched, making
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

SEEDS = tuple(map(int, os.environ.get("KILL_SEEDS", "8").split()))
"""Each is a test with a Hub and an Ollama of its own. By hand there can be more."""
KILLS = 25
"""Kills for each seed."""
FILES = 2
"""Weights and a projector."""
HUB_RATE = 1_500_000
CREATE_SECONDS = 0.1
REPOSITORIES = ("acme/one", "acme/two")
QUANTIZATIONS = {"q4_K_M": 50, "q8_0": 25, "f16": 12}
"""With so many blocks, both files have about the same size."""
PROJECTOR = "mmproj-F16.gguf"
# Short steps in which much can go wrong: a kill comes right at the request.
TURNING_POINTS = (
    ("POST", "/api/pull", 1),
    ("POST", "/api/copy", 1),
    ("POST", "/api/copy", 2),
    ("DELETE", "/api/delete", 1),
    ("DELETE", "/api/delete", 2),
)
HEADER = f"bytes=0-{reading.GGUF_BYTES - 1}"
"""Bytes of a GGUF that a plan reads."""
OWN_NAME = re.compile(r"ollama-hf-proxy/", re.IGNORECASE)


class Pause(asyncio.Event):
    """A short pause before each model is made."""

    async def wait(self) -> Literal[True]:
        await asyncio.sleep(CREATE_SECONDS)
        return True


@dataclass(frozen=True)
class Moment:
    """The moment when Ollama has so many of the files, or got the n-th request of one kind, and some seconds `later`.

    After `patience` seconds, the moment is now.
    """

    patience: float
    files: int = 0
    later: float = 0.0
    request: tuple[str, str, int] | None = None

    async def come(self, place: "Place", repository: str, quantization: str) -> None:
        def has_come() -> bool:
            if self.request is None:
                return len(place.finished(repository, quantization)) >= self.files
            method, path, number = self.request
            return [(one.method, one.path) for one in place.ollama.requests].count((method, path)) >= number

        with suppress(TimeoutError):  # without a model to replace, there is one copy less
            await eventually(has_come, self.patience)
        await asyncio.sleep(self.later)


def kills(seconds: float, chance: random.Random) -> list[tuple[Moment, str, str]]:
    """Moments to kill pulls that take so many seconds, each with its repository and quantization.

    They are at every turning point of a model that was pulled before, and during the transfer of each file.
    """
    special = [
        (Moment(2 * seconds, request=request), REPOSITORIES[0], quantization)
        for request in TURNING_POINTS
        for quantization in QUANTIZATIONS
    ]
    count = KILLS - len(special)
    usual = [
        (
            Moment(2 * seconds, n % (FILES + 1), chance.random() * seconds / (4 * FILES)),
            REPOSITORIES[n % 2],
            [*QUANTIZATIONS][n % 3],
        )
        for n in range(count)
    ]
    return chance.sample([*usual, *special], KILLS)


@dataclass(frozen=True)
class Place:
    """The stand-ins; `weights` are the digests of each repository's files, by path."""

    hub: StandInHub
    ollama: StandInOllama
    session: aiohttp.ClientSession
    weights: dict[str, dict[str, str]]

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[tuple[ForkedProcess, Client]]:
        async with serving_forked("--hub", self.hub.endpoint, "--ollama", self.ollama.url) as (process, url):
            reading = asyncio.create_task(process.stderr.read())  # a process that writes to a full pipe stops
            try:
                yield process, Client(url, self.session)
            finally:
                if process.returncode is None:
                    process.kill()
                await reading

    def finished(self, repository: str, quantization: str) -> set[str]:
        """The files of a model that Ollama has, by path."""
        weights = self.weights[repository]
        return {path for path in files_of(quantization) if weights[path] in self.ollama.blobs}

    @property
    def own_models(self) -> list[str]:
        """Temporary models and removal models."""
        return [name for name in self.ollama.models if OWN_NAME.search(name)]

    @property
    def orphans(self) -> set[str]:
        """Blobs that no model has."""
        return set(self.ollama.blobs) - self.ollama.models.used_digests()

    def from_the_hub(self, repository: str, paths: Iterable[str]) -> dict[str, int]:
        """The bytes that were fetched of each file, without those of its header."""
        asked = [one for one in fetched(self.hub, f"{repository}/") if one.headers.get(hdrs.RANGE) != HEADER]
        sizes = {path: sum(one.body_bytes for one in asked if f"/{path}?" in one.path) for path in paths}
        return {path: size for path, size in sizes.items() if size}

    def uploads(self) -> Counter[str]:
        """How often Ollama took each blob."""
        return Counter(
            one.path for one in self.ollama.requests if one.path.startswith("/api/blobs/") and one.status == 201
        )


@asynccontextmanager
async def a_place(session: aiohttp.ClientSession) -> AsyncIterator[Place]:
    async with StandInHub() as hub, StandInOllama() as ollama:
        weights = {}
        for seed, repository in enumerate(REPOSITORIES):
            files = {PROJECTOR: tiny_projector(seed=seed, rows=1500)}
            for quantization, blocks in QUANTIZATIONS.items():
                [path] = files_of(quantization) - {PROJECTOR}
                files[path] = tiny_gguf(quantization.upper(), seed=seed, blocks=blocks)
            assert min(map(len, files.values())) > reading.GGUF_BYTES
            hub.add(repository, files)
            weights[repository] = {path: digest_of(content) for path, content in files.items()}
        hub.rate = HUB_RATE
        ollama.hold_making = Pause()
        ollama.around = slow_copies
        yield Place(hub, ollama, session, weights)


async def slow_copies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """There is time for a kill between the temporary model and its name."""
    if request.path == "/api/copy":
        await asyncio.sleep(CREATE_SECONDS)
    return await handler(request)


def files_of(quantization: str) -> set[str]:
    return {f"model-{quantization.upper()}.gguf", PROJECTOR}


async def removed(client: Client, name: str) -> None:
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
        assert response.status == 200, await response.read()


async def interrupted_pull(client: Client, name: str, killing: Coroutine[Any, Any, None]) -> None:
    async def pull() -> None:
        with suppress(aiohttp.ClientError):
            await client.pull(name)

    pulling = asyncio.create_task(pull())
    await killing
    await pulling


async def duration(place: Place, client: Client) -> float:
    """Of an undisturbed pull."""
    repository, seconds = REPOSITORIES[0], 0.0
    for quantization in QUANTIZATIONS:
        name, began = f"hf.co/{repository}:{quantization}", time.monotonic()
        place.hub.requests.clear()
        assert (await client.pull(name))[-1] == {"status": "success"}
        seconds = time.monotonic() - began
        assert len(place.from_the_hub(repository, place.weights[repository])) == FILES
        await removed(client, name)
        assert not place.ollama.blobs
    return seconds


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
async def test_the_pull_after_a_kill_at_any_moment(session: aiohttp.ClientSession, seed: int) -> None:
    """It succeeds, moves no finished file again, and leaves nothing."""
    states = Counter[str]()
    await life_of(session, random.Random(seed), states)
    assert states.total() == KILLS
    # The kills have to hit different states.
    assert min(states[f"{count} of {FILES} files"] for count in range(FILES + 1)) >= 2, states
    assert states["a temporary model"] >= 2, states
    assert states["the model"] >= 2, states


async def life_of(session: aiohttp.ClientSession, chance: random.Random, states: Counter[str]) -> None:
    """`states` counts what Ollama has when the proxy is killed."""
    async with a_place(session) as place, AsyncExitStack() as proxies:
        process, client = await proxies.enter_async_context(place.proxy())
        seconds = await duration(place, client)
        for number, (moment, repository, quantization) in enumerate(kills(seconds, chance)):
            name = f"hf.co/{repository}:{quantization}"
            place.ollama.requests.clear()
            await interrupted_pull(client, name, kill(process, moment.come(place, repository, quantization)))

            finished, is_made = place.finished(repository, quantization), name in place.ollama.models
            temporary = place.own_models
            has = "the model" if is_made else "a temporary model" if temporary else f"{len(finished)} of {FILES} files"
            states[has] += 1
            why = f"kill {number}, {moment}, of {name}: Ollama had {has}"
            if is_made or temporary:
                finished = files_of(quantization)
            process, client = await proxies.enter_async_context(place.proxy())
            place.hub.requests.clear()
            asked = len(place.ollama.requests)
            assert (await client.pull(name))[-1] == {"status": "success"}, why
            assert place.from_the_hub(repository, finished) == {}, why
            assert not {path: times for path, times in place.uploads().items() if times > 1}, why
            if is_made:
                assert not making(place.ollama.requests[asked:]), why
            assert place.own_models == [], why
            assert place.orphans == set(), why
            assert place.ollama.models[name].quantization_level == quantization.upper(), why
            await removed(client, name)
            assert not place.ollama.blobs, why


async def kill(process: ForkedProcess, moment: Coroutine[Any, Any, None]) -> None:
    await moment
    process.kill()
    await process.wait()
