"""Pulls beyond `pull.jobs` wait; models are created one at a time."""

import asyncio
from collections.abc import Iterable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.job_clients import SLOW, SUCCESS, WAYS, Attached, named_models, remove, start_transfer, weights_fetched
from tests.kit.proxying import proxying
from tests.kit.support import MAKING, Client, eventually, making


def repositories(hub: StandInHub, count: int) -> list[str]:
    """The names of so many different models, in F16."""
    for number in range(count):
        hub.add(f"acme/m{number}", tiny_llama(seed=number))
    hub.line = SLOW
    return [f"hf.co/acme/m{number}:f16" for number in range(count)]


async def in_line(app: App, client: Client, names: Iterable[str]) -> list[Attached]:
    """A client for each name, attached in this order."""
    clients = []
    for name in names:
        one = Attached(client, name)
        await eventually(lambda one=one: one.completed or one.waited)  # type: ignore[misc]
        clients.append(one)
    return clients


def fetched_repositories(hub: StandInHub) -> list[str]:
    """The repositories whose weights were fetched, in order."""
    return list(dict.fromkeys(request.path.split("/")[3] for request in weights_fetched(hub)))


@pytest.mark.parametrize("jobs", [1, 2])
async def test_pulls_beyond_the_limit_wait_in_order(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, jobs: int
) -> None:
    """They show how many pulls are before them."""
    names = repositories(hub, 5)
    async with proxying(hub, ollama, session, pull={"jobs": jobs}) as (app, client):
        clients = await in_line(app, client, names)
        states = [str(job.state) for job in reversed(app.jobs.all())]
        assert states == ["transferring"] * jobs + ["waiting"] * (5 - jobs)
        assert fetched_repositories(hub) == [f"m{number}" for number in range(jobs)]
        hub.line = None
        assert [await one.end() for one in clients] == [SUCCESS] * 5
    # If two places become free at once, the two pulls reach the Hub in any order.
    order = fetched_repositories(hub)
    assert sorted(order) == [f"m{number}" for number in range(5)]
    assert all(abs(place - int(name[1:])) < jobs for place, name in enumerate(order)), order
    for place, one in enumerate(clients):
        waited = [line for line in one.waited if line != "waiting for another model to be made"]
        assert waited == [f"waiting for {before} pulls" for before in range(place, jobs - 1, -1)]
    if jobs == 1:
        assert named_models(ollama) == names
    assert sorted(ollama.models) == sorted(names)


async def test_a_cancelled_or_abandoned_pull_leaves_the_queue(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 4)
    async with proxying(hub, ollama, session, pull={"jobs": 1, "linger": 0}) as (app, client):
        clients = await in_line(app, client, names)
        assert await remove(client, model=names[1]) == (200, b"")
        assert "was removed" in (await clients[1].end())["error"]
        await eventually(lambda: clients[3].waited[-1] == "waiting for 2 pulls")
        await clients[2].leave()
        await eventually(lambda: clients[3].waited[-1] == "waiting for 1 pulls")
        hub.line = None
        assert [await clients[0].end(), await clients[3].end()] == [SUCCESS] * 2
    assert fetched_repositories(hub) == ["m0", "m3"]
    assert named_models(ollama) == [names[0], names[3]]


async def test_a_failed_pull_admits_the_next(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 2)
    hub.faults.append(Fault("model.safetensors", "corrupt", after=3_000_000, times=2))
    async with proxying(hub, ollama, session, pull={"jobs": 1}) as (app, client):
        clients = await in_line(app, client, names)
        hub.line = None
        assert "arrived damaged" in (await clients[0].end())["error"]
        assert await clients[1].end() == SUCCESS
    assert list(ollama.models) == [names[1]]


async def test_pulls_without_bytes_do_not_wait(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    names = repositories(hub, 2)
    async with proxying(hub, ollama, session, pull={"jobs": 1}) as (app, client):
        hub.line = None
        assert (await client.pull(names[1]))[-1] == SUCCESS
        hub.line = SLOW
        first = await start_transfer(app, client, names[0])
        lines = await client.pull(names[1])
        refused = await client.pull("hf.co/acme/m1:iq2_xxs")
        assert lines[-1] == SUCCESS
        assert "needs an importance matrix" in refused[-1]["error"]
        assert not [line for line in lines + refused if str(line.get("status")).startswith("waiting")]
        assert app.jobs.all()[-1].state == "done"
        assert first.lines[-1].get("completed", 0) > 0
        assert [job.state for job in app.jobs.all() if job.ended is None] == ["transferring"]
        hub.line = None
        assert await first.end() == SUCCESS


# Creates


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_models_are_made_one_at_a_time(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, way: dict[str, str], reclaim: bool
) -> None:
    at_once: list[int] = []
    running = 0

    async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal running
        if request.path not in MAKING or not making(
            [LoggedRequest("", "", request.path, request.headers, await request.read())]
        ):
            return await handler(request)
        running += 1
        at_once.append(running)
        try:
            await asyncio.sleep(0.05)
            return await handler(request)
        finally:
            running -= 1

    ollama.around = watched
    names = repositories(hub, 4)
    hub.line = None
    async with proxying(hub, ollama, session, pull={"jobs": 4}, ollama={"reclaim": reclaim} | way) as (_, client):
        ends = await asyncio.gather(*(client.pull(name) for name in names))
    assert [lines[-1] for lines in ends] == [SUCCESS] * 4
    # A pull that does not reach the proxy comes before each create.
    assert at_once == [1] * (8 if way else 4)


async def test_a_pull_shows_that_it_waits_for_a_create(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama
) -> None:
    names = repositories(hub, 2)
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, names[0])
    await eventually(lambda: making(ollama.requests))
    second = Attached(client, names[1])
    await eventually(lambda: second.waited == ["waiting for another model to be made"])
    assert len(making(ollama.requests)) == 1
    assert not first.waited
    ollama.hold_making.set()
    assert [await first.end(), await second.end()] == [SUCCESS, SUCCESS]
    assert named_models(ollama) == names
