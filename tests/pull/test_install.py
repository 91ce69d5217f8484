"""A model that the proxy has finished gets its name: whatever fails on the way, whoever leaves or sweeps meanwhile."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

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
from proxy.standins.repository import tiny_llama
from proxy.standins.responses import ErrorAnswer
from proxy.store import reclaim
from proxy.store.reclaim import TEMPORARY
from tests.kit.conversions import converted, weights_of
from tests.kit.support import Client, digest_of, eventually, fetched, settings
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:bf16"
QUANTIZED = "hf.co/acme/tiny:q4_K_M"
SUCCESS = {"status": "success"}
WAITING = {"status": "waiting for Ollama to come back"}
OLD, NEW = tiny_llama(seed=1), tiny_llama(seed=2, shards=2)

Trouble = Callable[[StandInOllama, web.Request, Handler], Awaitable[web.StreamResponse]]


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
    """The connection breaks when it is done."""
    await handler(request)
    reset(request)
    return web.Response()


async def restarted(ollama: StandInOllama, _: web.Request, __: Handler) -> web.StreamResponse:
    """Instead of doing it."""

    async def restart() -> None:
        await ollama.close()
        await ollama.start()

    restarting.append(asyncio.create_task(restart()))
    await asyncio.Event().wait()
    raise AssertionError


restarting: list[asyncio.Task[None]] = []


class Script:
    """Does something about the n-th call of a kind, once; `held` waits before and after it until `go` is set."""

    def __init__(self, ollama: StandInOllama, step: str, number: int, trouble: Trouble | None = None) -> None:
        self._ollama = ollama
        self._step = step
        self._left = number
        self._trouble = trouble
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.came = False
        ollama.around = self

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._left -= f"{request.method} {request.path}" == self._step
        if self._left or self.came:
            return await handler(request)
        self.came = True
        if self._trouble is not None:
            return await self._trouble(self._ollama, request, handler)
        self.held.set()
        await self.go.wait()
        return await handler(request)


@pytest.fixture(autouse=True)
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that takes long is not swept in between."""
    restarting.clear()
    monkeypatch.setattr(reclaim, "FIRST_SWEEP_SECONDS", 1000.0)


@asynccontextmanager
async def proxy(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **pull: Any
) -> AsyncIterator[tuple[App, Client]]:
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True, "patience": "10s"}, pull={**pull})
    async with App(config) as app:
        yield app, Client(app.address.url, session)


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[App]:
    async with proxy(hub, ollama, session) as (app, _):
        yield app


def weights(ollama: StandInOllama, name: str) -> str:
    """Of a model whose layers are all there."""
    model = ollama.models[name]
    assert {layer.digest for layer in model.layers} <= ollama.blobs.keys()
    return next(layer.digest for layer in model.layers if layer.kind == "model")


def expected(name: str, files: dict[str, bytes]) -> str:
    """The digest of what the proxy makes of the files for the tag of a name."""
    return digest_of(converted(files, quantization=name.rpartition(":")[2].upper()))


def check_clean(ollama: StandInOllama, *names: str) -> None:
    assert sorted(ollama.models) == sorted(names)
    assert set(ollama.blobs) == ollama.models.used_digests()


async def replace(client: Client, hub: StandInHub, name: str) -> None:
    """A model is there, and another one is to take its place."""
    hub.add("acme/tiny", OLD)
    assert (await client.pull(name))[-1] == SUCCESS
    hub.repositories["acme/tiny"].update({**dict.fromkeys(OLD), **NEW})
    hub.requests.clear()


async def sweep(client: Client, *, dry_run: bool = False) -> dict[str, Any]:
    status, answer = await client.post("/-/reclaim", {"dry_run": dry_run})
    assert status == 200
    found = orjson.loads(answer)
    assert isinstance(found, dict)
    return found


