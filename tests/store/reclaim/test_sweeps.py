"""What a killed proxy left is removed by a sweep, or before the next pull."""

import asyncio

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import OllamaGone
from proxy.standins.hub import StandInHub
from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.store.reclaim import REMOVAL
from tests.kit.conversions import gguf_digest
from tests.kit.pauses import use_timings
from tests.kit.reclaiming import (
    LEFT_TEMPORARY,
    NAME,
    REFUSED,
    SUCCESS,
    Gate,
    assert_clean,
    left_models,
    orphans,
    proxy,
    pull_uploads,
    reclaim_now,
)
from tests.kit.support import Client, digest_of, eventually, no_manifests
from tests.kit.tiny_gguf import tiny_gguf

LEFT_OFFER = f"127.0.0.1:11435/ollama-hf-proxy/{'b' * 32}:reclaim"


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
    use_timings(monkeypatch, first_sweep=0.01)
    async with proxy(hub, ollama, session, ollama={"reclaim": enabled}):
        await eventually(lambda: len(ollama.models) == len(mine))
    assert sorted(ollama.models) == sorted(mine)


@pytest.mark.parametrize("enabled", [True, False])
async def test_the_first_sweep_removes_blobs_if_enabled(
    left_blobs: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
) -> None:
    ollama.models[LEFT_TEMPORARY] = StandInModel()
    use_timings(monkeypatch, first_sweep=0.01)
    async with proxy(hub, ollama, session, ollama={"reclaim": enabled}):
        await eventually(lambda: left_models(ollama) == [])
        if enabled:
            await eventually(lambda: not orphans(ollama) & left_blobs.keys())
    assert (left_blobs.keys() <= orphans(ollama)) is not enabled


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
    left_blobs: dict[str, int],
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_timings(monkeypatch, first_sweep=0.01, sweep_retry=0.01)
    await ollama.close()
    async with proxy(hub, ollama, session) as (app, _):
        await asyncio.sleep(0.1)
        assert app._sweep_task is not None
        assert not app._sweep_task.done()
        await ollama.start()
        await eventually(lambda: not orphans(ollama) & left_blobs.keys())


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
    await reclaim_now(client)
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
    assert gguf_digest(files, NAME) in ollama.blobs
    before = len(pull_uploads(ollama))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert f"/api/blobs/{gguf_digest(files, NAME)}" in pull_uploads(ollama)[before:]
    assert_clean(ollama)
