"""A LoRA adapter becomes a layer on its base model."""

import aiohttp
import pytest

from proxy.app import App
from proxy.gguf.header import read_header
from proxy.standins.hub import StandInHub
from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.adapter_pulls import ADAPTER, BASE, WEIGHTS, layer_of
from tests.kit.conversions import converted
from tests.kit.job_clients import UNREACHED
from tests.kit.ollama_log import created, last_bars, uploads
from tests.kit.support import Client, digest_of, fetched, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_projector

OWN = {
    "template": b"{{ .Prompt }}!",
    "system": b"Be terse.",
    "license": b"Mine.",
    "params": b'{"stop": ["a\\nb"], "temperature": 0.5, "num_ctx": 4096, "use_mmap": true}',
}
"""By kind of layer."""


def made_of(base: dict[str, bytes]) -> str:
    """The digest of the GGUF that the proxy makes of the base."""
    return digest_of(converted(base, quantization="Q4_K_M"))


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


async def test_a_setting_of_a_newer_peft_is_shown(client: Client, hub: StandInHub, base: dict[str, bytes]) -> None:
    hub.add("acme/newer", tiny_adapter("acme/tiny", new_config={"a": 1}))
    lines = await client.pull("hf.co/acme/newer:bf16")
    (warning,) = (line["status"] for line in lines if line.get("status", "").startswith("warning: "))
    assert "acme/newer/adapter_config.json sets new_config" in warning
    assert lines[-1] == {"status": "success"}


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


async def test_the_bases_jinja_does_not_become_a_go_template(
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
    # Only the adapter: its config is that of the base.
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


async def test_a_revision_that_the_base_does_not_have_is_its_default_branch(
    hub: StandInHub, client: Client, ollama: StandInOllama, base: dict[str, bytes]
) -> None:
    """Report F18: unsloth's adapters name the revision `unsloth`. The stream says so."""
    hub.add("acme/adapter", tiny_adapter("acme/tiny", revision="unsloth"))
    lines = await client.pull(ADAPTER)
    assert lines[-1] == {"status": "success"}
    assert any("the revision unsloth of its base model, which acme/tiny does not have" in str(line) for line in lines)
    assert layer_of(ollama, BASE, "model").digest == made_of(base)


async def test_a_base_of_many_shards_shares_its_last_bar(
    hub: StandInHub, client: Client, adapter: dict[str, bytes]
) -> None:
    """The total has the adapter's bytes from the start: totals never change."""
    shards = tiny_llama(shards=18)
    hub.add("acme/tiny", shards)
    lines = await client.pull(ADAPTER)
    assert lines[-1] == {"status": "success"}
    bars = last_bars(lines)
    assert len(bars) == 16
    assert all(total == completed for total, completed in bars.values())
    weights = sum(len(content) for path, content in shards.items() if path.endswith(".safetensors"))
    assert weights < sum(total for total, _ in bars.values()) < weights + len(adapter[WEIGHTS]) + 1000


async def test_a_warning_is_shown_once(
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
    assert warning.count("Ollama reports the version 0.0.0") == 1
