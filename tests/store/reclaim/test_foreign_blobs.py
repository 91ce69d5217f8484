"""Blobs that the proxy may not remove: those of clients and of other models."""

import asyncio
import io

import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.store import journal
from tests.kit.conversions import converted, gguf_digest
from tests.kit.ollama_log import created
from tests.kit.reclaiming import NAME, REFUSED, assert_clean, head, orphans, reclaim_now
from tests.kit.support import Client, digest_of, eventually
from tests.kit.tiny_gguf import tiny_gguf


async def test_a_blob_from_before_the_pull_stays(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """Also if Ollama rejects its model."""
    weights = converted(files, quantization="Q4_K_M")
    foreign = digest_of(weights)
    async with client.session.post(f"{ollama.url}/api/blobs/{foreign}", data=io.BytesIO(weights)) as response:
        assert response.status == 201
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert orphans(ollama) == {foreign}
    assert (await reclaim_now(client))["blobs"] == []
    assert orphans(ollama) == {foreign}


async def test_a_blob_that_another_client_uploads_first_stays(
    creates: None, app: App, client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ollama answered that it does not have the blob."""
    whole = tiny_gguf()
    hub.add("acme/tiny", {"m-Q4_K_M.gguf": whole})
    has_blob, digest = app.backend.ollama.has_blob, digest_of(whole)
    questions: list[str] = []

    async def overtaken(asked_digest: str) -> bool:
        has = await has_blob(asked_digest)
        questions.append(asked_digest)
        if questions.count(digest) == 2 and asked_digest == digest:
            ollama._store._remember(digest, len(whole), whole)
        return has

    monkeypatch.setattr(app.backend.ollama, "has_blob", overtaken)
    ollama.fail_create = REFUSED
    assert REFUSED in (await client.pull(NAME))[-1]["error"]
    assert questions.count(digest) >= 2
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
    """The client may be about to create a model of it."""
    ollama.hold_making = asyncio.Event()
    ollama.fail_create = REFUSED
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: created(ollama))
    digest = gguf_digest(files, NAME)
    size = ollama.blobs[digest]
    url = f"{client.url}/api/blobs/{digest.replace(':', separator)}"
    async with client.session.request(method, url) as response:
        assert response.status == 200
    ollama.hold_making.set()
    assert REFUSED in (await pulling)[-1]["error"]
    assert orphans(ollama) == {digest}
    assert (await reclaim_now(client))["blobs"] == []
    assert orphans(ollama) == {digest}
    monkeypatch.setattr(journal, "RESPITE_SECONDS", 0.0)
    assert (await reclaim_now(client))["blobs"] == [{"digest": digest, "size": size}]
    assert_clean(ollama)


async def test_a_blob_that_a_client_missed_stays_too(
    creates: None, client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """The client asked for it before the pull uploaded it."""
    digest = gguf_digest(files, NAME)
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
    layer = StoredLayer("model", gguf_digest(files, NAME), ollama.blobs[gguf_digest(files, NAME)])
    ollama.models["mine"] = StandInModel(layers=(layer,))
    ollama.hold_making.set()
    assert REFUSED in (await pulling)[-1]["error"]
    assert layer.digest in ollama.blobs
    assert_clean(ollama)
    assert (await reclaim_now(client))["blobs"] == []
    async with client.session.delete(f"{ollama.url}/api/delete", json={"model": "mine"}) as response:
        assert response.status == 200
    assert layer.digest not in ollama.blobs
    assert_clean(ollama)
