"""Removing a model cancels its running pull."""

import asyncio

import aiohttp
import pytest
from aiohttp import hdrs

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import weights_of
from tests.kit.job_clients import (
    NAME,
    SAME_NAME,
    SLOW,
    SUCCESS,
    WAYS,
    Attached,
    fetched_bytes,
    named_models,
    newest,
    remove,
    start_transfer,
    wait_for_make,
)
from tests.kit.ollama_log import bodies
from tests.kit.proxying import proxying
from tests.kit.support import Client, eventually, making


@pytest.mark.parametrize("body", [{"model": SAME_NAME}, {"name": NAME}, {"Model": NAME, "name": "other"}])
async def test_removing_a_model_in_transfer_ends_its_pull(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes], body: dict[str, str]
) -> None:
    """The answer is 200 although Ollama does not have the model yet."""
    hub.add("acme/other", tiny_llama(seed=1))
    first = await start_transfer(app, client)
    second = asyncio.create_task(client.pull_at_once(NAME))
    await eventually(lambda: newest(app).clients == 2)
    assert await remove(client, **body) == (200, b"")
    error = (await first.end())["error"]
    assert "was removed while it was pulled" in error
    assert await second == (500, {"error": error})
    assert (newest(app).state, newest(app).error) == ("failed", error)
    assert len(bodies(ollama, "/api/delete")) == 1
    hub.line = None
    assert (await client.pull("hf.co/acme/other"))[-1] == SUCCESS
    assert named_models(ollama) == ["hf.co/acme/other:latest"]
    assert not weights_of(files).keys() & ollama.blobs.keys()
    assert fetched_bytes(hub, "acme/tiny/") < len(files["model.safetensors"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_create_ends_before_its_model_is_removed(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await wait_for_make(ollama, way)
        removing = asyncio.create_task(remove(client, model=NAME))
        assert "was removed while it was pulled" in (await first.end())["error"]
        assert not removing.done()
        assert not bodies(ollama, "/api/delete")
        ollama.hold_making.set()
        assert await removing == (200, b"")
        assert newest(app).state == "failed"
        assert len(named_models(ollama)) == 1
        assert ollama.requests[-1].path == "/api/delete"
    assert ollama.abandoned_creates == 0
    assert NAME not in ollama.models


async def test_a_client_without_a_stream_gets_the_removal(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """At once, although the create still runs."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = asyncio.create_task(client.pull_at_once(NAME))
    await eventually(lambda: making(ollama.requests))
    removing = asyncio.create_task(remove(client, model=NAME))
    status, answer = await first
    assert not removing.done()
    ollama.hold_making.set()
    assert await removing == (200, b"")
    assert (status, list(answer)) == (500, ["error"])
    assert "was removed while it was pulled" in answer["error"]


async def test_a_removal_continues_without_its_client(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    hub.line = None
    ollama.hold_making = asyncio.Event()
    first = Attached(client, NAME)
    await eventually(lambda: making(ollama.requests))
    removing = asyncio.create_task(remove(client, model=NAME))
    await first.end()
    removing.cancel()
    await asyncio.wait([removing])
    ollama.hold_making.set()
    await eventually(lambda: bodies(ollama, "/api/delete"))
    await eventually(lambda: NAME not in ollama.models)
    assert ollama.abandoned_creates == 0


async def test_removing_a_model_during_its_update(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    """Ollama's old model is removed too."""
    hub.line = None
    assert (await client.pull(NAME))[-1] == SUCCESS
    hub.repositories["acme/tiny"].update(tiny_llama(seed=1))
    hub.line = SLOW
    second = await start_transfer(app, client)
    assert NAME in ollama.models
    assert await remove(client, model=NAME) == (200, b"")
    assert set(await second.end()) == {"error"}
    assert not ollama.models


async def test_removing_another_model_leaves_a_pull_alone(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await start_transfer(app, client)
    assert (await remove(client, model="hf.co/acme/tiny:q8_0"))[0] == 404
    hub.line = None
    assert await first.end() == SUCCESS


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "hf.co/acme/tiny:q4_K_M"}',
        b'{"name": "HF.CO/acme/tiny:q4_K_M"}',
        b'{"model": "hf.co/acme/none"}',
        b'{"model": "llama3.2"}',
        b'{"model": "a b"}',
        b'{"model": ""}',
        b"{",
        b"",
    ],
)
async def test_ollama_answers_the_removal_of_other_models(
    client: Client, hub: StandInHub, ollama: StandInOllama, size: int, body: bytes
) -> None:
    """Of models that are not being pulled."""
    hub.line = None
    answers = []
    for url in (client.url, ollama.url):
        assert (await client.pull(NAME))[-1] == SUCCESS
        async with client.session.delete(f"{url}/api/delete", data=body) as response:
            headers = {name: value for name, value in response.headers.items() if name not in (hdrs.DATE, hdrs.SERVER)}
            answers.append((response.status, headers, await response.read(), list(ollama.models)))
    assert answers[0] == answers[1]


async def test_a_cancelled_pull_can_be_repeated_at_once(
    client: Client, app: App, hub: StandInHub, ollama: StandInOllama, size: int
) -> None:
    first = await start_transfer(app, client)
    removing = asyncio.create_task(remove(client, model=NAME))
    assert set(await first.end()) == {"error"}
    hub.line = None
    assert await removing == (200, b"")
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert [job.state for job in app.jobs.all()] == ["done", "failed"]
    assert list(ollama.models) == [NAME]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reclaim", [False, True])
async def test_a_pull_during_a_waiting_removal(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    size: int,
    way: dict[str, str],
    reclaim: bool,
) -> None:
    """The removal waits for the create of the cancelled pull; the new pull makes the model after the removal."""
    hub.line = None
    ollama.hold_making = asyncio.Event()
    async with proxying(hub, ollama, session, ollama={"reclaim": reclaim} | way) as (app, client):
        first = Attached(client, NAME)
        await wait_for_make(ollama, way)
        removing = asyncio.create_task(remove(client, model=NAME))
        assert set(await first.end()) == {"error"}
        second = Attached(client, NAME)
        await eventually(lambda: second.waited)
        assert not removing.done()
        ollama.hold_making.set()
        assert await removing == (200, b"")
        assert await second.end() == SUCCESS
        assert [job.state for job in app.jobs.all()] == ["done", "failed"]
    assert list(ollama.models) == [NAME]
    assert ollama.abandoned_creates == 0
    # A model that a create made has the GGUF for itself alone, so the GGUF is deleted with it.
    assert fetched_bytes(hub) == (2 * size if way else size)
