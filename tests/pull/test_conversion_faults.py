"""Faults of the Hub during a conversion: of files that are read in order, and of experts from all shards in turn."""

import asyncio
from typing import Any

import pytest

from proxy.app import App
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.sources import http_file
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import conversion, converted, striped, weights_of
from tests.kit.support import Client, digest_of, eventually, fetched, settings

NAME = "hf.co/acme/tiny:bf16"
SUCCESS = {"status": "success"}
DENSE = REPOSITORIES["qwen3"].files()
EXPERTS = striped(REPOSITORIES["mixtral"].files())
BOTH = pytest.mark.parametrize("files", [DENSE, EXPERTS], ids=["dense", "experts"])
FIRST, SECOND = sorted(path for path in DENSE if path.endswith(".safetensors"))


@pytest.fixture
async def app(small_spans: int, hub: StandInHub, ollama: StandInOllama) -> Any:
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        yield app
        await eventually(lambda: app.backend.streams.idle)


def check_made(ollama: StandInOllama, files: dict[str, bytes]) -> None:
    gguf = converted(files)
    assert ollama.blobs[digest_of(gguf)] == len(gguf)
    assert ollama.blobs.keys() == ollama.models.used_digests()


def test_only_experts_need_ranges_of_the_hub() -> None:
    assert conversion(DENSE).in_file_order
    assert not conversion(EXPERTS).in_file_order


@BOTH
@pytest.mark.parametrize("kind", ["drop", "hang", "short", "cut", "misplaced"])
async def test_an_interrupted_range_is_resumed(
    client: Client,
    hub: StandInHub,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    kind: Any,
) -> None:
    monkeypatch.setattr(http_file, "READ_SECONDS", 0.3)
    hub.add("acme/tiny", files)
    hub.faults += [Fault(path, kind, after=50_000, times=2) for path in (FIRST, SECOND)]
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, files)
    uploads = [one for one in ollama.requests if one.method == "POST" and one.received > 1_000_000]
    assert len(uploads) == 1


async def test_bytes_that_no_blob_needs_arrive_before_the_last_bytes_are_sent(
    client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step's layer for multi-token prediction is at the end of its file, which is checked as a whole."""
    monkeypatch.setattr(http_file, "READ_SECONDS", 0.3)
    ollama.version = "0.40.0"
    files = REPOSITORIES["step35"].files() | {"tokenizer_config.json": b"{}"}
    hub.add("acme/tiny", files)
    hub.faults.append(Fault("model.safetensors", "hang", after=len(files["model.safetensors"]) - 1, times=1))
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, files)
    assert len([one for one in ollama.requests if one.method == "POST" and one.received > 1_000_000]) == 1


@BOTH
@pytest.mark.parametrize("at", ["bytes", "resolve"])
async def test_a_hub_that_asks_to_wait_is_waited_for(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes], at: Any
) -> None:
    hub.add("acme/tiny", files)
    hub.faults.append(Fault(SECOND, "status", status=429, headers={"Retry-After": "0"}, at=at, times=2))
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, files)


async def test_a_shard_damaged_twice_is_named_and_removed(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/tiny", DENSE)
    hub.faults.append(Fault(SECOND, "corrupt", after=len(DENSE[SECOND]) - 1, times=-1))
    assert f"acme/tiny/{SECOND} arrived damaged" in (await client.pull(NAME))[-1]["error"]
    assert ollama.blobs.keys() <= {PROBE_DIGEST}
    assert not ollama.models
    hub.faults.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, DENSE)


async def test_a_mirror_without_ranges_is_read_in_one_stream_a_shard(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/tiny", DENSE)
    hub.mirror = True
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, DENSE)


@pytest.mark.parametrize("late", [False, True])
async def test_experts_need_ranges_and_the_error_says_so(
    client: Client, hub: StandInHub, ollama: StandInOllama, late: bool
) -> None:
    hub.add("acme/tiny", EXPERTS)
    if late:
        hub.faults.append(Fault(SECOND, "whole", after=200_000, times=-1))
    else:
        hub.mirror = True
    error = (await client.pull(NAME))[-1]["error"]
    assert "sends no ranges" in error
    assert "in another order than its files have them; use an endpoint that sends ranges" in error
    assert not ollama.models
    assert ollama.blobs.keys() <= {PROBE_DIGEST}
    hub.faults.clear()
    hub.mirror = False
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, EXPERTS)


async def test_a_new_commit_does_not_change_a_running_pull(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """The next pull gets the new commit."""
    hub.add("acme/tiny", DENSE)
    ollama.hold_upload = asyncio.Event()
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: any(one.path.startswith("/api/blobs/") for one in ollama.requests))
    hub.repositories["acme/tiny"].update(EXPERTS)
    ollama.hold_upload.set()
    assert (await pulling)[-1] == SUCCESS
    check_made(ollama, DENSE)
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_made(ollama, EXPERTS)
    assert fetched(hub)


@BOTH
async def test_a_file_that_changed_at_the_source_is_an_error(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    hub.add("acme/tiny", files)
    hub.faults.append(Fault(FIRST, "headers", headers={"X-Linked-Size": "1"}, at="resolve", times=-1))
    error = (await client.pull(NAME))[-1]["error"]
    assert f"acme/tiny/{FIRST}" in error
    assert "has changed at the source" in error
    assert not ollama.models


async def test_experts_cost_each_byte_of_each_tensor_once(client: Client, hub: StandInHub) -> None:
    hub.add("acme/tiny", EXPERTS)
    assert (await client.pull(NAME))[-1] == SUCCESS
    headers = sum(int.from_bytes(EXPERTS[path][:8], "little") + 8 for path in (FIRST, SECOND))
    assert sum(one.body_bytes for one in fetched(hub, ".safetensors")) == sum(weights_of(EXPERTS).values()) - headers
