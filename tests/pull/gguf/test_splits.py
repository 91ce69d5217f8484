"""A GGUF in several files becomes one blob."""

from typing import Any

import pytest

from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.gguf_pulls import F16_NAME, FLOATS, NAME, REPOSITORY, gguf_layers, weight_bytes
from tests.kit.ollama_log import created, last_bars
from tests.kit.support import Client, digest_of


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.40.0"])
async def test_shards_become_one_blob_that_is_the_unsplit_file(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes], version: str
) -> None:
    ollama.version = version
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert gguf_layers(ollama, F16_NAME) == [("model", digest_of(FLOATS))]
    assert ollama.blobs[digest_of(FLOATS)] == len(FLOATS)
    assert ollama.models[F16_NAME].quantization_level == "F16"
    bars = last_bars(lines)
    assert list(bars) == [digest_of(part) for part in shards.values()]
    assert bars == {digest_of(part): (len(part), len(part)) for part in shards.values()}


async def test_each_shards_bar_moves_with_its_own_bytes(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: dict[str, bytes], small_spans: int
) -> None:
    hub.line = 1_500_000
    lines = await client.pull(F16_NAME)
    order = [digest_of(part) for part in shards.values()]
    now = dict.fromkeys(order, (1, 0))
    seen = set()
    for line in lines:
        if line.get("digest") in now:
            now[line["digest"]] = line["total"], line.get("completed", 0)
            seen.add((line["digest"], line.get("completed", 0)))
            # Bytes reach Ollama in the file's order, so no bar moves before the one above it is full.
            full = [total == completed for total, completed in now.values()]
            begun = [completed > 0 for _, completed in now.values()]
            assert all(full[place] or not any(begun[place + 1 :]) for place in range(len(order)))
    assert len(seen) > 2 * len(order)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop", "after": 100_000, "times": 2},
        {"kind": "short", "after": 100_000, "times": 2},
        {"kind": "status", "status": 503, "times": 2},
        {"kind": "cut"},
        {"kind": "corrupt", "after": 150_000},
    ],
    ids=lambda fault: fault["kind"],
)
async def test_a_fault_in_a_shard_costs_only_missing_bytes(
    hub: StandInHub,
    ollama: StandInOllama,
    client: Client,
    shards: dict[str, bytes],
    small_spans: int,
    fault: dict[str, Any],
) -> None:
    hub.faults.append(Fault(list(shards)[1], **fault))
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert all(total == completed for total, completed in last_bars(lines).values())
    assert digest_of(FLOATS) in ollama.blobs
    assert weight_bytes(hub) < (2.5 if fault["kind"] == "corrupt" else 1.5) * len(FLOATS)


async def test_a_shard_damaged_twice_becomes_no_blob(
    hub: StandInHub, ollama: StandInOllama, client: Client, shards: dict[str, bytes]
) -> None:
    """The error names it."""
    path = list(shards)[2]
    hub.faults.append(Fault(path, "corrupt", after=200_000, times=-1))
    lines = await client.pull(F16_NAME)
    assert lines[-1]["error"].startswith(f"{REPOSITORY}/{path} arrived damaged: its digest is ")
    assert all(size < 1000 for size in ollama.blobs.values())


async def test_a_source_without_ranges_gives_whole_shards(
    hub: StandInHub, ollama: StandInOllama, client: Client, shards: dict[str, bytes]
) -> None:
    hub.faults.append(Fault("*", "whole", times=-1))
    assert (await client.pull(F16_NAME))[-1] == {"status": "success"}
    assert digest_of(FLOATS) in ollama.blobs


async def test_an_upload_that_breaks_takes_its_bars_back(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: dict[str, bytes], small_spans: int
) -> None:
    hub.line = 3_000_000
    ollama.fail_upload_after = 500_000
    pulled = await client.pull(F16_NAME)
    assert "broke off the upload" in pulled[-1]["error"]
    completed = [
        line.get("completed", 0) for line in pulled if line.get("digest") == digest_of(next(iter(shards.values())))
    ]
    assert completed != sorted(completed)
    ollama.fail_upload_after = None
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert all(total == done for total, done in last_bars(lines).values())


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_a_split_of_f16_is_quantized(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes], version: str
) -> None:
    ollama.version = version
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert not created(ollama)
    assert ollama.models[NAME].quantization_level == "Q4_K_M"


async def test_a_merged_split_is_stored_only_once(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes]
) -> None:
    """A second pull may move it again."""
    await client.pull(F16_NAME)
    before = dict(ollama.blobs)
    assert (await client.pull(F16_NAME))[-1] == {"status": "success"}
    assert ollama.blobs == before


async def test_without_mismatched_digests_shards_use_a_spool(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes]
) -> None:
    """Without mismatched digests, Ollama keeps no blob that was uploaded under another digest."""
    ollama.keeps_mismatched = False
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert digest_of(FLOATS) in ollama.blobs
    assert all(total == done for total, done in last_bars(lines).values())