COPIES = [("POST /api/copy", 1), ("POST /api/copy", 2)]


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
        assert script.came
        assert "Ollama cannot call" in lines[-1]["error"]
        assert "the stand-in was told to refuse" in lines[-1]["error"]
        is_replaced = number == 2 and trouble is refused_when_done
        assert weights(ollama, name) == expected(name, NEW if is_replaced else OLD)
        hub.requests.clear()
        assert (await client.pull(name))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights(ollama, name) == expected(name, NEW)
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
        assert script.came
        assert lines[-1] == SUCCESS
        assert WAITING in lines
        assert weights(ollama, name) == expected(name, NEW)
        check_clean(ollama, name)
        assert sum(one.body_bytes for one in fetched(hub)) == sum(weights_of(NEW).values())


async def test_a_pull_waits_for_ollama_during_the_manifest(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    await replace(client, hub, NAME)
    script = Script(ollama, "POST /api/pull", 1, restarted)
    lines = await client.pull(NAME)
    assert script.came
    assert lines[-1] == SUCCESS
    assert WAITING in lines
    assert weights(ollama, NAME) == expected(NAME, NEW)
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
        app.backend.transfer._patience = 0.1
        Script(ollama, "POST /api/copy", 2, gone)
        assert "cannot be reached" in (await client.pull(NAME))[-1]["error"]
        assert weights(ollama, NAME) == expected(NAME, OLD)
        await ollama.start()
        hub.requests.clear()
        assert (await client.pull(NAME))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights(ollama, NAME) == expected(NAME, NEW)
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
    assert script.came
    assert weights(ollama, NAME) == expected(NAME, NEW)
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
    """It came for the manifest, so the address of the proxy is not what is wrong."""
    await replace(client, hub, NAME)
    Script(ollama, "POST /api/pull", 1, refused_with_the_manifest if asked_for else refused)
    assert (await client.pull(NAME))[-1] == SUCCESS
    [body] = [orjson.loads(one.body or b"") for one in ollama.requests if one.path == "/api/create"]
    assert body["files"] == {"model.gguf": expected(NAME, NEW)}
    assert "quantize" not in body
    assert weights(ollama, NAME) == expected(NAME, NEW)
    check_clean(ollama, NAME)
    [line] = [record.message for record in caplog.records if "is made by Ollama's create" in record.message]
    assert ("does not pull it from the proxy" in line) == asked_for
    assert ("ollama.advertise_url" in line) != asked_for


class CreateInstead:
    """Refuses every manifest of a model that is to stay, so that Ollama is asked to create it; restarts instead."""

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
    ("trouble", "said"), [("write /models/blobs/x: no space left on device", "no space left"), (None, "broke off")]
)
async def test_an_interrupted_create_keeps_the_old_model(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    trouble: str | None,
    said: str,
) -> None:
    """The next pull fetches nothing again."""
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, QUANTIZED)
        old = weights(ollama, QUANTIZED)
        script = CreateInstead(ollama)
        script.restarts = trouble is None
        ollama.fail_create = trouble
        assert said in (await client.pull(QUANTIZED))[-1]["error"]
        assert weights(ollama, QUANTIZED) == old
        ollama.fail_create = None
        script.restarts = False
        await asyncio.gather(*restarting)
        hub.requests.clear()
        assert (await client.pull(QUANTIZED))[-1] == SUCCESS
        assert not fetched(hub)
        assert weights(ollama, QUANTIZED) == expected(QUANTIZED, NEW)
        check_clean(ollama, QUANTIZED)


async def test_files_that_ollama_rejects_are_removed(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, QUANTIZED)
        old = weights(ollama, QUANTIZED)
        Script(ollama, "POST /api/pull", 1, refused)
        ollama.fail_create = "unsupported architecture"
        assert "unsupported architecture" in (await client.pull(QUANTIZED))[-1]["error"]
        assert weights(ollama, QUANTIZED) == old
        check_clean(ollama, QUANTIZED)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("name", [NAME, QUANTIZED])
