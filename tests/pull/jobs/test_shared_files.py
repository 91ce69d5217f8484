"""Pulls of different models share the transfer of a file that both need."""

import asyncio
import random
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.conversions import weights_of
from tests.kit.job_clients import (
    NAME,
    SAME_NAME,
    SUCCESS,
    Attached,
    fetched_bytes,
    named_models,
    newest,
    remove,
    start_transfer,
)
from tests.kit.ollama_log import weight_uploads
from tests.kit.proxying import proxying
from tests.kit.support import Client, eventually
from tests.kit.tiny_gguf import tiny_gguf


@pytest.fixture
def gguf(hub: StandInHub, files: dict[str, bytes], small_spans: int) -> dict[str, bytes]:
    """The files that three repositories share."""
    gguf = {"model-Q8_0.gguf": tiny_gguf("Q8_0", blocks=45)}
    for name in ("acme/gguf", "acme/copy", "acme/third"):
        hub.add(name, gguf | {"README.md": name.encode()})
    return gguf


GGUFS = ("hf.co/acme/gguf:q8_0", "hf.co/acme/copy:q8_0")
"""Two repositories have the same file."""

SHARING = [GGUFS, ("hf.co/acme/tiny:q4_K_M", "huggingface.co/acme/tiny:q4_K_M")]
"""And one repository has two names; its GGUF is the same under both."""


@pytest.mark.parametrize("names", SHARING)
async def test_a_file_of_two_models_moves_once(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
) -> None:
    [(digest, size)] = weights_of(gguf if names is GGUFS else files).items()
    first = await start_transfer(app, client, names[0])
    seen = first.completed
    second = await start_transfer(app, client, names[1])
    assert len(app.jobs.all()) == 2
    hub.line = None
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert fetched_bytes(hub) == size
    assert len(weight_uploads(ollama)) == 1
    assert sorted(ollama.models) == sorted(names)
    bars = [line.get("completed", 0) for line in second.lines if line.get("digest") == digest]
    assert next(filter(None, bars)) >= seen
    assert bars[-1] == size


@pytest.mark.parametrize("names", SHARING)
@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_shared_transfer_survives_one_cancelled_pull(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
    cancelled: int,
) -> None:
    both = [await start_transfer(app, client, names[0]), await start_transfer(app, client, names[1])]
    assert await remove(client, model=names[cancelled]) == (200, b"")
    assert set(await both[cancelled].end()) == {"error"}
    stays = both[1 - cancelled]
    reached = stays.completed
    await eventually(lambda: stays.completed > reached)
    hub.line = None
    assert await stays.end() == SUCCESS
    assert list(ollama.models) == [names[1 - cancelled]]
    assert fetched_bytes(hub) == sum(weights_of(gguf if names is GGUFS else files).values())
    assert len(weight_uploads(ollama)) == 1


@pytest.mark.parametrize("names", SHARING)
async def test_a_transfer_that_all_pulls_left_begins_again(
    client: Client,
    app: App,
    hub: StandInHub,
    ollama: StandInOllama,
    files: dict[str, bytes],
    gguf: dict[str, bytes],
    names: tuple[str, str],
) -> None:
    size = sum(weights_of(gguf if names is GGUFS else files).values())
    both = [await start_transfer(app, client, name) for name in names]
    for name, attached in zip(names, both, strict=True):
        await remove(client, model=name)
        await attached.end()
    at_the_end = fetched_bytes(hub)
    assert at_the_end < size
    hub.line = None
    assert (await client.pull(names[1]))[-1] == SUCCESS
    assert fetched_bytes(hub) - at_the_end == size
    assert len(weight_uploads(ollama)) == 2


async def test_a_twice_damaged_file_ends_one_pull_of_two(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, gguf: dict[str, bytes]
) -> None:
    """The other pull tries again on its own."""
    [(digest, size)] = weights_of(gguf).items()
    hub.faults.append(Fault("model-Q8_0.gguf", "corrupt", after=size - 1, times=2))
    both = [await start_transfer(app, client, name) for name in GGUFS]
    hub.line = None
    assert "acme/gguf/model-Q8_0.gguf arrived damaged" in (await both[0].end())["error"]
    assert await both[1].end() == SUCCESS
    assert list(ollama.models) == [GGUFS[1]]
    assert fetched_bytes(hub) == 3 * size
    assert len(weight_uploads(ollama)) == 3
    assert ollama.blobs[digest] == size


