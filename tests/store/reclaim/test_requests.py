"""`POST /-/reclaim`."""

import asyncio
from typing import Any

import orjson
import pytest

from proxy.ollama.blobs import PROBE_DIGEST
from proxy.standins.ollama import StandInModel, StandInOllama
from tests.kit.conversions import gguf_digest
from tests.kit.reclaiming import LEFT_TEMPORARY, NAME, SUCCESS, assert_clean, left_models, orphans, reclaim_now
from tests.kit.support import Client, eventually, making


async def test_reclaim_returns_what_it_removed(
    left_blobs: dict[str, int], client: Client, ollama: StandInOllama
) -> None:
    ollama.models[LEFT_TEMPORARY] = StandInModel()
    small_first = sorted((size, digest) for digest, size in left_blobs.items())
    expected = [{"digest": digest, "size": size} for size, digest in small_first]
    before = dict(ollama.blobs)
    would = await reclaim_now(client, dry_run=True)
    total = sum(left_blobs.values())
    assert would == {"dry_run": True, "blobs": expected, "models": [LEFT_TEMPORARY], "bytes": total, "spooled": 0}
    assert ollama.blobs == before
    assert LEFT_TEMPORARY in ollama.models
    assert await reclaim_now(client, dry_run=False) == would | {"dry_run": False}
    assert not orphans(ollama) & left_blobs.keys()
    assert left_models(ollama) == []
    nothing: dict[str, Any] = {"blobs": [], "models": [], "bytes": 0, "spooled": 0}
    assert await reclaim_now(client) == {"dry_run": False, **nothing}
    assert await reclaim_now(client, dry_run=True) == {"dry_run": True, **nothing}


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
    left_blobs: dict[str, int], client: Client, ollama: StandInOllama, headers: dict[str, str], body: bytes, status: int
) -> None:
    url = f"{client.url}/-/reclaim"
    skipped = ["Content-Type"]
    async with client.session.post(url, data=body, headers=headers, skip_auto_headers=skipped) as response:
        assert response.status == status
    assert bool(orphans(ollama) & left_blobs.keys()) is (status != 200)


async def test_reclaim_is_not_a_get(left_blobs: dict[str, int], client: Client, ollama: StandInOllama) -> None:
    status, _ = await client.get("/-/reclaim")
    assert status == 404
    assert left_blobs.keys() <= orphans(ollama)


async def test_reclaim_removes_nothing_of_a_running_pull(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    ollama.hold_making = asyncio.Event()
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: making(ollama.requests))
    assert {blob["digest"] for blob in (await reclaim_now(client))["blobs"]} <= {PROBE_DIGEST}
    assert gguf_digest(files, NAME) in ollama.blobs
    ollama.hold_making.set()
    assert (await pulling)[-1] == SUCCESS
    assert_clean(ollama)


async def test_reclaim_without_ollama_is_an_error(
    left_blobs: dict[str, int], client: Client, ollama: StandInOllama
) -> None:
    await ollama.close()
    status, answer = await client.post("/-/reclaim", {})
    assert status == 502
    assert "cannot be reached" in orjson.loads(answer)["error"]
    await ollama.start()
    assert len((await reclaim_now(client))["blobs"]) == len(left_blobs)