async def test_an_unrecorded_model_is_found_by_the_next_pull(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, name: str, cancelled: bool
) -> None:
    """What is remembered under its name is another one."""
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
    assert script.came
    assert weights(ollama, name) == expected(name, newest)
    await eventually(lambda: app.jobs.all()[0].ended)
    hub.requests.clear()
    for _ in range(2):
        assert (await client.pull(name))[-1] == SUCCESS
        assert not fetched(hub)
    assert weights(ollama, name) == expected(name, newest)
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
    assert weights(ollama, name) == expected(name, NEW)
    check_clean(ollama, name)


# ---- who leaves or sweeps meanwhile

HELD = [("POST /api/pull", 1), *COPIES]


@pytest.mark.parametrize(("step", "number"), HELD)
async def test_a_sweep_leaves_a_running_install_alone(
    client: Client, hub: StandInHub, ollama: StandInOllama, step: str, number: int
) -> None:
    """A dry run names nothing of it either."""
    await replace(client, hub, NAME)
    script = Script(ollama, step, number)
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(script.held.is_set)
    before = set(ollama.blobs), set(ollama.models)
    for dry_run in (True, False):
        found = await sweep(client, dry_run=dry_run)
        # What the model does not need may go at once: the probe of whether Ollama keeps a blob without a name.
        assert found["models"] == []
        assert not {blob["digest"] for blob in found["blobs"]} & ({expected(NAME, NEW)} | ollama.models.used_digests())
        assert (set(ollama.blobs), set(ollama.models)) == before
    script.go.set()
    assert (await pulling)[-1] == SUCCESS
    assert weights(ollama, NAME) == expected(NAME, NEW)
    check_clean(ollama, NAME)


@pytest.mark.parametrize(("step", "number"), HELD)
async def test_a_cancelled_install_ends_and_leaves_nothing(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, step: str, number: int
) -> None:
    await replace(client, hub, NAME)
    script = Script(ollama, step, number)
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(script.held.is_set)
    job = app.jobs.all()[0]
    async with client.session.delete(
        f"{client.url}/-/pulls/{job.id}", headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 200
    assert "was cancelled" in (await pulling)[-1]["error"]
    script.go.set()
    await eventually(lambda: job.ended)
    assert weights(ollama, NAME) == expected(NAME, NEW)
    await sweep(client)
    check_clean(ollama, NAME)
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)


@pytest.mark.parametrize("name", [NAME, QUANTIZED])
@pytest.mark.parametrize("in_transfer", [True, False])
async def test_removing_a_model_during_its_install_removes_all(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, name: str, in_transfer: bool
) -> None:
    """The next pull makes it again."""
    hub.add("acme/tiny", OLD)
    if in_transfer:
        ollama.hold_upload = asyncio.Event()
    script = Script(ollama, "POST /api/copy" if name == NAME else "POST /api/pull", 1)
    pulling = asyncio.create_task(client.pull(name))
    if in_transfer:
        await eventually(lambda: any(one.path.startswith("/api/blobs/") for one in ollama.requests))
        await eventually(lambda: app.jobs.all()[0].state == "transferring")
    else:
        await eventually(script.held.is_set)

    async def remove() -> int:
        async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
            return response.status

    removing = asyncio.create_task(remove())
    assert "was removed while it was pulled" in (await pulling)[-1]["error"]
    script.go.set()
    if ollama.hold_upload is not None:
        ollama.hold_upload.set()
    assert await removing == 200
    assert not ollama.models
    ollama.hold_upload = None
    assert (await client.pull(name))[-1] == SUCCESS
    check_clean(ollama, name)
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
        assert response.status == 200
    check_clean(ollama)


