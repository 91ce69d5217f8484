"""Adapters and bases that are refused, and what goes wrong on the way."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.inspection import inspect
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.adapter_pulls import ADAPTER, BASE, WEIGHTS, layer_of
from tests.kit.conversions import converted
from tests.kit.job_clients import UNREACHED
from tests.kit.ollama_log import created, last_bars, uploads
from tests.kit.support import Client, eventually, fetched, making, settings
from tests.kit.tiny_adapter import adapter_tensors, safetensors, tiny_adapter


async def refused(client: Client, hub: StandInHub, ollama: StandInOllama, name: str = ADAPTER) -> str:
    """The reason. No weights of the base or of the adapter were fetched, and nothing is left in Ollama."""
    lines = await client.pull(name)
    assert set(lines[-1]) == {"error"}
    assert not fetched(hub)
    assert not uploads(ollama)
    assert not created(ollama)
    return str(lines[-1]["error"])


def with_config(files: dict[str, bytes], **fields: Any) -> dict[str, bytes]:
    return files | {"config.json": json.dumps(json.loads(files["config.json"]) | fields).encode()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_act": "gelu"},
            "the adapter's base model cannot be pulled: acme/tiny: config.json has hidden_act = 'gelu'",
        ),
        (
            {"architectures": ["MistralForCausalLM"]},
            "has the architecture 'MistralForCausalLM'; adapters work with",
        ),
        (
            {"num_hidden_layers": 3},
            "the adapter's base model cannot be pulled: acme/tiny: the weights have nothing that becomes blk.2.",
        ),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
    ],
    ids=["setting", "architecture", "tensors", "layers"],
)
async def test_an_unusable_base_is_refused_early(
    hub: StandInHub,
    client: Client,
    ollama: StandInOllama,
    adapter: dict[str, bytes],
    fields: dict[str, Any],
    message: str,
) -> None:
    """Before a weight byte moves."""
    hub.add("acme/tiny", with_config(tiny_llama(), **fields))
    assert message in await refused(client, hub, ollama)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("acme/none", "the adapter's base model cannot be pulled: there is no repository acme/none"),
        (
            "/home/me/models/tiny",
            "names '/home/me/models/tiny' as its base model, which is not a repository such as ORG/REPO",
        ),
        ("../tiny", "which is not a repository"),
        ("tiny", "which is not a repository"),
        ("hf.co/acme/tiny", "which is not a repository"),
        ("", "names no base model"),
        ("a.b/tiny", "names the base model a.b/tiny, a name that Ollama does not take"),
        ("acme/adapter", "acme/adapter, the adapter's base model, is an adapter itself"),
        ("acme/empty", "acme/empty, the adapter's base model, has no config.json"),
        ("acme/gated", "the adapter's base model cannot be pulled: acme/gated at http://127.0.0.1"),
    ],
)
async def test_a_base_of_another_kind_is_refused_with_its_name(
    hub: StandInHub, client: Client, ollama: StandInOllama, named: str, message: str
) -> None:
    hub.add("acme/adapter", tiny_adapter(named) | {"config.json": tiny_llama()["config.json"]})
    hub.add("acme/empty", {"README.md": b""})
    hub.add("acme/gated", tiny_llama(), gated=True)
    assert message in await refused(client, hub, ollama)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (tiny_adapter("acme/tiny", use_dora=True), "sets use_dora: Ollama does not support adapters with DoRA"),
        (tiny_adapter("acme/tiny", peft_type="IA3"), "Ollama supports LORA adapters only"),
        ({"adapter_config.json": b"{"}, "is a LoRA adapter without adapter_model.safetensors"),
        (tiny_adapter("acme/tiny") | {"adapter_config.json": b"{"}, "adapter_config.json is not JSON"),
        (tiny_adapter("acme/tiny") | {WEIGHTS: safetensors(adapter_tensors(layers=3))}, "which does not fit the base"),
        (tiny_adapter("acme/tiny") | {WEIGHTS: b"version https://git-lfs"}, f"acme/adapter/{WEIGHTS}"),
        (tiny_adapter("acme/tiny") | {WEIGHTS: b"\x40\0\0\0\0\0\0\0{}" + bytes(70)}, f"acme/adapter/{WEIGHTS}"),
    ],
    ids=["dora", "ia3", "no weights", "json", "other base", "pointer", "broken"],
)
async def test_an_unusable_adapter_is_refused_early(
    hub: StandInHub,
    client: Client,
    ollama: StandInOllama,
    base: dict[str, bytes],
    files: dict[str, bytes],
    message: str,
) -> None:
    """Before a weight byte moves."""
    hub.add("acme/adapter", files)
    assert message in await refused(client, hub, ollama)


# ---- what goes wrong on the way


async def test_a_damaged_adapter_is_fetched_once_more(
    hub: StandInHub, client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    """Then the pull is refused."""
    hub.faults.append(Fault(WEIGHTS, "corrupt", after=20_000))
    assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
    digest = layer_of(ollama, ADAPTER, "adapter").digest
    del ollama.blobs[digest], ollama.models[ADAPTER]
    hub.faults.append(Fault(WEIGHTS, "corrupt", after=20_000, times=-1))
    lines = await client.pull(ADAPTER)
    assert lines[-1]["error"].startswith(f"acme/adapter/{WEIGHTS} arrived damaged: its digest is ")
    assert digest not in ollama.blobs


async def test_a_failure_of_the_bases_create_ends_the_pull(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
) -> None:
    ollama.fail_create = "unsupported architecture"
    async with App(settings(hub.endpoint, ollama.url, ollama=UNREACHED)) as app:
        lines = await Client(app.address.url, session).pull(ADAPTER)
    error = f"Ollama cannot create {BASE}: unsupported architecture; Ollama does not reach the proxy at "
    assert lines[-1]["error"].startswith(error)
    assert len(created(ollama)) == 1
    assert not ollama.models


@pytest.mark.parametrize("sections", [{}, UNREACHED], ids=["manifest", "create"])
async def test_leaving_during_the_bases_create_is_clean(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
    sections: dict[str, Any],
) -> None:
    """The base is complete, and nothing of the adapter is there."""
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=sections)) as app:
        client = Client(app.address.url, session)
        pulling = asyncio.create_task(client.post("/api/pull", {"model": ADAPTER}))
        await eventually(lambda: created(ollama) if sections else making(ollama.requests))
        pulling.cancel()
        await asyncio.sleep(0.1)
        ollama.hold_making.set()
        await eventually(lambda: [task for task in asyncio.all_tasks() if task.get_name().startswith("pull")] == [])
        assert BASE in ollama.models
        assert ollama.abandoned_creates == 0
        # The adapter may be there or not.
        assert set(ollama.models) <= {BASE, ADAPTER}
        assert (await client.pull(ADAPTER))[-1] == {"status": "success"}


async def test_leaving_during_the_bases_transfer_ends_the_pull(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
) -> None:
    """With `pull.linger = 0`."""
    hub.faults.append(Fault("model.safetensors", "hang", after=1_000_000, times=-1))
    async with App(settings(hub.endpoint, ollama.url, pull={"linger": 0})) as app:
        async with session.post(f"{app.address.url}/api/pull", json={"model": ADAPTER}) as response:
            # The probe for mismatched digests, and the base.
            await eventually(lambda: len(uploads(ollama)) > 1)
            response.close()
        await eventually(lambda: [task for task in asyncio.all_tasks() if task.get_name().startswith("pull")] == [])
    assert not created(ollama)
    assert not ollama.models


async def test_too_little_disk_for_both_is_refused_early(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a weight byte moves."""
    from proxy.ollama import disk

    async with App(settings(hub.endpoint, ollama.url, ollama={"models": str(tmp_path)})) as app:
        config = settings(hub.endpoint, ollama.url)
        plan = (await inspect(config, ADAPTER)).plan
        assert plan is not None
        assert len(plan.steps) == 2
        needed = sum(upload.size for step in plan.steps for upload in step.uploads)
        monkeypatch.setattr(disk, "_free", lambda _: needed - 1)
        client = Client(app.address.url, session)
        assert f"{ADAPTER} needs about" in await refused(client, hub, ollama)
        monkeypatch.setattr(disk, "_free", lambda _: needed)
        assert (await client.pull(ADAPTER))[-1] == {"status": "success"}


