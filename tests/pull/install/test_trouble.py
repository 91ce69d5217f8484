"""A model gets its name whole or not at all, whatever Ollama does."""

import asyncio

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.listener import reset
from proxy.standins.manifests import offered_manifest
from proxy.standins.names import ModelName
from proxy.standins.ollama import StandInOllama
from proxy.standins.responses import ErrorAnswer
from proxy.standins.tiny_llama import tiny_llama
from proxy.store.reclaim import TEMPORARY
from tests.kit.conversions import gguf_digest, weights_of
from tests.kit.interrupted_installs import (
    COPIES,
    NAME,
    NEW,
    OLD,
    QUANTIZED,
    SUCCESS,
    Script,
    Trouble,
    check_clean,
    proxy,
    replace,
    restarting,
    sweep,
    weights_digest,
)
from tests.kit.ollama_log import created
from tests.kit.support import Client, eventually, fetched, settings

WAITING = {"status": "waiting for Ollama to come back"}


async def refused(_: StandInOllama, __: web.Request, ___: Handler) -> web.StreamResponse:
    raise ErrorAnswer("the stand-in was told to refuse", 500)


async def refused_when_done(_: StandInOllama, request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    raise ErrorAnswer("the stand-in was told to refuse", 500)


async def refused_with_the_manifest(_: StandInOllama, request: web.Request, __: Handler) -> web.StreamResponse:
    name = ModelName.parse(orjson.loads(await request.read())["model"])
    assert name is not None
    assert await offered_manifest(name)
    raise ErrorAnswer("the stand-in was told to refuse", 500)


async def unanswered(_: StandInOllama, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ollama does the call, and then breaks the connection."""
    await handler(request)
    reset(request)
    return web.Response()


async def restarted(ollama: StandInOllama, _: web.Request, __: Handler) -> web.StreamResponse:
    """Ollama restarts instead of doing the call."""

    async def restart() -> None:
        await ollama.close()
        await ollama.start()

    restarting.append(asyncio.create_task(restart()))
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(("step", "number"), COPIES)
@pytest.mark.parametrize("trouble", [refused, refused_when_done])
@pytest.mark.parametrize(("name", "verify"), [(NAME, False), (QUANTIZED, True)])
async def test_a_refused_copy_keeps_the_model_for_the_next_pull(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    step: str,
    number: int,
    trouble: Trouble,
    name: str,
    verify: bool,
) -> None:
    async with proxy(hub, ollama, session, verify=verify) as (_, client):
        await replace(client, hub, name)
        script = Script(ollama, step, number, trouble)
        lines = await client.pull(name)
        assert script.was_reached
        assert "Ollama cannot copy" in lines[-1]["error"]
        assert "the stand-in was told to refuse" in lines[-1]["error"]
        is_replaced = number == 2 and trouble is refused_when_done
        assert weights_digest(ollama, name) == gguf_digest(NEW if is_replaced else OLD, name)
        hub.requests.clear()
        assert (await client.pull(name))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights_digest(ollama, name) == gguf_digest(NEW, name)
        check_clean(ollama, name)


@pytest.mark.parametrize("trouble", [unanswered, restarted])
@pytest.mark.parametrize(
    ("name", "verify", "step", "number"),
    [
        (NAME, True, "POST /api/generate", 1),
        (QUANTIZED, True, "POST /api/generate", 1),
        *((NAME, False, *copy) for copy in COPIES),
        *((QUANTIZED, True, *copy) for copy in COPIES),
    ],
)
async def test_a_pull_waits_for_ollama_during_the_copy(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    trouble: Trouble,
    name: str,
    verify: bool,
    step: str,
    number: int,
) -> None:
    async with proxy(hub, ollama, session, verify=verify) as (_, client):
        await replace(client, hub, name)
        script = Script(ollama, step, number, trouble)
        lines = await client.pull(name)
        assert script.was_reached
        assert lines[-1] == SUCCESS
        assert WAITING in lines
        assert weights_digest(ollama, name) == gguf_digest(NEW, name)
        check_clean(ollama, name)
        assert sum(one.body_bytes for one in fetched(hub)) == sum(weights_of(NEW).values())


async def test_a_model_that_ends_ollama_is_named(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Ollama is started again each time, as a service is. The pull ends, and the old model stays."""
    loads: list[str] = []

    async def ends_at_each_load(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/api/generate":
            return await handler(request)
        loads.append(request.path)
        return await restarted(ollama, request, handler)

    async with proxy(hub, ollama, session, verify=True) as (_, client):
        await replace(client, hub, NAME)
        ollama.around = ends_at_each_load
        error = (await client.pull(NAME))[-1]["error"]
        ollama.around = None
        assert error.startswith(f"{NAME} is made, but Ollama went away while it loaded the model, twice;")
        assert "pull.verify = false" in error
        assert len(loads) == 2
        assert weights_digest(ollama, NAME) == gguf_digest(OLD, NAME)
        assert (await client.pull(NAME))[-1] == SUCCESS
        check_clean(ollama, NAME)


async def test_a_pull_waits_for_ollama_during_the_manifest(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    await replace(client, hub, NAME)
    script = Script(ollama, "POST /api/pull", 1, restarted)
    lines = await client.pull(NAME)
    assert script.was_reached
    assert lines[-1] == SUCCESS
    assert WAITING in lines
    assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
    check_clean(ollama, NAME)


async def test_an_ollama_that_stays_away_costs_nothing_later(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama is gone while the model gets its name: the pull is an error, and the next one fetches nothing again."""

    async def gone(ollama: StandInOllama, _: web.Request, __: Handler) -> web.StreamResponse:
        restarting.append(asyncio.create_task(ollama.close()))
        await asyncio.Event().wait()
        raise AssertionError

    async with proxy(hub, ollama, session) as (app, client):
        await replace(client, hub, NAME)
        app.backend.transfer.wait_for_ollama.patience = 0.1
        Script(ollama, "POST /api/copy", 2, gone)
        assert "cannot be reached" in (await client.pull(NAME))[-1]["error"]
        assert weights_digest(ollama, NAME) == gguf_digest(OLD, NAME)
        await ollama.start()
        hub.requests.clear()
        assert (await client.pull(NAME))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
        check_clean(ollama, NAME)


@pytest.mark.parametrize("trouble", [refused, unanswered, restarted])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_left_temporary_model_goes_with_the_next_sweep(
    client: Client, hub: StandInHub, ollama: StandInOllama, trouble: Trouble, number: int
) -> None:
    """The pull succeeds although the temporary model could not be removed."""
    await replace(client, hub, NAME)
    script = Script(ollama, "DELETE /api/delete", number, trouble)
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert script.was_reached
    assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
    await eventually(lambda: all(task.done() for task in restarting))
    await sweep(client)
    check_clean(ollama, NAME)
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)


@pytest.mark.parametrize("asked_for", [False, True])
async def test_a_refused_manifest_becomes_a_create(
    client: Client, hub: StandInHub, ollama: StandInOllama, caplog: pytest.LogCaptureFixture, asked_for: bool
) -> None:
    """Ollama asked for the manifest, so the address of the proxy is right."""
    await replace(client, hub, NAME)
    Script(ollama, "POST /api/pull", 1, refused_with_the_manifest if asked_for else refused)
    assert (await client.pull(NAME))[-1] == SUCCESS
    [body] = created(ollama)
    assert body["files"] == {"model.gguf": gguf_digest(NEW, NAME)}
    assert "quantize" not in body
    assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
    check_clean(ollama, NAME)
    [line] = [record.message for record in caplog.records if "is made by Ollama's create" in record.message]
    assert ("does not pull it from the proxy" in line) == asked_for
    assert ("ollama.advertise_url" in line) != asked_for


class CreateInstead:
    """Refuses every manifest, so that the proxy asks for a create. Ollama restarts instead of the first creates."""

    def __init__(self, ollama: StandInOllama) -> None:
        self._ollama = ollama
        self.restarts = False
        ollama.around = self

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/api/pull" and TEMPORARY.fullmatch(orjson.loads(await request.read())["model"]):
            return await refused(self._ollama, request, handler)
        if request.path == "/api/create" and self.restarts:
            return await restarted(self._ollama, request, handler)
        return await handler(request)


@pytest.mark.parametrize(
    ("trouble", "error"), [("write /models/blobs/x: no space left on device", "no space left"), (None, "broke off")]
)
async def test_an_interrupted_create_keeps_the_old_model(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    trouble: str | None,
    error: str,
) -> None:
    """The next pull fetches nothing again."""
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, QUANTIZED)
        old = weights_digest(ollama, QUANTIZED)
        script = CreateInstead(ollama)
        script.restarts = trouble is None
        ollama.fail_create = trouble
        assert error in (await client.pull(QUANTIZED))[-1]["error"]
        assert weights_digest(ollama, QUANTIZED) == old
        ollama.fail_create = None
        script.restarts = False
        await asyncio.gather(*restarting)
        hub.requests.clear()
        assert (await client.pull(QUANTIZED))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights_digest(ollama, QUANTIZED) == gguf_digest(NEW, QUANTIZED)
        check_clean(ollama, QUANTIZED)


async def test_files_that_ollama_rejects_are_removed(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, QUANTIZED)
        old = weights_digest(ollama, QUANTIZED)
        Script(ollama, "POST /api/pull", 1, refused)
        ollama.fail_create = "unsupported architecture"
        assert "unsupported architecture" in (await client.pull(QUANTIZED))[-1]["error"]
        assert weights_digest(ollama, QUANTIZED) == old
        check_clean(ollama, QUANTIZED)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("name", [NAME, QUANTIZED])
async def test_an_unrecorded_model_is_found_by_the_next_pull(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, name: str, cancelled: bool
) -> None:
    """The journal has another model's record under its name."""
    await replace(client, hub, name)
    ollama.requests.clear()
    assert (await client.pull(name))[-1] == SUCCESS
    looks = sum(one.path == "/api/tags" for one in ollama.requests)
    newest = tiny_llama(seed=3, shards=2)
    hub.repositories["acme/tiny"].update(newest)
    script = Script(ollama, "GET /api/tags", looks, None if cancelled else refused)
    pulling = asyncio.create_task(client.pull(name))
    if cancelled:
        await eventually(script.held.is_set)
        app.jobs.all()[0].cancel("enough")
        script.go.set()
    assert (await pulling)[-1] == ({"error": "enough"} if cancelled else SUCCESS)
    assert script.was_reached
    assert weights_digest(ollama, name) == gguf_digest(newest, name)
    await eventually(lambda: app.jobs.all()[0].ended)
    hub.requests.clear()
    for _ in range(2):
        assert (await client.pull(name))[-1] == SUCCESS
        assert not fetched(hub)
    assert weights_digest(ollama, name) == gguf_digest(newest, name)
    check_clean(ollama, name)


@pytest.mark.parametrize("name", [NAME, QUANTIZED])
async def test_a_cancelled_recreate_is_found_by_the_next_pull(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, name: str
) -> None:
    """The pull that changed only settings was cancelled while the model was made."""
    async with proxy(hub, ollama, session) as (_, client):
        hub.add("acme/tiny", NEW)
        assert (await client.pull(name))[-1] == SUCCESS
    config = settings(
        hub.endpoint,
        ollama.url,
        ollama={"reclaim": True},
        models={"hf.co/acme/tiny": {"template": "{{ .Prompt }}!"}},
    )
    async with App(config) as app:
        client = Client(app.address.url, session)
        script = Script(ollama, "POST /api/pull", 1)
        pulling = asyncio.create_task(client.pull(name))
        await eventually(script.held.is_set)
        app.jobs.all()[0].cancel("enough")
        script.go.set()
        assert (await pulling)[-1] == {"error": "enough"}
        await eventually(lambda: app.jobs.all()[0].ended)
        hub.requests.clear()
        ollama.requests.clear()
        assert (await client.pull(name))[-1] == SUCCESS
        assert not fetched(hub)
        assert not [one for one in ollama.requests if one.path == "/api/create"]
    assert ollama.models[name].template == "{{ .Prompt }}!"
    assert weights_digest(ollama, name) == gguf_digest(NEW, name)
    check_clean(ollama, name)
