"""Nothing left behind: after a pull Ollama holds the blobs of its models, and no other that came through here."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.config import Address, OllamaConfig
from proxy.errors import OllamaGone
from proxy.ollama.client import PROBE_DIGEST
from proxy.ollama.registry import reached_at
from proxy.pull import execute as making_module
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.standins.responses import ErrorAnswer
from proxy.store import journal, reclaim
from proxy.store.reclaim import REMOVAL, TEMPORARY
from tests.kit.conversions import converted
from tests.kit.ollama_log import Lines, created, uploads
from tests.kit.support import PULL_STATUSES, Client, digest_of, eventually, fetched, making, no_manifests, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q4_K_M"
OTHER = "hf.co/acme/tiny:q8_0"
WEIGHTS = "model.safetensors"
SUCCESS = {"status": "success"}
REMOVING = "removing unused layers"
RECLAIMED_STATUSES = [*PULL_STATUSES[:-1], REMOVING, "success"]
LEFT_TEMPORARY = f"ollama-hf-proxy/{'a' * 32}:temporary"
LEFT_OFFER = f"127.0.0.1:11435/ollama-hf-proxy/{'b' * 32}:reclaim"
REFUSED = "unsupported architecture"
NO_SPACE = "write /models/blobs/sha256-1: no space left on device"

Work = Callable[..., Awaitable[Any]]


def orphans(ollama: StandInOllama) -> set[str]:
    return set(ollama.blobs) - ollama.models.used_digests()


def left_models(ollama: StandInOllama) -> list[str]:
    return [name for name in ollama.models if "ollama-hf-proxy" in name]


def assert_clean(ollama: StandInOllama) -> None:
    assert orphans(ollama) == set()
    assert left_models(ollama) == []
    assert ollama.models.used_digests() <= set(ollama.blobs)


def pull_uploads(ollama: StandInOllama) -> list[str]:
    """Without the configs of removals."""
    return [path for path in uploads(ollama) if not path.endswith(reclaim.CONFIG.digest)]


def uploaded_bytes(ollama: StandInOllama) -> int:
    return sum(request.received for request in ollama.requests if "/api/blobs/" in request.path)


def statuses(lines: Lines) -> list[str]:
    return [line["status"] for line in lines if "digest" not in line]


def made_of(files: dict[str, bytes], name: str = NAME) -> str:
    """The digest of the GGUF that the proxy makes of a repository for a name."""
    return digest_of(converted(files, quantization=name.rpartition(":")[2].upper()))


async def no_copies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A model that is made does not get its name."""
    if request.path == "/api/copy":
        raise ErrorAnswer(NO_SPACE, 500)
    return await handler(request)


@pytest.fixture(autouse=True)
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that takes long is not swept in between."""
    monkeypatch.setattr(reclaim, "FIRST_SWEEP_SECONDS", 1000.0)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@asynccontextmanager
async def proxy(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AsyncIterator[tuple[App, Client]]:
    sections["ollama"] = {"reclaim": True, **sections.get("ollama", {})}
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        yield app, Client(app.address.url, session)


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[App]:
    async with proxy(hub, ollama, session) as (app, _):
        yield app


@pytest.fixture
def creates(ollama: StandInOllama) -> None:
    """Models are made by Ollama's create."""
    ollama.around = no_manifests