@pytest.mark.parametrize("tag", ["bf16", "q8_0"])
async def test_two_names_share_a_transfer_and_are_two_models(
    client: Client, hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    hub.add("acme/tiny", NEW)
    names = [f"{host}/acme/tiny:{tag}" for host in ("hf.co", "huggingface.co")]
    answers = await asyncio.gather(*(client.pull(name) for name in names))
    assert [lines[-1] for lines in answers] == [SUCCESS, SUCCESS]
    assert sum(one.body_bytes for one in fetched(hub)) == sum(weights_of(NEW).values())
    of = expected(names[0], NEW)
    assert [weights(ollama, name) for name in names] == [of] * 2
    check_clean(ollama, *names)
    for gone, left in ((names[0], names[1:]), (names[1], [])):
        async with client.session.delete(f"{client.url}/api/delete", json={"model": gone}) as response:
            assert response.status == 200
        check_clean(ollama, *left)
        assert all(weights(ollama, name) == of for name in left)


@pytest.mark.parametrize("linger", ["5m", "0s"])
async def test_thirty_clients_share_three_quantizations(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, linger: str
) -> None:
    """The clients come and go at random."""
    hub.add("acme/tiny", NEW)
    hub.rate = 3_000_000
    names = [f"hf.co/acme/tiny:{tag}" for tag in ("bf16", "q8_0", "q4_K_M")]
    chance = random.Random(3)
    async with proxy(hub, ollama, session, linger=linger) as (app, client):

        async def visit(name: str, stays: list[int]) -> dict[str, Any]:
            last: dict[str, Any] = {}
            for count in stays:
                async with session.post(f"{client.url}/api/pull", json={"model": name}) as response:
                    for _ in range(count):
                        if not (line := await response.content.readline()):
                            break
                        last = orjson.loads(line)
                    response.close()
                if last == SUCCESS:
                    return last
            return (await client.pull(name))[-1]

        visits = [(name, [chance.randrange(1, 8) for _ in range(2)]) for name in names * 10]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(visit(name, stays) for name, stays in visits))
        assert answers == [SUCCESS] * 30
        await eventually(lambda: all(job.ended for job in app.jobs.all()))
        await sweep(client)
        assert app.backend.streams.idle
        assert weights(ollama, names[0]) == expected(NAME, NEW)
        assert weights(ollama, names[1]) == expected(names[1], NEW)
        assert weights(ollama, names[2]) == expected(names[2], NEW)
        check_clean(ollama, *names)
        if linger == "5m":
            assert sum(one.body_bytes for one in fetched(hub)) == 3 * sum(weights_of(NEW).values())


async def test_an_unusable_template_is_refused(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Before a weight byte."""
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, NAME)
    models = {"hf.co/acme/tiny": {"template": "{{ .Prompt"}}
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, models=models)
    async with App(config) as app:
        client = Client(app.address.url, session)
        error = (await client.pull(NAME))[-1]["error"]
        assert error == f"Ollama cannot use the template of {NAME}: template: :1: unclosed action"
        assert not fetched(hub)
        assert weights(ollama, NAME) == expected(NAME, OLD)
        await sweep(client)
        check_clean(ollama, NAME)


async def test_a_template_check_survives_another_create(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Whoever makes a model removes the temporary ones that no pull needs; the one of a trial is needed."""
    hub.add("acme/tiny", NEW)
    hub.add("acme/other", {"m-Q4_K_M.gguf": tiny_gguf()})
    models = {"hf.co/acme/tiny": {"template": "{{ .Prompt"}}
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, models=models)
    async with App(config) as app:
        client = Client(app.address.url, session)
        script = Script(ollama, "POST /api/show", 1)
        trying = asyncio.create_task(client.pull(NAME))
        await eventually(script.held.is_set)
        other = asyncio.create_task(client.pull("hf.co/acme/other:q4_K_M"))
        await asyncio.wait([other], timeout=2)
        script.go.set()
        assert "unclosed action" in (await trying)[-1]["error"]
        assert (await other)[-1] == SUCCESS
        await sweep(client)
    check_clean(ollama, "hf.co/acme/other:q4_K_M")