# ---- other places


async def test_inspect_shows_the_base_and_the_files_of_both(
    hub: StandInHub, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    """More bytes are fetched than the result has."""
    inspection = (await inspect(settings(hub.endpoint, ollama.url), ADAPTER)).to_json()
    assert (inspection["format"], inspection["converter"], inspection["base"]) == ("adapter", "proxy", BASE)
    assert inspection["template"] == {"source": "base", "exact": None}
    by_path = {file["path"]: file for file in inspection["files"]}
    assert {path: file["digest"] for path, file in by_path.items()} == {"model.gguf": None, "adapter.gguf": None}
    assert by_path["model.gguf"]["size"] == len(converted(base, quantization="Q4_K_M"))
    assert inspection["bytes_to_move"] == len(base["model.safetensors"]) + len(adapter[WEIGHTS])
    assert not fetched(hub)
    ollama.models[BASE] = StandInModel()
    [file] = (await inspect(settings(hub.endpoint, ollama.url), ADAPTER)).to_json()["files"]
    assert file["path"] == "adapter.gguf"


async def test_an_adapters_gguf_needs_its_own_tag(
    hub: StandInHub, client: Client, ollama: StandInOllama, base: dict[str, bytes]
) -> None:
    hub.add("acme/adapter", tiny_adapter("acme/tiny") | {"adapter-f16.gguf": b"GGUF"})
    assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
    assert layer_of(ollama, ADAPTER, "adapter")


async def test_an_adapter_in_a_folder_is_on_a_base_in_that_folder(
    tmp_path: Path, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    for repository, files in (("tiny", tiny_llama()), ("adapter", tiny_adapter("acme/tiny"))):
        folder = tmp_path / "acme" / repository
        folder.mkdir(parents=True)
        for path, content in files.items():
            (folder / path).write_bytes(content)
    sources = {"home": {"type": "folder", "path": str(tmp_path)}}
    async with App(settings("http://127.0.0.1:9", ollama.url, sources=sources)) as app:
        lines = await Client(app.address.url, session).pull("home/acme/adapter:q8_0")
    assert lines[-1] == {"status": "success"}
    assert sorted(ollama.models) == ["home/acme/adapter:q8_0", "home/acme/tiny:q8_0"]
    assert all(total == completed for total, completed in last_bars(lines).values())