@pytest.fixture
async def left(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> dict[str, int]:
    """Blobs that an earlier proxy has left beside NAME, since it was told to, by their digests; asked for before `app`.

    Ollama had refused to make OTHER of them.
    """
    async with proxy(hub, ollama, session, ollama={"reclaim": False}) as (_, client):
        assert (await client.pull(NAME))[-1] == SUCCESS
        ollama.around, ollama.fail_create = no_manifests, REFUSED
        assert REFUSED in (await client.pull(OTHER))[-1]["error"]
    ollama.around = ollama.fail_create = None
    assert list(ollama.models) == [NAME]
    assert made_of(files, OTHER) in orphans(ollama)
    return {digest: ollama.blobs[digest] for digest in orphans(ollama)}


@pytest.fixture
def refused(left: dict[str, int], files: dict[str, bytes]) -> str:
    """The digest of the GGUF that is among what was left."""
    return made_of(files, OTHER)


class Gate:
    """Holds the calls of a method until it is opened."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.entered: list[Any] = []
        self.open = asyncio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        self.entered.append(arguments)
        await self.open.wait()
        return await self._work(*arguments)


@pytest.fixture
def giving_up(app: App, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds Ollama's pull of what is offered."""
    gate = Gate(app.backend.ollama.pull)
    monkeypatch.setattr(app.backend.ollama, "pull", gate)
    return gate


@pytest.fixture
def looking(app: App, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds the question whether Ollama has a blob."""
    gate = Gate(app.backend.ollama.has_blob)
    monkeypatch.setattr(app.backend.ollama, "has_blob", gate)
    return gate


async def swept(client: Client, **body: Any) -> dict[str, Any]:
    status, answer = await client.post("/-/reclaim", body)
    assert status == 200, answer
    found: dict[str, Any] = orjson.loads(answer)
    return found


async def head(client: Client, digest: str) -> int:
    async with client.session.head(f"{client.url}/api/blobs/{digest}") as response:
        return response.status


# ---- what a pull that ends well leaves


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.40.0"])
@pytest.mark.parametrize("name", [NAME, "hf.co/acme/tiny:f16"])
async def test_a_pull_leaves_only_its_model(
    client: Client, files: dict[str, bytes], ollama: StandInOllama, version: str, name: str
) -> None:
    """It is a copy of a temporary model, which is removed."""
    ollama.version = version
    lines = await client.pull(name)
    assert statuses(lines) == RECLAIMED_STATUSES
    assert_clean(ollama)
    assert list(ollama.models) == [name]
    assert ollama.models[name].quantization_level == name.rpartition(":")[2].upper()
    [temporary] = making(ollama.requests)
    assert TEMPORARY.fullmatch(temporary)
    assert not created(ollama)


@pytest.mark.parametrize("name", [NAME, "hf.co/acme/tiny:f16"])
async def test_a_create_leaves_only_its_model(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama, name: str
) -> None:
    lines = await client.pull(name)
    assert statuses(lines) == RECLAIMED_STATUSES
    assert_clean(ollama)
    assert list(ollama.models) == [name]
    [body] = created(ollama)
    assert (body["model"], body["files"]) == (name, {"model.gguf": made_of(files, name)})


async def test_the_model_is_the_same_without_reclaim(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxy(hub, ollama, session) as (_, client):
        await client.pull(NAME)
    reclaimed = ollama.models.pop(NAME)
    async with proxy(hub, ollama, session, ollama={"reclaim": False}) as (_, client):
        await client.pull(NAME)
    assert ollama.models[NAME] is not reclaimed
    assert set(reclaimed.layers) == set(ollama.models[NAME].layers)
    assert (reclaimed.template, reclaimed.parameters) == (ollama.models[NAME].template, ollama.models[NAME].parameters)


async def test_a_models_own_gguf_stays(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> None:
    whole = tiny_gguf()
    hub.add("acme/tiny-gguf", {"m-Q4_K_M.gguf": whole})
    async with proxy(hub, ollama, session, pull={"gguf": "proxy"}) as (_, client):
        lines = await client.pull("hf.co/acme/tiny-gguf:Q4_K_M")
        assert lines[-1] == SUCCESS
        assert REMOVING not in statuses(lines)
        assert ollama.blobs[digest_of(whole)] == len(whole)
        assert_clean(ollama)
        # It is the model's now, and goes with it.
        del ollama.models["hf.co/acme/tiny-gguf:Q4_K_M"]
        assert (await swept(client))["blobs"] == []
        assert digest_of(whole) in ollama.blobs


async def test_an_adapter_and_its_base_leave_nothing(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    hub.add("acme/adapter", tiny_adapter("acme/tiny"))
    lines = await client.pull("hf.co/acme/adapter:q4_K_M")
    assert lines[-1] == SUCCESS
    assert statuses(lines)[-3:] == ["writing manifest", REMOVING, "success"]
    assert statuses(lines).count(REMOVING) == 1
    assert sorted(ollama.models) == ["hf.co/acme/adapter:q4_K_M", NAME]
    assert_clean(ollama)
    assert PROBE_DIGEST not in ollama.blobs


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, Any]:
    """The sections of a source whose weights nobody has hashed, acme/tiny in two shards."""
    home = tmp_path / "models"
    (home / "acme/tiny").mkdir(parents=True)
    for path, content in tiny_llama(shards=2).items():
        (home / "acme/tiny" / path).write_bytes(content)
    return {"sources": {"home": {"type": "folder", "path": str(home)}}}


@pytest.mark.parametrize("keeps", [True, False])
async def test_files_without_a_known_digest_leave_nothing(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    folder: dict[str, Any],
    keeps: bool,
) -> None:
    ollama.keeps_mismatched = keeps
    async with proxy(hub, ollama, session, **folder) as (_, client):
        for tag, removed in (("q4_K_M", keeps), ("q8_0", False)):
            lines = await client.pull(f"home/acme/tiny:{tag}")
            assert statuses(lines) == (RECLAIMED_STATUSES if removed else PULL_STATUSES)
            assert_clean(ollama)
    assert len(making(ollama.requests)) == 2


@pytest.mark.parametrize("keeps", [True, False])
async def test_files_without_a_known_digest_are_all_leased(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    folder: dict[str, Any],
    keeps: bool,
) -> None:
    """By every pull that waits for them."""
    ollama.keeps_mismatched = keeps
    ollama.hold_upload = asyncio.Event()
    async with proxy(hub, ollama, session, **folder) as (app, client):
        names = ["home/acme/tiny:q4_K_M", "home/acme/tiny"]
        pulls = [asyncio.create_task(client.pull(name)) for name in names]
        await eventually(lambda: [job.state for job in app.jobs.all()] == ["transferring"] * 2)
        ollama.hold_making = asyncio.Event()
        ollama.hold_upload.set()
        await eventually(lambda: making(ollama.requests))
        assert {blob["digest"] for blob in (await swept(client))["blobs"]} <= {PROBE_DIGEST}
        ollama.hold_making.set()
        assert [lines[-1] for lines in await asyncio.gather(*pulls)] == [SUCCESS, SUCCESS]
    weights = converted(tiny_llama(), quantization="Q4_K_M")
    assert uploaded_bytes(ollama) < 1.5 * len(weights)
    assert digest_of(weights) in ollama.blobs
    assert_clean(ollama)


async def test_a_second_quantization_leaves_nothing(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    for name in (NAME, OTHER):
        assert (await client.pull(name))[-1] == SUCCESS
        assert_clean(ollama)
    sizes = [len(converted(files, quantization=quantization)) for quantization in ("Q4_K_M", "Q8_0")]
    assert sum(sizes) <= uploaded_bytes(ollama) < 1.1 * sum(sizes)


async def test_a_lost_answer_to_an_upload_leaves_nothing(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    ollama.lose_upload_answer = True
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert_clean(ollama)


async def test_without_reclaim_the_next_pull_moves_nothing(
    left: dict[str, int], refused: str, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """All blobs stay."""
    hub.requests.clear()
    before = pull_uploads(ollama)
    async with proxy(hub, ollama, session, ollama={"reclaim": False}) as (_, client):
        lines = await client.pull(OTHER)
    assert statuses(lines) == PULL_STATUSES
    assert not fetched(hub)
    assert pull_uploads(ollama) == before
    assert left.keys() <= ollama.blobs.keys()
    assert refused in {layer.digest for layer in ollama.models[OTHER].layers}


async def test_what_reclaim_off_left_goes_with_the_next_pull(
    left: dict[str, int], refused: str, hub: StandInHub, ollama: StandInOllama, client: Client
) -> None:
    hub.requests.clear()
    before = pull_uploads(ollama)
    assert (await client.pull(OTHER))[-1] == SUCCESS
    assert not fetched(hub)
    assert pull_uploads(ollama) == before
    assert refused in ollama.blobs
    assert_clean(ollama)


# ---- what is not the proxy's to remove


async def test_a_blob_from_before_the_pull_stays(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """Also where Ollama refuses to make a model of it."""
    weights = converted(files, quantization="Q4_K_M")
    foreign = digest_of(weights)
    async with client.session.post(f"{ollama.url}/api/blobs/{foreign}", data=io.BytesIO(weights)) as response:
        assert response.status == 201
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert orphans(ollama) == {foreign}
    assert (await swept(client))["blobs"] == []
    assert orphans(ollama) == {foreign}


async def test_a_blob_that_another_client_uploads_first_stays(
    creates: None, app: App, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama had said that it had none."""
    whole = tiny_gguf()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole})
    has_blob, digest = app.backend.ollama.has_blob, digest_of(whole)
    asked: list[str] = []

    async def overtaken(wanted: str) -> bool:
        has = await has_blob(wanted)
        asked.append(wanted)
        if asked.count(digest) == 2 and wanted == digest:
            ollama._store._remember(digest, len(whole), whole)
        return has

    monkeypatch.setattr(app.backend.ollama, "has_blob", overtaken)
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert asked.count(digest) >= 2
    assert orphans(ollama) == {digest}


