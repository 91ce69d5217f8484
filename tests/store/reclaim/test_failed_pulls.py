"""A failed pull keeps its files for the next one, except files that Ollama rejects."""

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.errors import OllamaGone
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.pull import execute as making_module
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.responses import ErrorAnswer
from proxy.store.reclaim import TEMPORARY
from tests.kit.conversions import gguf_digest
from tests.kit.reclaiming import (
    NAME,
    REFUSED,
    SUCCESS,
    assert_clean,
    orphans,
    proxy,
    pull_uploads,
    reclaim_now,
    statuses,
)
from tests.kit.support import PULL_STATUSES, Client, digest_of, eventually, fetched, no_manifests
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NO_SPACE = "write /models/blobs/sha256-1: no space left on device"


async def no_copies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The temporary model cannot be copied to its name."""
    if request.path == "/api/copy":
        raise ErrorAnswer(NO_SPACE, 500)
    return await handler(request)


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
    rejected, successful = await asyncio.gather(*(client.pull(name) for name in names))
    assert REFUSED in rejected[-1]["error"]
    assert successful[-1] == SUCCESS
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
        assert gguf_digest(files, NAME) in ollama.blobs
        assert {blob["digest"] for blob in (await reclaim_now(client))["blobs"]} <= {PROBE_DIGEST}
        assert gguf_digest(files, NAME) in ollama.blobs
        end_trouble(ollama)
        hub.requests.clear()
        before = pull_uploads(ollama)
        if not restart:
            assert (await client.pull(NAME))[-1] == SUCCESS
    if restart:
        async with proxy(hub, ollama, session) as (_, client):
            assert (await reclaim_now(client))["blobs"] == []
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
    assert (await reclaim_now(client))["blobs"] == []
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
        assert gguf_digest(files, NAME) in ollama.blobs
        assert app._journal.interrupted_since(NAME.lower()) is not None
        assert gguf_digest(files, NAME) in {blob["digest"] for blob in (await reclaim_now(client))["blobs"]}
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
        would = await reclaim_now(client, dry_run=True)
        assert gguf_digest(files, NAME) in {blob["digest"] for blob in would["blobs"]}
        assert would["blobs"] == (await reclaim_now(client))["blobs"]


async def test_a_temporary_model_is_an_installs_checkpoint(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """After an interrupted install, the next pull uploads nothing."""
    ollama.around = no_copies
    async with proxy(hub, ollama, session) as (_, client):
        assert NO_SPACE in (await client.pull(NAME))[-1]["error"]
        assert (await reclaim_now(client))["models"] == []
    [temporary] = ollama.models
    assert TEMPORARY.fullmatch(temporary)
    assert orphans(ollama) == set()
    ollama.around = None
    hub.requests.clear()
    ollama.requests.clear()
    async with proxy(hub, ollama, session) as (_, client):
        assert (await reclaim_now(client))["models"] == []
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
    await reclaim_now(client)
    assert digest_of(whole) in ollama.blobs


async def test_an_ollama_that_is_gone_shortly_leaves_no_lease(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy asks Ollama for the file right after it acquired the lease."""
    whole = tiny_gguf()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole})
    has_blob = app.backend.ollama.has_blob
    questions: list[str] = []

    async def shaky(digest: str) -> bool:
        questions.append(digest)
        if len(questions) == 1:
            raise OllamaGone("it restarts")
        return await has_blob(digest)

    monkeypatch.setattr(app.backend.ollama, "has_blob", shaky)
    ollama.around, ollama.fail_create = no_manifests, REFUSED
    lines = await client.pull(NAME)
    assert REFUSED in lines[-1]["error"]
    assert {"status": "waiting for Ollama to come back"} in lines
    assert digest_of(whole) in questions
    assert_clean(ollama)
