"""Repeated pulls of models that the proxy converted."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.pull.freshness import UNQUANTIZED
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.ollama_log import last_bars, weight_uploads
from tests.kit.repeated_pulls import (
    Pull,
    assert_nothing_but_metadata,
    assert_only_looked,
    clear,
    lines_of_held,
    with_settings,
)
from tests.kit.support import fetched

RECLAIM: dict[str, Any] = {"ollama": {"reclaim": True}}

TAGS = pytest.mark.parametrize("tag", ["bf16", "q8_0", "f16", "f32", "q4_K_M"])


def check_clean(ollama: StandInOllama, name: str) -> None:
    assert list(ollama.models) == [name]
    assert ollama.blobs.keys() == ollama.models.used_digests()


@TAGS
async def test_a_converted_model_costs_only_metadata_again(
    pull: Pull, lose_journal: Callable[[], None], shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    """If the journal is lost, one check of the model."""
    name = f"hf.co/acme/tiny:{tag}"
    first = await pull(name, **RECLAIM)
    assert first[-1] == {"status": "success"}
    model = ollama.models[name]
    for look in (assert_nothing_but_metadata, assert_only_looked, assert_nothing_but_metadata):
        if look is assert_only_looked:
            lose_journal()
        clear(hub, ollama)
        lines = await pull(name, **RECLAIM)
        assert [line["status"] for line in lines] == [line["status"] for line in lines_of_held(shards)]
        assert last_bars(lines) == last_bars(first)
        look(hub, ollama)
    assert ollama.models[name] is model
    check_clean(ollama, name)


@TAGS
@pytest.mark.parametrize(
    "changes",
    [{"template": "{{ .Prompt }}!"}, {"license": ["MIT"]}, {"parameters": {"num_ctx": 8192}}, {"system": None}],
    ids=str,
)
async def test_other_settings_move_no_converted_weights(
    pull: Pull, shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str, changes: dict[str, Any]
) -> None:
    """From no settings to some, and from those to others."""
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **RECLAIM)
    [weights] = [layer for layer in ollama.models[name].layers if layer.kind == "model"]
    for sections in (with_settings(), with_settings(**changes)):
        clear(hub, ollama)
        assert (await pull(name, **RECLAIM, **sections))[-1] == {"status": "success"}
        assert not fetched(hub)
        assert not weight_uploads(ollama)
        model, expected = ollama.models[name], sections["models"]["hf.co/acme/tiny"]
        assert [layer for layer in model.layers if layer.kind == "model"] == [weights]
        assert (model.template, model.system) == (expected["template"], expected.get("system", ""))
        assert model.licenses == expected["license"]
        assert model.parameters.items() >= expected["parameters"].items()
        assert model.quantization_level in UNQUANTIZED.get(tag.upper(), (tag.upper(),))
        check_clean(ollama, name)
        clear(hub, ollama)
        assert (await pull(name, **RECLAIM, **sections))[-1] == {"status": "success"}
        assert_nothing_but_metadata(hub, ollama)


@TAGS
async def test_an_unrelated_commit_costs_one_check_if_converted(
    pull: Pull, shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **RECLAIM)
    readme = tiny_llama()["README.md"] + b"More.\n"
    hub.repositories["acme/tiny"].update({"README.md": readme, "notes.txt": b"new"})
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


@TAGS
@pytest.mark.parametrize("changed", ["tokenizer_config.json", "config.json", "model-00002-of-00002.safetensors"])
async def test_a_changed_source_file_replaces_the_model(
    pull: Pull, shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str, changed: str
) -> None:
    """Nothing of the old model stays."""
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **RECLAIM)
    before = ollama.models[name]
    files = tiny_llama(seed=1, shards=2)
    if not changed.endswith(".safetensors"):
        key = "rope_theta" if changed == "config.json" else "chat_template"
        value = 10000.0 if changed == "config.json" else "{{ messages[0].content }}"
        files[changed] = orjson.dumps({**orjson.loads(tiny_llama(shards=2)[changed]), key: value})
    hub.repositories["acme/tiny"].update({changed: files[changed]})
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert fetched(hub)
    after = ollama.models[name]
    weights = [[layer.digest for layer in model.layers if layer.kind == "model"] for model in (before, after)]
    assert weights[0] != weights[1]
    check_clean(ollama, name)
    clear(hub, ollama)
    assert (await pull(name, **RECLAIM))[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)
