"""Several pulls at once, and clients that use blobs while the proxy removes some."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.ollama_log import created
from tests.kit.reclaiming import (
    NAME,
    OTHER,
    REFUSED,
    SUCCESS,
    Gate,
    assert_clean,
    head,
    orphans,
    pull_uploads,
    reclaim_now,
    uploaded_bytes,
)
from tests.kit.support import Client, digest_of, eventually, making, no_manifests
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector


@pytest.fixture
def has_blob_gate(app: App, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds the calls of `has_blob`."""
    gate = Gate(app.backend.ollama.has_blob)
    monkeypatch.setattr(app.backend.ollama, "has_blob", gate)
    return gate


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


# ---- clients of blobs


async def test_a_blob_is_gone_for_a_client_during_its_removal(
    left_blobs: dict[str, int], left_gguf: str, client: Client, ollama: StandInOllama, pull_gate: Gate
) -> None:
    """The client's question waits for the end of the removal."""
    removing = asyncio.create_task(reclaim_now(client))
    await eventually(lambda: pull_gate.entered)
    asking = asyncio.create_task(head(client, left_gguf))
    [layer] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    assert await head(client, layer.digest) == 200
    await asyncio.sleep(0.1)
    assert not asking.done()
    pull_gate.open.set()
    assert await asking == 404
    assert len((await removing)["blobs"]) == len(left_blobs)


async def test_a_client_gets_the_truth_while_blobs_are_chosen(
    left_gguf: str, client: Client, ollama: StandInOllama, has_blob_gate: Gate
) -> None:
    """While the proxy asks Ollama which unneeded blobs it has."""
    removing = asyncio.create_task(reclaim_now(client))
    await eventually(lambda: has_blob_gate.entered)
    asking = asyncio.create_task(head(client, left_gguf))
    await asyncio.wait([asking], timeout=0.3)
    has_blob_gate.open.set()
    status = await asking
    await removing
    assert (status == 200) is (left_gguf in ollama.blobs)


async def test_a_pull_during_a_removal_uploads_blobs_again(
    left_blobs: dict[str, int], left_gguf: str, client: Client, ollama: StandInOllama, pull_gate: Gate
) -> None:
    removing = asyncio.create_task(reclaim_now(client))
    await eventually(lambda: pull_gate.entered)
    before = len(pull_uploads(ollama))
    pulling = asyncio.create_task(client.pull(OTHER))
    await asyncio.sleep(0.1)
    pull_gate.open.set()
    assert len((await removing)["blobs"]) == len(left_blobs)
    assert (await pulling)[-1] == SUCCESS
    assert f"/api/blobs/{left_gguf}" in pull_uploads(ollama)[before:]
    assert_clean(ollama)