async def test_retries_after_a_failed_transfer_are_shared(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, gguf: dict[str, bytes]
) -> None:
    size = sum(weights_of(gguf).values())
    hub.faults.append(Fault("model-Q8_0.gguf", "corrupt", after=size - 1, times=2))
    names = [*GGUFS, "hf.co/acme/third:q8_0"]
    async with proxying(hub, ollama, session, pull={"jobs": 3}) as (app, client):
        all_three = [await start_transfer(app, client, name) for name in names]
        hub.line = None
        ends = [await attached.end() for attached in all_three]
    assert "arrived damaged" in ends[0]["error"]
    assert ends[1:] == [SUCCESS, SUCCESS]
    assert fetched_bytes(hub) == 3 * size


async def test_each_pull_of_a_lost_file_names_its_repository(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, gguf: dict[str, bytes]
) -> None:
    hub.faults.append(Fault("model-Q8_0.gguf", "short", after=200_000, times=-1))
    both = [await start_transfer(app, client, name) for name in GGUFS]
    hub.line = None
    errors = [(await attached.end())["error"] for attached in both]
    assert "acme/gguf/model-Q8_0.gguf" in errors[0]
    assert "acme/copy/model-Q8_0.gguf" in errors[1]
    assert not ollama.models
    assert not weights_of(gguf).keys() & ollama.blobs.keys()


# Crowds


@pytest.fixture
async def crowd(app: App) -> AsyncIterator[Client]:
    """A client without a limit of connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Client(app.address.url, session)


async def test_a_hundred_clients_cost_one_transfer(
    crowd: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    streams = [await start_transfer(app, crowd)]
    streams += [Attached(crowd, (NAME, SAME_NAME)[number % 2]) for number in range(49)]
    answers = [asyncio.create_task(crowd.pull_at_once(NAME)) for _ in range(50)]
    await eventually(lambda: newest(app).clients == 100)
    hub.line = None
    assert [await stream.end() for stream in streams] == [SUCCESS] * 50
    assert await asyncio.gather(*answers) == [(200, SUCCESS)] * 50
    assert len(app.jobs.all()) == 1
    assert len(named_models(ollama)) == 1
    assert fetched_bytes(hub) == size
    assert newest(app).clients == 0


@pytest.mark.parametrize("seed", range(3))
async def test_random_clients_never_disturb_each_other(
    crowd: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int, seed: int
) -> None:
    """They attach and leave at random times."""
    rng = random.Random(seed)
    hub.line = size // 2
    stayed: list[object] = []

    async def visit(comes: float, stays: float | None, *, streams: bool) -> None:
        await asyncio.sleep(comes)
        if stays is None:
            stayed.append((await crowd.pull(NAME))[-1] if streams else (await crowd.pull_at_once(NAME))[1])
            return
        visitor = asyncio.create_task(crowd.post("/api/pull", {"model": NAME, "stream": streams}))
        await asyncio.wait([visitor], timeout=stays)
        if visitor.done():
            stayed.append(orjson.loads((await visitor)[1].splitlines()[-1]))
        visitor.cancel()
        await asyncio.wait([visitor])

    plans = [
        (rng.uniform(0, 2.5), None if rng.random() < 0.3 else rng.uniform(0, 1.5), rng.random() < 0.7)
        for _ in range(60)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(visit(comes, stays, streams=streams) for comes, stays, streams in plans))
    assert len(stayed) >= len([stays for _, stays, _ in plans if stays is None])
    assert all(last == SUCCESS for last in stayed)
    await eventually(lambda: newest(app).ended)
    assert {job.state for job in app.jobs.all()} == {"done"}
    assert fetched_bytes(hub) == size
    assert len(named_models(ollama)) == 1
