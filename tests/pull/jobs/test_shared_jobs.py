"""Clients of the same model share one job; a job outlives clients that leave."""

import asyncio

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import weights_of
from tests.kit.job_clients import (
    GGUF_NAME,
    NAME,
    SAME_NAME,
    SLOW,
    SUCCESS,
    WAYS,
    Attached,
    fetched_bytes,
    named_models,
    newest,
    start_transfer,
    wait_for_make,
    weights_fetched,
)
from tests.kit.ollama_log import created, weight_uploads
from tests.kit.proxying import proxying
from tests.kit.support import Client, digest_of, eventually, making
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector


async def test_two_clients_of_one_name_share_one_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama
) -> None:
    """The names differ in case."""
    files = tiny_llama(shards=3)
    hub.add("acme/tiny", files)
    hub.line = SLOW
    first = await start_transfer(app, client)
    seen = first.completed
    second = Attached(client, SAME_NAME)
    await eventually(lambda: len(second.lines) > 3)
    assert len(app.jobs.all()) == 1
    assert newest(app).clients == 2
    hub.line = None
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named_models(ollama) == [NAME]
    assert fetched_bytes(hub) == sum(weights_of(files).values())
    assert len(weight_uploads(ollama)) == 1
    assert second.lines[0] == {"status": "pulling manifest"}
    present = second.lines[1:4]
    assert {bar["digest"]: bar["total"] for bar in present} == weights_of(files)
    assert seen <= sum(bar.get("completed", 0) for bar in present) < sum(weights_of(files).values())
    assert second.statuses == first.statuses
    last = [{line["digest"]: line for line in one.lines if "digest" in line} for one in (first, second)]
    assert last[0] == last[1]


async def test_a_client_without_a_stream_joins_the_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await start_transfer(app, client)
    second = asyncio.create_task(client.pull_at_once(SAME_NAME))
    await eventually(lambda: newest(app).clients == 2)
    hub.line = None
    assert await second == (200, SUCCESS)
    assert await first.end() == SUCCESS
    assert named_models(ollama) == [NAME]
    assert fetched_bytes(hub) == size


async def test_a_late_client_gets_earlier_and_later_lines(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """It attaches while the model is made."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, NAME)
    await eventually(lambda: making(ollama.requests))
    second = Attached(client, NAME)
    await eventually(lambda: second.statuses == ["pulling manifest", "verifying sha256 digest"])
    assert second.completed == size
    ollama.hold_making.set()
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named_models(ollama) == [NAME]


async def test_one_client_that_leaves_changes_nothing_for_others(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Even with `pull.linger = 0`."""
    async with proxying(hub, ollama, session, pull={"linger": 0}) as (app, client):
        first = await start_transfer(app, client)
        stays = [Attached(client, NAME), Attached(client, NAME)]
        await eventually(lambda: newest(app).clients == 3)
        await first.leave()
        await eventually(lambda: newest(app).clients == 2)
        reached = stays[0].completed
        await eventually(lambda: stays[0].completed > reached)
        ollama.hold_making = asyncio.Event()
        hub.line = None
        await eventually(lambda: making(ollama.requests))
        await stays.pop().leave()
        await eventually(lambda: newest(app).clients == 1)
        ollama.hold_making.set()
        assert await stays[0].end() == SUCCESS
        assert len(app.jobs.all()) == 1
    assert fetched_bytes(hub) == size


async def test_a_new_client_joins_a_lingering_job(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await start_transfer(app, client)
    await first.leave()
    await eventually(lambda: newest(app).clients == 0)
    left_at = newest(app).progress.completed
    await eventually(lambda: newest(app).progress.completed > left_at)
    second = Attached(client, NAME)
    await eventually(lambda: second.completed > left_at)
    hub.line = None
    assert await second.end() == SUCCESS
    assert fetched_bytes(hub) == size
    assert len(app.jobs.all()) == 1
    assert named_models(ollama) == [NAME]


async def test_a_lingering_job_makes_its_model(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await start_transfer(app, client)
    await first.leave()
    await eventually(lambda: newest(app).clients == 0)
    hub.line = None
    await eventually(lambda: newest(app).state == "done")
    assert NAME in ollama.models


@pytest.mark.parametrize("linger", [0, 0.3])
async def test_an_abandoned_job_keeps_its_finished_files(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, small_spans: int, linger: float
) -> None:
    """The job ends after `pull.linger`. The next pull moves only unfinished files."""
    files = {"model-Q8_0.gguf": tiny_gguf("Q8_0"), "mmproj-F16.gguf": tiny_projector(rows=4000)}
    hub.add("acme/tiny", files)
    last = "mmproj-F16.gguf"
    hub.faults.append(Fault(last, "hang", after=100_000))
    finished = set(weights_of(files)) - {digest_of(files[last])}
    async with proxying(hub, ollama, session, pull={"linger": linger}) as (app, client):
        first = Attached(client, GGUF_NAME)
        await eventually(lambda: finished <= ollama.blobs.keys() and fetched_bytes(hub, last))
        await first.leave()
        await eventually(lambda: newest(app).ended is not None)
        [ended] = orjson.loads((await client.get("/-/pulls"))[1])
        assert ended["state"] == "failed"
        assert "its clients left" in ended["error"]
        assert not making(ollama.requests)
        hub.requests.clear()
        assert (await client.pull(GGUF_NAME))[-1] == SUCCESS
    assert all(last in request.path for request in weights_fetched(hub))
    assert fetched_bytes(hub) == len(files[last])
    assert named_models(ollama) == [GGUF_NAME]


async def test_a_client_that_returns_in_time_keeps_the_job(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    linger = 2.0
    async with proxying(hub, ollama, session, pull={"linger": linger}) as (app, client):
        first = await start_transfer(app, client)
        await first.leave()
        await eventually(lambda: newest(app).clients == 0)
        second = Attached(client, NAME)
        await eventually(lambda: newest(app).clients == 1)
        await asyncio.sleep(linger + 0.2)
        hub.line = None
        assert await second.end() == SUCCESS
        assert len(app.jobs.all()) == 1
    assert fetched_bytes(hub) == size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_create_ends_although_all_clients_left(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    """Even with `pull.linger = 0`."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, pull={"linger": 0}, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await wait_for_make(ollama, way)
        await first.leave()
        await eventually(lambda: newest(app)._is_abandoned)
        ollama.hold_making.set()
        await eventually(lambda: newest(app).ended)
        assert (newest(app).state, newest(app).error) == ("done", None)
    assert list(ollama.models) == [NAME]
    assert bool(created(ollama)) == bool(way)
    assert ollama.abandoned_creates == 0


async def test_a_job_that_waits_for_a_create_can_be_abandoned(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, size: int
) -> None:
    """Its last client leaves while the create of another model runs."""
    hub.add("acme/other", tiny_llama(seed=1))
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, pull={"linger": 0}) as (app, client):
        first = Attached(client, "hf.co/acme/other")
        await eventually(lambda: making(ollama.requests))
        second = Attached(client, NAME)
        await eventually(lambda: second.waited == ["waiting for another model to be made"])
        await second.leave()
        await eventually(lambda: newest(app).ended)
        assert newest(app).state == "failed"
        ollama.hold_making.set()
        assert await first.end() == SUCCESS
    assert list(ollama.models) == ["hf.co/acme/other:latest"]