@pytest.mark.parametrize("method", ["HEAD", "POST"])
@pytest.mark.parametrize("separator", [":", "-"])
async def test_a_blob_that_a_client_uses_stays_for_an_hour(
    creates: None,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    separator: str,
) -> None:
    """It may be about to make a model of it."""
    ollama.hold_making = asyncio.Event()
    ollama.fail_create = REFUSED
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: created(ollama))
    digest = made_of(files)
    size = ollama.blobs[digest]
    url = f"{client.url}/api/blobs/{digest.replace(':', separator)}"
    async with client.session.request(method, url) as response:
        assert response.status == 200
    ollama.hold_making.set()
    assert REFUSED in (await pulling)[-1]["error"]
    assert orphans(ollama) == {digest}
    assert (await swept(client))["blobs"] == []
    assert orphans(ollama) == {digest}
    monkeypatch.setattr(journal, "RESPITE_SECONDS", 0.0)
    assert (await swept(client))["blobs"] == [{"digest": digest, "size": size}]
    assert_clean(ollama)


async def test_a_blob_that_a_client_missed_stays_too(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """The client asked for it before the pull uploaded it."""
    digest = made_of(files)
    assert await head(client, digest) == 404
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert orphans(ollama) == {digest}


async def test_asking_for_another_blob_keeps_none(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    assert await head(client, f"sha256:{'e' * 64}") == 404
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert_clean(ollama)


async def test_a_blob_of_another_model_goes_with_that_model(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    ollama.hold_making = asyncio.Event()
    ollama.fail_create = REFUSED
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: created(ollama))
    layer = StoredLayer("model", made_of(files), ollama.blobs[made_of(files)])
    ollama.models["mine"] = StandInModel(layers=(layer,))
    ollama.hold_making.set()
    assert REFUSED in (await pulling)[-1]["error"]
    assert layer.digest in ollama.blobs
    assert_clean(ollama)
    assert (await swept(client))["blobs"] == []
    async with client.session.delete(f"{ollama.url}/api/delete", json={"model": "mine"}) as response:
        assert response.status == 200
    assert layer.digest not in ollama.blobs
    assert_clean(ollama)


# ---- several pulls


async def test_two_quantizations_at_once_leave_nothing(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    both = await asyncio.gather(client.pull(NAME), client.pull(OTHER))
    assert [lines[-1] for lines in both] == [SUCCESS, SUCCESS]
    assert len(set(making(ollama.requests))) == 2
    assert sorted(ollama.models) == [NAME, OTHER]
    assert_clean(ollama)


async def test_two_names_of_one_quantization_leave_nothing(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """They share the transfer."""
    names = ["hf.co/acme/tiny:latest", NAME]
    both = await asyncio.gather(*(client.pull(name) for name in names))
    assert [lines[-1] for lines in both] == [SUCCESS, SUCCESS]
    assert uploaded_bytes(ollama) < 1.5 * len(converted(files, quantization="Q4_K_M"))
    assert sorted(ollama.models) == names
    assert_clean(ollama)


async def test_a_pull_keeps_a_file_that_another_discards(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """Ollama rejects the other pull's model of the same file."""
    whole, projector = tiny_gguf(), tiny_projector()
    hub.add("acme/one", {"m-Q4_K_M.gguf": whole})
    hub.add("acme/two", {"m-Q4_K_M.gguf": whole, "mmproj-F16.gguf": projector})
    go = asyncio.Event()

    async def holding(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.path.endswith(digest_of(projector)):
            await go.wait()
        return await no_manifests(request, handler)

    ollama.around, ollama.fail_create, ollama.hold_making = holding, REFUSED, asyncio.Event()
    refusing = asyncio.create_task(client.pull("hf.co/acme/one:Q4_K_M"))
    await eventually(lambda: created(ollama))
    pulling = asyncio.create_task(client.pull("hf.co/acme/two:Q4_K_M"))
    await eventually(lambda: [job.state for job in app.jobs.all()] == ["transferring", "creating"])
    ollama.hold_making.set()
    assert REFUSED in (await refusing)[-1]["error"]
    assert digest_of(whole) in orphans(ollama)
    ollama.fail_create = None
    go.set()
    assert (await pulling)[-1] == SUCCESS
    assert pull_uploads(ollama).count(f"/api/blobs/{digest_of(whole)}") == 1
    assert list(ollama.models) == ["hf.co/acme/two:Q4_K_M"]
    assert_clean(ollama)


async def test_two_repositories_with_the_same_small_files(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """They leave nothing."""
    hub.add("acme/second", tiny_llama(seed=1))
    both = await asyncio.gather(client.pull(NAME), client.pull("hf.co/acme/second:q8_0"))
    assert [lines[-1] for lines in both] == [SUCCESS, SUCCESS]
    assert len(set(making(ollama.requests))) == 2
    assert_clean(ollama)


# ---- door 1 meanwhile


async def test_a_blob_is_gone_for_a_client_during_its_removal(
    left: dict[str, int], refused: str, client: Client, ollama: StandInOllama, giving_up: Gate
) -> None:
    """The client's question waits for the end of the removal."""
    removing = asyncio.create_task(swept(client))
    await eventually(lambda: giving_up.entered)
    asking = asyncio.create_task(head(client, refused))
    [layer] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    assert await head(client, layer.digest) == 200
    await asyncio.sleep(0.1)
    assert not asking.done()
    giving_up.open.set()
    assert await asking == 404
    assert len((await removing)["blobs"]) == len(left)


async def test_a_client_gets_the_truth_while_blobs_are_chosen(
    refused: str, client: Client, ollama: StandInOllama, looking: Gate
) -> None:
    """While the proxy asks Ollama which unneeded blobs it has."""
    removing = asyncio.create_task(swept(client))
    await eventually(lambda: looking.entered)
    asking = asyncio.create_task(head(client, refused))
    await asyncio.wait([asking], timeout=0.3)
    looking.open.set()
    status = await asking
    await removing
    assert (status == 200) is (refused in ollama.blobs)


async def test_a_pull_during_a_removal_uploads_blobs_again(
    left: dict[str, int], refused: str, client: Client, ollama: StandInOllama, giving_up: Gate
) -> None:
    removing = asyncio.create_task(swept(client))
    await eventually(lambda: giving_up.entered)
    before = len(pull_uploads(ollama))
    pulling = asyncio.create_task(client.pull(OTHER))
    await asyncio.sleep(0.1)
    giving_up.open.set()
    assert len((await removing)["blobs"]) == len(left)
    assert (await pulling)[-1] == SUCCESS
    assert f"/api/blobs/{refused}" in pull_uploads(ollama)[before:]
    assert_clean(ollama)


# ---- pulls that fail


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_files_that_ollama_rejects_are_removed(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama, version: str
) -> None:
    ollama.version = version
    ollama.fail_create = REFUSED
    lines = await client.pull(NAME)
    assert REFUSED in lines[-1]["error"]
    assert_clean(ollama)
    assert ollama.blobs == {}


async def test_a_rejected_pull_takes_nothing_from_another(
    creates: None, app: App, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have leases on the same file and the same temporary model."""
    names = ["hf.co/acme/one:Q4_K_M", "hf.co/acme/two:Q4_K_M"]
    for repository in ("one", "two"):
        hub.add(f"acme/{repository}", {"m-Q4_K_M.gguf": tiny_gguf()})
    create = app.backend.ollama.create
    temporaries: list[set[str]] = []

    def refusing(body: dict[str, Any], name: str) -> Any:
        temporaries.append(app._journal.temporary_models())
        ollama.fail_create = REFUSED if body["model"] == names[0] else None
        return create(body, name)

    monkeypatch.setattr(app.backend.ollama, "create", refusing)
    refused, made = await asyncio.gather(*(client.pull(name) for name in names))
    assert REFUSED in refused[-1]["error"]
    assert made[-1] == SUCCESS
    assert len(set.union(*temporaries)) == 1
    assert pull_uploads(ollama).count(f"/api/blobs/{digest_of(tiny_gguf())}") == 1
    assert_clean(ollama)


TROUBLES: list[dict[str, Any]] = [
    {"around": no_manifests, "fail_create": NO_SPACE},
    {"around": no_manifests, "crash_create": True},
    {"around": no_manifests, "end_create_early": True},
    {"around": no_copies},
]


def trouble(ollama: StandInOllama, script: dict[str, Any]) -> None:
    for key, value in script.items():
        setattr(ollama, key, value)


def end_trouble(ollama: StandInOllama) -> None:
    trouble(ollama, {"around": None, "fail_create": None, "crash_create": False, "end_create_early": False})


@pytest.mark.parametrize("script", TROUBLES, ids=lambda script: next(reversed(script)))
@pytest.mark.parametrize("restart", [True, False])
async def test_files_of_a_failed_pull_stay_for_the_next(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    script: dict[str, Any],
    restart: bool,
) -> None:
    trouble(ollama, script)
    async with proxy(hub, ollama, session) as (_, client):
        assert "error" in (await client.pull(NAME))[-1]
        assert made_of(files) in ollama.blobs
        assert {blob["digest"] for blob in (await swept(client))["blobs"]} <= {PROBE_DIGEST}
        assert made_of(files) in ollama.blobs
        end_trouble(ollama)
        hub.requests.clear()
        before = pull_uploads(ollama)
        if not restart:
            assert (await client.pull(NAME))[-1] == SUCCESS
    if restart:
        async with proxy(hub, ollama, session) as (_, client):
            assert (await swept(client))["blobs"] == []
            assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)
    assert pull_uploads(ollama) == before
    assert_clean(ollama)


async def test_finished_files_of_a_transfer_that_failed_are_kept(
    small_spans: int, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    projector = tiny_projector()
    broken = "m-Q4_K_M.gguf"
    hub.add("acme/tiny", {broken: tiny_gguf(), "mmproj-F16.gguf": projector})
    kept = digest_of(projector)
    hub.rate = 100_000
    hub.faults.append(Fault(broken, "drop", after=100_000))
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: kept in ollama.blobs)
    hub.faults.append(Fault(broken, "status", times=-1))
    assert broken in (await pulling)[-1]["error"]
    hub.rate = None
    assert (await swept(client))["blobs"] == []
    assert kept in ollama.blobs
    hub.faults.clear()
    before = len(pull_uploads(ollama))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert f"/api/blobs/{kept}" not in pull_uploads(ollama)[before:]
    assert kept in {layer.digest for layer in ollama.models[NAME].layers}
    assert_clean(ollama)


async def test_expired_files_are_removed(
    creates: None,
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
) -> None:
    ollama.fail_create = NO_SPACE
    async with proxy(hub, ollama, session, pull={"keep": 0}) as (app, client):
        assert "error" in (await client.pull(NAME))[-1]
        assert made_of(files) in ollama.blobs
        assert app._journal.interrupted_since(NAME.lower()) is not None
        assert made_of(files) in {blob["digest"] for blob in (await swept(client))["blobs"]}
        assert app._journal.interrupted_since(NAME.lower()) is None
    assert ollama.blobs == {}


async def test_a_dry_run_lists_expired_files(
    creates: None,
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
) -> None:
    ollama.fail_create = NO_SPACE
    async with proxy(hub, ollama, session, pull={"keep": 0}) as (_, client):
        assert "error" in (await client.pull(NAME))[-1]
        would = await swept(client, dry_run=True)
        assert made_of(files) in {blob["digest"] for blob in would["blobs"]}
        assert would["blobs"] == (await swept(client))["blobs"]


async def test_a_temporary_model_is_an_installs_checkpoint(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """After an interrupted install, the next pull uploads nothing."""
    ollama.around = no_copies
    async with proxy(hub, ollama, session) as (_, client):
        assert NO_SPACE in (await client.pull(NAME))[-1]["error"]
        assert (await swept(client))["models"] == []
    [temporary] = ollama.models
    assert TEMPORARY.fullmatch(temporary)
    assert orphans(ollama) == set()
    ollama.around = None
    hub.requests.clear()
    ollama.requests.clear()
    async with proxy(hub, ollama, session) as (_, client):
        assert (await swept(client))["models"] == []
        lines = await client.pull(NAME)
    assert statuses(lines)[-3:] == PULL_STATUSES[-3:]
    bars = [line for line in lines if line["status"].startswith("pulling ") and "digest" in line]
    assert bars
    assert all(bar["completed"] == bar["total"] for bar in bars)
    assert not fetched(hub)
    assert not pull_uploads(ollama)
    assert list(ollama.models) == [NAME]
    assert_clean(ollama)


async def test_too_small_a_disk_removes_nothing(
    creates: None, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are good, and may have been downloaded for hours."""
    whole, projector = tiny_gguf(), "mmproj-F16.gguf"
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole, projector: tiny_projector()})
    ollama.fail_create = NO_SPACE
    assert NO_SPACE in (await client.pull(NAME))[-1]["error"]
    ollama.fail_create = None
    hub.repositories["acme/tiny"].update({projector: tiny_projector(seed=1)})

    async def little(*_: object) -> int:
        return 1

    monkeypatch.setattr(making_module, "free_disk", little)
    assert "of disk until it is made" in (await client.pull(NAME))[-1]["error"]
    await swept(client)
    assert digest_of(whole) in ollama.blobs


async def test_an_ollama_that_is_gone_shortly_leaves_no_lease(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy asks Ollama for the file right after it acquired the lease."""
    whole = tiny_gguf()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole})
    has_blob = app.backend.ollama.has_blob
    asked: list[str] = []

    async def shaky(digest: str) -> bool:
        asked.append(digest)
        if len(asked) == 1:
            raise OllamaGone("it restarts")
        return await has_blob(digest)

    monkeypatch.setattr(app.backend.ollama, "has_blob", shaky)
    ollama.around, ollama.fail_create = no_manifests, REFUSED
    lines = await client.pull(NAME)
    assert REFUSED in lines[-1]["error"]
    assert {"status": "waiting for Ollama to come back"} in lines
    assert digest_of(whole) in asked
    assert_clean(ollama)


# ---- what a proxy that was killed has left


@pytest.mark.parametrize("enabled", [True, False])
async def test_the_first_sweep_removes_unneeded_models(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
) -> None:
    mine = [
        "ollama-hf-proxy/notes:temporary",
        f"ollama-hf-proxy/{'a' * 32}:latest",
        f"someone/{'a' * 32}:temporary",
        f"127.0.0.1:11435/ollama-hf-proxy/{'b' * 31}:reclaim",
        "hf.co/acme/tiny:reclaim",
    ]
    for name in (LEFT_TEMPORARY, LEFT_OFFER, f"127.0.0.1:5/ollama-hf-proxy/{'c' * 32}:reclaim", *mine):
        ollama.models[name] = StandInModel()
    monkeypatch.setattr(reclaim, "FIRST_SWEEP_SECONDS", 0.01)
    async with proxy(hub, ollama, session, ollama={"reclaim": enabled}):
        await eventually(lambda: len(ollama.models) == len(mine))
    assert sorted(ollama.models) == sorted(mine)


@pytest.mark.parametrize("enabled", [True, False])
async def test_the_first_sweep_removes_blobs_if_enabled(
    left: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
) -> None:
    ollama.models[LEFT_TEMPORARY] = StandInModel()
    monkeypatch.setattr(reclaim, "FIRST_SWEEP_SECONDS", 0.01)
    async with proxy(hub, ollama, session, ollama={"reclaim": enabled}):
        await eventually(lambda: left_models(ollama) == [])
        if enabled:
            await eventually(lambda: not orphans(ollama) & left.keys())
    assert (left.keys() <= orphans(ollama)) is not enabled


async def test_a_second_sweep_waits_for_the_first(
    app: App, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sweep holds `creating`, as a pull does; the second one must not skip the temporary models for that."""
    kept = f"ollama-hf-proxy/{'d' * 32}:temporary"
    ollama.models[LEFT_TEMPORARY] = ollama.models[kept] = StandInModel()
    pull = await app.reclaim.acquire(NAME, kept, ())
    deleting = Gate(app.backend.ollama.delete)
    monkeypatch.setattr(app.backend.ollama, "delete", deleting)
    first = asyncio.create_task(app.reclaim.sweep())
    await eventually(lambda: bool(deleting.entered))
    app.reclaim.complete(pull)
    second = asyncio.create_task(app.reclaim.sweep())
    await asyncio.sleep(0.1)
    deleting.open.set()
    assert (await first).models == (LEFT_TEMPORARY,)
    assert (await second).models == (kept,)
    assert left_models(ollama) == []


async def test_a_sweep_that_fails_is_tried_again(
    left: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reclaim, "FIRST_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(reclaim, "RETRY_SECONDS", 0.01)
    await ollama.close()
    async with proxy(hub, ollama, session) as (app, _):
        await asyncio.sleep(0.1)
        assert app._sweeping is not None
        assert not app._sweeping.done()
        await ollama.start()
        await eventually(lambda: not orphans(ollama) & left.keys())


async def test_a_left_removal_model_goes_before_a_pull(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    """Its deletion would remove blobs that the pull needs."""
    whole = tiny_gguf()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole})
    ollama._store.keep(whole)
    layers = [StoredLayer("license", digest, size) for digest, size in ollama.blobs.items()]
    ollama.models[LEFT_OFFER] = StandInModel(layers=tuple(layers))
    ollama.models[LEFT_TEMPORARY] = StandInModel()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert f"/api/blobs/{digest_of(whole)}" in pull_uploads(ollama)
    assert LEFT_TEMPORARY not in ollama.models
    await swept(client)
    assert_clean(ollama)


@pytest.mark.parametrize("first", [True, False])
async def test_an_interrupted_removal_ends_before_the_next_pull(
    app: App,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    first: bool,
) -> None:
    """Also one that this process began. The blobs go with it."""
    if not first:
        assert (await client.pull("hf.co/acme/tiny:q4_K_S"))[-1] == SUCCESS
    delete = app.backend.ollama.delete
    broken_off: list[str] = []

    async def broken(name: str) -> bool:
        if not broken_off and REMOVAL.fullmatch(name):
            broken_off.append(name)
            raise OllamaGone("it restarts")
        return await delete(name)

    monkeypatch.setattr(app.backend.ollama, "delete", broken)
    ollama.around, ollama.fail_create = no_manifests, REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    ollama.around = ollama.fail_create = None
    assert left_models(ollama) == [broken_off[0].removeprefix("http://")]
    assert made_of(files) in ollama.blobs
    before = len(pull_uploads(ollama))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert f"/api/blobs/{made_of(files)}" in pull_uploads(ollama)[before:]
    assert_clean(ollama)


# ---- an Ollama that does not reach the proxy


async def test_an_unreached_proxy_warns_once_and_keeps_the_blobs(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """They go when Ollama reaches the proxy again."""
    nowhere = "http://127.0.0.1:9"
    async with proxy(hub, ollama, session, ollama={"advertise_url": nowhere}) as (_, client):
        lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    [warning] = [status for status in statuses(lines) if status.startswith("warning:")]
    assert nowhere in warning
    assert "ollama.advertise_url" in warning
    left = orphans(ollama) - {reclaim.CONFIG.digest}
    assert left
    assert reclaim.CONFIG.digest in ollama.blobs
    assert list(ollama.models) == [NAME]
    async with proxy(hub, ollama, session) as (_, client):
        assert {blob["digest"] for blob in (await swept(client))["blobs"]} == left
    assert_clean(ollama)


async def test_a_proxy_that_is_reached_elsewhere_reclaims_there(
    left: dict[str, int], hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with proxy(hub, ollama, session) as (app, client):
        advertised = f"http://localhost:{app.address.port}"
        app._registry.url = reached_at(OllamaConfig(advertise_url=advertised), app.address)
        await swept(client)
    asked = [orjson.loads(request.body or b"{}") for request in ollama.requests if request.path == "/api/pull"]
    name = rf"{advertised}/ollama-hf-proxy/[0-9a-f]{{32}}:reclaim"
    assert [body for body in asked if re.fullmatch(name, body.get("model", ""))]
    assert not orphans(ollama) & left.keys()


@pytest.mark.parametrize("version", ["0.24.0", "0.40.0"])
async def test_an_interrupted_removals_config_goes_too(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, version: str
) -> None:
    ollama.version = version
    content = b"{}"
    async with proxy(hub, ollama, session) as (app, client):
        ollama._store.keep(content)
        app._journal.track(digest_of(content), len(content))
        there, app._registry.url = app._registry.url, "http://127.0.0.1:9"
        assert (await client.post("/-/reclaim", {}))[0] == 502
        assert set(ollama.blobs) == {digest_of(content), reclaim.CONFIG.digest}
        assert [blob["digest"] for blob in (await swept(client, dry_run=True))["blobs"]] == [digest_of(content)]
        ollama._store.forget(digest_of(content))
        app._registry.url = there
        assert (await swept(client))["blobs"] == []
    assert ollama.blobs == {}


async def test_a_refused_removal_has_its_own_error_text(
    left: dict[str, int],
    refused: str,
    app: App,
    client: Client,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ollama reached the proxy, and refused the manifest."""
    pull = app.backend.ollama.pull

    async def losing(name: str) -> dict[str, int]:
        del ollama.blobs[refused]
        return await pull(name)

    monkeypatch.setattr(app.backend.ollama, "pull", losing)
    status, answer = await client.post("/-/reclaim", {})
    assert status == 502
    assert "Ollama refuses to take over their removal" in orjson.loads(answer)["error"]
    monkeypatch.undo()
    assert {blob["digest"] for blob in (await swept(client))["blobs"]} == left.keys() - {refused}


# ---- the registry


def path_of(offered: str) -> str:
    """Where Ollama looks for a model's manifest."""
    name, _, tag = offered.partition("://")[2].partition("/")[2].rpartition(":")
    return f"/v2/{name}/manifests/{tag}"


async def test_a_manifest_is_there_only_while_it_is_offered(
    left: dict[str, int], client: Client, ollama: StandInOllama, giving_up: Gate
) -> None:
    removing = asyncio.create_task(swept(client))
    await eventually(lambda: giving_up.entered)
    [[name]] = giving_up.entered
    path = path_of(name)
    async with client.session.get(client.url + path) as response:
        assert response.status == 200
        assert response.content_type == "application/vnd.docker.distribution.manifest.v2+json"
        manifest = orjson.loads(await response.read())
    assert {one["digest"]: one["size"] for one in manifest["layers"]} == left
    # Ollama reads no layer of a type that it does not know.
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.ollama-hf-proxy.blob"}
    # It reads this whenever it lists its models.
    assert ollama.beginning(manifest["config"]["digest"]) == b'{"os":"ollama-hf-proxy"}'
    async with client.session.head(client.url + path) as response:
        assert response.status == 200
    others = [path.replace("reclaim", "latest"), f"{path}/", path[:-1], "/v2/", path.replace("manifests", "blobs")]
    token = path.split("/")[3]
    others += [path.replace(token, "0" * 32), f"/v2/ollama-hf-proxy/{token}/blobs/{manifest['config']['digest']}"]
    for other in others:
        assert await client.get(other) == (404, b"404 page not found")
    assert await client.post(path, {}) == (404, b"404 page not found")
    giving_up.open.set()
    await removing
    assert await client.get(path) == (404, b"404 page not found")


async def test_only_the_manifest_needs_no_key(
    left: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy(hub, ollama, session, server={"listen": "127.0.0.1:0", "api_keys": ["secret"]}) as (app, client):
        gate = Gate(app.backend.ollama.pull)
        monkeypatch.setattr(app.backend.ollama, "pull", gate)
        removing = asyncio.create_task(app.reclaim.sweep())
        await eventually(lambda: gate.entered)
        path = path_of(gate.entered[0][0])
        assert (await client.get(path))[0] == 200
        assert (await client.get(path, headers={"Host": "elsewhere.example"}))[0] == 200
        assert (await client.get(f"{path}x"))[0] == 401
        assert (await client.get("/v2/"))[0] == 401
        gate.open.set()
        await removing
        assert (await client.get(path))[0] == 401
    assert not orphans(ollama) & left.keys()


async def test_every_offer_has_a_name_of_its_own(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    for name in (NAME, OTHER):
        await client.pull(name)
    pulls = [orjson.loads(request.body or b"{}") for request in ollama.requests if request.path == "/api/pull"]
    asked = [body["model"] for body in pulls if REMOVAL.fullmatch(body.get("model", ""))]
    assert len(asked) == len(set(asked)) == 2


LOCAL, REMOTE = "http://127.0.0.1:11434", "http://192.0.2.7:11434"


@pytest.mark.parametrize(
    ("listen", "ollama", "advertised", "expected"),
    [
        ("127.0.0.1", LOCAL, "", "http://127.0.0.1:11435"),
        ("0.0.0.0", LOCAL, "", "http://127.0.0.1:11435"),
        ("0.0.0.0", "http://localhost:11434", "", "http://127.0.0.1:11435"),
        ("::1", LOCAL, "", "http://localhost:11435"),
        ("localhost", LOCAL, "", "http://localhost:11435"),
        ("proxy.example", LOCAL, "", "http://proxy.example:11435"),
        ("192.0.2.3", REMOTE, "", "http://192.0.2.3:11435"),
        ("127.0.0.1", REMOTE, "http://host.docker.internal:11435", "http://host.docker.internal:11435"),
        ("0.0.0.0", LOCAL, "https://proxy.example", "https://proxy.example"),
    ],
)
def test_the_proxy_is_reached_where_it_listens(listen: str, ollama: str, advertised: str, expected: str) -> None:
    config = OllamaConfig(url=ollama, advertise_url=advertised)
    assert reached_at(config, Address(listen, 11435)) == expected


def test_a_proxy_on_all_of_ipv6_is_reached_as_localhost() -> None:
    """A listener there has IPV6_V6ONLY; `localhost` is what a model's name has room for."""
    assert reached_at(OllamaConfig(url=LOCAL), Address("::", 11435)) == "http://localhost:11435"


def test_another_machine_gets_the_address_of_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    class Probe:
        def __init__(self, *arguments: Any) -> None:
            asked.append(arguments)

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, target: Any) -> None:
            asked.append(target)

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.3", 5

    monkeypatch.setattr("proxy.ollama.registry.socket.socket", Probe)
    assert reached_at(OllamaConfig(url=REMOTE), Address("0.0.0.0", 11435)) == "http://192.0.2.3:11435"
    assert asked[1][0] == "192.0.2.7"


def test_an_unknown_machine_gets_the_loopback_address() -> None:
    config = OllamaConfig(url="http://nowhere.invalid:11434")
    assert reached_at(config, Address("0.0.0.0", 11435)) == "http://127.0.0.1:11435"


# ---- asked for


async def test_reclaim_returns_what_it_removed(left: dict[str, int], client: Client, ollama: StandInOllama) -> None:
    ollama.models[LEFT_TEMPORARY] = StandInModel()
    small_first = sorted((size, digest) for digest, size in left.items())
    expected = [{"digest": digest, "size": size} for size, digest in small_first]
    before = dict(ollama.blobs)
    would = await swept(client, dry_run=True)
    total = sum(left.values())
    assert would == {"dry_run": True, "blobs": expected, "models": [LEFT_TEMPORARY], "bytes": total}
    assert ollama.blobs == before
    assert LEFT_TEMPORARY in ollama.models
    assert await swept(client, dry_run=False) == would | {"dry_run": False}
    assert not orphans(ollama) & left.keys()
    assert left_models(ollama) == []
    nothing: dict[str, Any] = {"blobs": [], "models": [], "bytes": 0}
    assert await swept(client) == {"dry_run": False, **nothing}
    assert await swept(client, dry_run=True) == {"dry_run": True, **nothing}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"", 200),
        ({"Content-Type": "application/json; charset=utf-8"}, b"{}", 200),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({}, b"{}", 415),
        ({"Content-Type": "application/json", "Origin": "http://elsewhere.example"}, b"{}", 403),
        ({"Content-Type": "application/json"}, b"{", 400),
        ({"Content-Type": "application/json"}, b"[]", 400),
    ],
    ids=str,
)
async def test_reclaim_needs_a_json_content_type_and_body(
    left: dict[str, int], client: Client, ollama: StandInOllama, headers: dict[str, str], body: bytes, status: int
) -> None:
    url = f"{client.url}/-/reclaim"
    skipped = ["Content-Type"]
    async with client.session.post(url, data=body, headers=headers, skip_auto_headers=skipped) as response:
        assert response.status == status
    assert bool(orphans(ollama) & left.keys()) is (status != 200)


async def test_reclaim_is_not_a_get(left: dict[str, int], client: Client, ollama: StandInOllama) -> None:
    status, _ = await client.get("/-/reclaim")
    assert status == 404
    assert left.keys() <= orphans(ollama)


async def test_reclaim_removes_nothing_of_a_running_pull(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    ollama.hold_making = asyncio.Event()
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: making(ollama.requests))
    assert {blob["digest"] for blob in (await swept(client))["blobs"]} <= {PROBE_DIGEST}
    assert made_of(files) in ollama.blobs
    ollama.hold_making.set()
    assert (await pulling)[-1] == SUCCESS
    assert_clean(ollama)


async def test_reclaim_without_ollama_is_an_error(left: dict[str, int], client: Client, ollama: StandInOllama) -> None:
    await ollama.close()
    status, answer = await client.post("/-/reclaim", {})
    assert status == 502
    assert "cannot be reached" in orjson.loads(answer)["error"]
    await ollama.start()
    assert len((await swept(client))["blobs"]) == len(left)
