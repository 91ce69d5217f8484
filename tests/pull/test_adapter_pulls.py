"""LoRA adapters on the wire: a missing base comes first, and what cannot work is refused before a weight byte."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.gguf.header import read_header
from proxy.inspection import inspect
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.repository import tiny_llama
from tests.kit.conversions import converted
from tests.kit.ollama_log import created, last_bars, uploads
from tests.kit.support import Client, digest_of, eventually, fetched, making, settings
from tests.kit.tiny_adapter import adapter_tensors, safetensors, tiny_adapter
from tests.kit.tiny_gguf import tiny_projector

ADAPTER = "hf.co/acme/adapter:q4_K_M"
BASE = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "adapter_model.safetensors"
UNREACHED = {"advertise_url": "http://127.0.0.1:9"}
"""Ollama does not reach the proxy for a manifest."""

OWN = {
    "template": b"{{ .Prompt }}!",
    "system": b"Be terse.",
    "license": b"Mine.",
    "params": b'{"stop": ["a\\nb"], "temperature": 0.5, "num_ctx": 4096, "use_mmap": true}',
}
"""By kind of layer."""


def layer_of(ollama: StandInOllama, name: str, kind: str) -> StoredLayer:
    [layer] = [layer for layer in ollama.models[name].layers if layer.kind == kind]
    return layer


def made_of(base: dict[str, bytes]) -> str:
    """The digest of the GGUF that the proxy makes of the base."""
    return digest_of(converted(base, quantization="Q4_K_M"))


@pytest.fixture
def base(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
def adapter(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_adapter("acme/tiny") | {"README.md": b"", "tokenizer.json": b"{}"}
    hub.add("acme/adapter", files)
    return files


async def test_a_missing_base_is_pulled_first_in_the_same_stream(
    client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    lines = await client.pull(ADAPTER)
    assert [line["status"] for line in lines if "digest" not in line] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    of_base, of_adapter = digest_of(base["model.safetensors"]), digest_of(adapter[WEIGHTS])
    bars = last_bars(lines)
    assert list(bars) == [of_base, of_adapter]
    assert all(total == completed for total, completed in bars.values())
    assert [line["digest"] for line in lines if line.get("digest", "") in bars][:2] == [of_base, of_adapter]
    assert not created(ollama)
    assert layer_of(ollama, BASE, "model").digest == made_of(base)
    made = layer_of(ollama, ADAPTER, "adapter").digest
    assert bars[of_adapter][0] == len(adapter[WEIGHTS])
    header = read_header(ollama._store.beginning(made), size=ollama.blobs[made])
    assert (header.architecture, header.get("general.type", str)) == ("llama", "adapter")
    kinds = [layer.kind for layer in ollama.models[ADAPTER].layers]
    assert kinds == ["model", "adapter", "template", "license", "params", "config"]
    assert sorted(ollama.models) == [ADAPTER, BASE]


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.40.0"])
async def test_the_model_is_its_base_with_one_more_layer(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, base: dict[str, bytes], version: str
) -> None:
    """Its manifest has the true sizes of all layers."""
    ollama.version = version
    hub.add("acme/adapter", tiny_adapter("acme/tiny"))
    name, on = "hf.co/acme/adapter:bf16", "hf.co/acme/tiny:bf16"
    async with App(settings(hub.endpoint, ollama.url)) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(name))[-1] == {"status": "success"}
    assert not created(ollama)
    changed, whole = ollama.models[name], ollama.models[on]
    assert layer_of(ollama, name, "model") == layer_of(ollama, on, "model")
    assert changed.details == whole.details
    assert (changed.template, changed.parameters) == (whole.template, whole.parameters)
    assert (changed.licenses, changed.system, changed.runner) == (whole.licenses, whole.system, "llamacpp")
    for layer in changed.layers:
        assert layer.size == ollama.blobs[layer.digest]
    assert changed.size == sum(ollama.blobs[layer.digest] for layer in changed.layers)


async def test_the_settings_of_a_held_base_come_along(
    client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    """Template, system text, license and parameters of a base that Ollama has already."""
    await client.pull(BASE)
    projector = tiny_projector()
    for content in (projector, *OWN.values()):
        ollama._store.keep(content)
    model = ollama.models[BASE]
    model.layers = (
        layer_of(ollama, BASE, "model"),
        StoredLayer("projector", digest_of(projector), len(projector)),
        *(StoredLayer(kind, digest_of(content), len(content), content.decode()) for kind, content in OWN.items()),
        layer_of(ollama, BASE, "config"),
    )
    assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
    made = ollama.models[ADAPTER]
    kinds = [layer.kind for layer in made.layers]
    assert kinds == ["model", "projector", "adapter", "template", "system", "license", "params", "config"]
    assert (made.template, made.system, made.licenses) == ("{{ .Prompt }}!", "Be terse.", ["Mine."])
    assert made.parameters == {"stop": ["a\nb"], "temperature": 0.5, "num_ctx": 4096, "use_mmap": True}
    assert made.size == sum(ollama.blobs[layer.digest] for layer in made.layers)


async def test_the_bases_own_jinja_becomes_no_go_template(
    client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    """From 0.30 on Ollama shows the Jinja in the weights where a model has no template layer."""
    ollama.version = "0.33.0"
    await client.pull(BASE)
    model = ollama.models[BASE]
    model.layers = tuple(layer for layer in model.layers if layer.kind != "template")
    assert "{%" in model.shown(BASE, reads_jinja=True)["template"]
    assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
    assert "template" not in [layer.kind for layer in ollama.models[ADAPTER].layers]


async def test_an_unreached_proxy_creates_the_adapters_model(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
) -> None:
    async with App(settings(hub.endpoint, ollama.url, ollama=UNREACHED)) as app:
        client = Client(app.address.url, session)
        lines = await client.pull(ADAPTER)
        ollama.version = "0.40.0"
        del ollama.models[ADAPTER]
        error = (await client.pull(ADAPTER))[-1]["error"]
    assert error.startswith(f"Ollama cannot create {ADAPTER}: LoRA adapters are no longer supported; Ollama does not")
    assert error.endswith("; set ollama.advertise_url")
    assert lines[-1] == {"status": "success"}
    _, body, _ = created(ollama)
    [made] = body["adapters"].values()
    assert body == {"model": ADAPTER, "from": BASE, "adapters": {"adapter.gguf": made}, "stream": False}


async def test_a_held_base_without_a_gguf_is_an_error(
    client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    ollama.models[BASE] = StandInModel()
    lines = await client.pull(ADAPTER)
    assert "Ollama has no GGUF of its base model" in lines[-1]["error"]
    assert ADAPTER not in ollama.models


async def test_with_a_held_base_only_the_adapter_moves(
    client: Client, hub: StandInHub, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    assert (await client.pull(BASE))[-1] == {"status": "success"}
    before = len(uploads(ollama))
    hub.requests.clear()
    lines = await client.pull(ADAPTER)
    assert [line["status"] for line in lines if "digest" not in line] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert list(last_bars(lines)) == [digest_of(adapter[WEIGHTS])]
    assert not fetched(hub, "/model.safetensors")
    # The adapter alone: its config is the base's.
    assert len(uploads(ollama)) == before + 1
    assert not created(ollama)


@pytest.mark.parametrize(
    ("tag", "quantization"), [("", "Q4_K_M"), (":latest", "Q4_K_M"), (":q8_0", "Q8_0"), (":F16", "F16")]
)
async def test_the_tag_is_the_bases(
    client: Client,
    ollama: StandInOllama,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
    tag: str,
    quantization: str,
) -> None:
    assert (await client.pull(f"hf.co/acme/adapter{tag}"))[-1] == {"status": "success"}
    assert ollama.models[f"hf.co/acme/tiny{tag}"].quantization_level == quantization
    weights = layer_of(ollama, f"hf.co/acme/adapter{tag}", "model")
    assert weights == layer_of(ollama, f"hf.co/acme/tiny{tag}", "model")


async def test_a_base_of_another_tag_does_not_count(
    client: Client, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    await client.pull("hf.co/acme/tiny:q8_0")
    await client.pull(ADAPTER)
    assert sorted(ollama.models) == [ADAPTER, BASE, "hf.co/acme/tiny:q8_0"]
    assert layer_of(ollama, ADAPTER, "model").digest == made_of(base)


async def test_the_base_is_found_in_another_case(
    client: Client, hub: StandInHub, ollama: StandInOllama, base: dict[str, bytes], adapter: dict[str, bytes]
) -> None:
    """Ollama spells a tag as another model has it."""
    hub.add("acme/other", tiny_llama(seed=4))
    assert (await client.pull("hf.co/acme/other:Q4_K_M"))[-1] == {"status": "success"}
    for _ in range(2):
        assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
        assert layer_of(ollama, ADAPTER, "model") == layer_of(ollama, BASE, "model")
    assert "hf.co/acme/tiny:Q4_K_M" in ollama.models


async def test_settings_are_each_models_own(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
) -> None:
    old = hub.repositories["acme/tiny"].commit
    hub.repositories["acme/tiny"].update(tiny_llama(seed=5))
    models = {
        "hf.co/acme/tiny": {"system": "Of the base.", "revision": old},
        "hf.co/acme/adapter": {"system": "Of the adapter."},
    }
    async with App(settings(hub.endpoint, ollama.url, models=models)) as app:
        assert (await Client(app.address.url, session).pull(ADAPTER))[-1] == {"status": "success"}
    assert [ollama.models[name].system for name in (BASE, ADAPTER)] == ["Of the base.", "Of the adapter."]
    assert layer_of(ollama, ADAPTER, "model").digest == made_of(base)


async def test_the_adapter_names_the_revision_of_its_base(
    hub: StandInHub, client: Client, ollama: StandInOllama, base: dict[str, bytes]
) -> None:
    old = hub.repositories["acme/tiny"].commit
    hub.repositories["acme/tiny"].update(tiny_llama(seed=5))
    hub.add("acme/adapter", tiny_adapter("acme/tiny", revision=old))
    assert (await client.pull(ADAPTER))[-1] == {"status": "success"}
    assert layer_of(ollama, BASE, "model").digest == made_of(base)


async def test_a_base_of_many_shards_shares_its_last_bar(
    hub: StandInHub, client: Client, adapter: dict[str, bytes]
) -> None:
    """A total that grows when the adapter's turn comes would go back on what clients were told."""
    shards = tiny_llama(shards=18)
    hub.add("acme/tiny", shards)
    lines = await client.pull(ADAPTER)
    assert lines[-1] == {"status": "success"}
    bars = last_bars(lines)
    assert len(bars) == 16
    assert all(total == completed for total, completed in bars.values())
    weights = sum(len(content) for path, content in shards.items() if path.endswith(".safetensors"))
    assert weights < sum(total for total, _ in bars.values()) < weights + len(adapter[WEIGHTS]) + 1000


