"""A pull that ends well leaves the blobs of its model, and no other that it uploaded."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.ollama.blobs import PROBE_DIGEST
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from proxy.store.reclaim import TEMPORARY
from tests.kit.conversions import converted, gguf_digest
from tests.kit.ollama_log import created
from tests.kit.reclaiming import (
    NAME,
    OTHER,
    SUCCESS,
    assert_clean,
    proxy,
    pull_uploads,
    reclaim_now,
    statuses,
    uploaded_bytes,
)
from tests.kit.support import PULL_STATUSES, Client, digest_of, eventually, fetched, making
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf

REMOVING = "removing unused layers"
RECLAIMED_STATUSES = [*PULL_STATUSES[:-1], REMOVING, "success"]


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
    assert (body["model"], body["files"]) == (name, {"model.gguf": gguf_digest(files, name)})


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
        # The blob belongs to the model now, and is deleted with it.
        del ollama.models["hf.co/acme/tiny-gguf:Q4_K_M"]
        assert (await reclaim_now(client))["blobs"] == []
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
    """Settings of a source without digests, with acme/tiny in two shards."""
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
        assert {blob["digest"] for blob in (await reclaim_now(client))["blobs"]} <= {PROBE_DIGEST}
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
    left_blobs: dict[str, int], left_gguf: str, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """All blobs stay."""
    hub.requests.clear()
    before = pull_uploads(ollama)
    async with proxy(hub, ollama, session, ollama={"reclaim": False}) as (_, client):
        lines = await client.pull(OTHER)
    assert statuses(lines) == PULL_STATUSES
    assert not fetched(hub)
    assert pull_uploads(ollama) == before
    assert left_blobs.keys() <= ollama.blobs.keys()
    assert left_gguf in {layer.digest for layer in ollama.models[OTHER].layers}


async def test_what_reclaim_off_left_goes_with_the_next_pull(
    left_blobs: dict[str, int], left_gguf: str, hub: StandInHub, ollama: StandInOllama, client: Client
) -> None:
    hub.requests.clear()
    before = pull_uploads(ollama)
    assert (await client.pull(OTHER))[-1] == SUCCESS
    assert not fetched(hub)
    assert pull_uploads(ollama) == before
    assert left_gguf in ollama.blobs
    assert_clean(ollama)
