"""Other settings make a model again from its own weights."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.ollama_log import created, weight_uploads
from tests.kit.repeated_pulls import (
    NAME,
    SETTINGS,
    WEIGHTS,
    Pull,
    assert_nothing_but_metadata,
    clear,
    lines_of_held,
    with_settings,
)
from tests.kit.support import fetched


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
@pytest.mark.parametrize(
    "changes",
    [
        {"template": "{{ .Prompt }}!"},
        {"system": "Be verbose."},
        {"system": None},
        {"license": "Apache"},
        {"license": ["MIT"]},
        {"parameters": {"num_ctx": 4096}},
        {"parameters": {"num_ctx": 8192, "temperature": 0.7, "stop": ["x"]}},
    ],
    ids=["template", "system", "no system", "license", "one license less", "parameters less", "parameters"],
)
async def test_other_settings_reuse_the_models_weights(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama, changes: dict[str, Any], version: str
) -> None:
    ollama.version = version
    reclaim = {"ollama": {"reclaim": True}}
    await pull(**with_settings(), **reclaim)
    [weights] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    clear(hub, ollama)
    assert (await pull(**with_settings(**changes), **reclaim))[-1] == {"status": "success"}
    assert not fetched(hub)
    assert not weight_uploads(ollama)
    assert not created(ollama)
    model, expected = ollama.models[NAME], {**SETTINGS, **changes}
    assert [layer for layer in model.layers if layer.kind == "model"] == [weights]
    assert model.size == sum(ollama.blobs[layer.digest] for layer in model.layers)
    assert model.runner == "llamacpp"
    assert model.template == expected["template"]
    assert model.system == (expected["system"] or "")
    assert model.licenses == ([expected["license"]] if isinstance(expected["license"], str) else expected["license"])
    of_repository = {"repeat_penalty": 1.0, "stop": ["<|eot_id|>"]}
    assert model.parameters == of_repository | expected["parameters"]
    assert model.quantization_level == "Q4_K_M"
    assert set(ollama.blobs) >= {layer.digest for layer in model.layers}


async def test_a_recreated_model_equals_a_first_pulls(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The model after a change of its settings has the layers that a first pull would give it."""
    await pull(**with_settings(), ollama={"reclaim": True})
    await pull(ollama={"reclaim": True})
    recreated = ollama.models[NAME]
    del ollama.models[NAME]
    await pull(ollama={"reclaim": True})
    fresh = ollama.models[NAME]
    assert set(recreated.layers) == set(fresh.layers)
    assert recreated.details == fresh.details


async def test_other_settings_work_through_a_create_too(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """When Ollama does not reach the proxy for a manifest."""
    await pull(**with_settings())
    [weights] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    clear(hub, ollama)
    lines = await pull(**with_settings(system="Be verbose."), ollama={"advertise_url": "http://127.0.0.1:9"})
    assert lines[-1] == {"status": "success"}
    assert not fetched(hub)
    body = created(ollama)[-1]
    assert body["files"] == {"model-0.gguf": weights.digest}
    assert "quantize" not in body
    assert ollama.models[NAME].system == "Be verbose."


async def test_other_settings_have_the_contracts_lines(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**with_settings())
    lines = await pull(**with_settings(system="Be verbose."))
    assert lines == lines_of_held([files[WEIGHTS]])


async def test_a_recreated_model_is_recorded(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**with_settings())
    await pull(**with_settings(system="Be verbose."))
    clear(hub, ollama)
    assert await pull(**with_settings(system="Be verbose.")) == lines_of_held([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)


async def test_another_license_costs_only_a_manifest(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(ollama={"reclaim": True})
    hub.repositories["acme/tiny"].update({"LICENSE": b"All rights reserved.\n"})
    clear(hub, ollama)
    assert (await pull(ollama={"reclaim": True}))[-1] == {"status": "success"}
    assert not fetched(hub)
    assert not weight_uploads(ollama)
    assert ollama.models[NAME].licenses == ["All rights reserved.\n"]


async def test_without_a_record_other_settings_need_the_files(
    pull: Pull, lose_journal: Callable[[], None], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The sources of the weights are unknown then."""
    await pull(**with_settings(), ollama={"reclaim": True})
    lose_journal()
    clear(hub, ollama)
    assert (await pull(**with_settings(system="Be verbose."), ollama={"reclaim": True}))[-1] == {"status": "success"}
    assert fetched(hub)
    assert ollama.models[NAME].system == "Be verbose."