async def test_a_warning_is_said_once(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    base: dict[str, bytes],
    adapter: dict[str, bytes],
) -> None:
    ollama.version = "0.0.0"
    async with App(settings(hub.endpoint, ollama.url)) as app:
        lines = await Client(app.address.url, session).pull(ADAPTER)
    [warning] = [line["status"] for line in lines if line.get("status", "").startswith("warning: ")]
    assert warning.count("Ollama calls itself 0.0.0") == 1


# ---- refused


async def refused(client: Client, hub: StandInHub, ollama: StandInOllama, name: str = ADAPTER) -> str:
    """The reason; no weight of the base nor of the adapter came, and nothing was left."""
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
            "is of the architecture 'MistralForCausalLM'; an adapter can be used",
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
            "names '/home/me/models/tiny' as its base model, which is no repository like ORG/REPO",
        ),
        ("../tiny", "which is no repository"),
        ("tiny", "which is no repository"),
        ("hf.co/acme/tiny", "which is no repository"),
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
        (tiny_adapter("acme/tiny", use_dora=True), "says use_dora: Ollama has no adapters with DoRA"),
        (tiny_adapter("acme/tiny", peft_type="IA3"), "Ollama takes only LORA adapters"),
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
    made = layer_of(ollama, ADAPTER, "adapter").digest
    del ollama.blobs[made], ollama.models[ADAPTER]
    hub.faults.append(Fault(WEIGHTS, "corrupt", after=20_000, times=-1))
    lines = await client.pull(ADAPTER)
    assert lines[-1]["error"].startswith(f"acme/adapter/{WEIGHTS} arrived damaged: its digest is ")
    assert made not in ollama.blobs


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
        # It is open whether the adapter comes too.
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
            # The probe whether Ollama keeps what has no name yet, and the base.
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
    """What is fetched is more than what is made of it."""
    found = (await inspect(settings(hub.endpoint, ollama.url), ADAPTER)).to_json()
    assert (found["format"], found["converter"], found["base"]) == ("adapter", "proxy", BASE)
    assert found["template"] == {"source": "base", "exact": None}
    by_path = {file["path"]: file for file in found["files"]}
    assert {path: file["digest"] for path, file in by_path.items()} == {"model.gguf": None, "adapter.gguf": None}
    assert by_path["model.gguf"]["size"] == len(converted(base, quantization="Q4_K_M"))
    assert found["bytes_to_move"] == len(base["model.safetensors"]) + len(adapter[WEIGHTS])
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
