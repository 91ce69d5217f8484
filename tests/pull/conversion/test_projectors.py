"""Pulls of models that see: the text model and its projector, in one pull."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.inspection import inspect
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.projecting import projector
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import Weights
from tests.kit.conversions import converted
from tests.kit.gguf_pulls import gguf_layers
from tests.kit.ollama_log import last_bars, weight_uploads
from tests.kit.support import Client, digest_of, fetched, settings

NAME = "hf.co/acme/tiny:bf16"
LOST = "warning: this model cannot see"


@pytest.fixture
def files() -> dict[str, bytes]:
    """Without a chat template, which this Ollama would render by itself."""
    return {**REPOSITORIES["gemma3_eyes"].files(), "tokenizer_config.json": b"{}"}


@pytest.fixture(autouse=True)
def newer_ollama(ollama: StandInOllama) -> None:
    ollama.version = "0.40.0"


def edited_towers(edit: Callable[[Weights], object]) -> dict[str, bytes]:
    """The files of a repository after `edit` has changed the tensors of its tower."""
    tiny = REPOSITORIES["gemma3_eyes"]
    [tower] = tiny.towers

    def make(weights: Weights) -> None:
        tower.weights(weights)
        edit(weights)

    return replace(tiny, towers=(replace(tower, weights=make),)).files()


async def _pull(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, **sections: Any
) -> list[dict[str, Any]]:
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        lines: list[dict[str, Any]] = await Client(app.address.url, session).pull(NAME)
        return lines


async def test_both_blobs_are_installed(client: Client, hub: StandInHub, ollama: StandInOllama, files: Any) -> None:
    """Their bytes come once, and one bar shows them."""
    hub.add("acme/tiny", files)
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    eyes = projector(files, name="tiny")
    text = converted(files, quantization="BF16")
    assert gguf_layers(ollama, NAME) == [("model", digest_of(text)), ("projector", digest_of(eyes))]
    assert not any(LOST in line.get("status", "") for line in lines)
    size = len(files["model.safetensors"])
    assert _weight_bytes(hub, files) == size
    assert last_bars(lines) == {digest_of(files["model.safetensors"]): (size, size)}
    assert {line["total"] for line in lines if "digest" in line} <= {size, 1}


def _weight_bytes(hub: StandInHub, files: Mapping[str, bytes]) -> int:
    return sum(one.body_bytes for one in fetched(hub, digest_of(files["model.safetensors"]).removeprefix("sha256:")))


async def test_without_a_place_to_keep_them_they_come_twice(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: Any
) -> None:
    hub.add("acme/tiny", files)
    lines = await _pull(hub, ollama, session, pull={"spool": "off"})
    assert lines[-1] == {"status": "success"}
    assert gguf_layers(ollama, NAME)[1] == ("projector", digest_of(projector(files, name="tiny")))
    assert _weight_bytes(hub, files) > len(files["model.safetensors"])


@pytest.mark.parametrize("sections", [{"pull": {"vision": False}}, {"models": {"hf.co/acme/tiny": {"vision": False}}}])
async def test_the_text_alone_may_be_wanted(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: Any, sections: Any
) -> None:
    hub.add("acme/tiny", files)
    lines = await _pull(hub, ollama, session, **sections)
    assert lines[-1] == {"status": "success"}
    assert [kind for kind, _ in gguf_layers(ollama, NAME)] == ["model"]
    assert any(f"{LOST}: its projector is left out, as the conf" in line.get("status", "") for line in lines)


async def test_settings_of_a_model_win(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: Any
) -> None:
    hub.add("acme/tiny", files)
    await _pull(hub, ollama, session, pull={"vision": False}, models={"hf.co/acme/tiny": {"vision": True}})
    assert [kind for kind, _ in gguf_layers(ollama, NAME)] == ["model", "projector"]


@pytest.mark.parametrize("kind", ["Q8_0", "bf16"])
async def test_the_type_of_the_projector(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: Any, kind: str
) -> None:
    hub.add("acme/tiny", files)
    await _pull(hub, ollama, session, pull={"projector": kind})
    assert gguf_layers(ollama, NAME)[1] == ("projector", digest_of(projector(files, kind.upper(), name="tiny")))


async def test_an_ollama_that_would_not_see_is_refused(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: Any
) -> None:
    ollama.version = "0.24.0"
    hub.add("acme/tiny", files)
    error = (await client.pull(NAME))[-1]["error"]
    assert "with Ollama 0.24.0 this model could not see; update Ollama to 0.30.0 or newer; for the text model" in error
    assert "pull.vision = false" in error
    assert not fetched(hub)


async def test_an_unknown_tower_is_refused_before_its_weights(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: Any
) -> None:
    config = json.loads(files["config.json"])
    config["vision_config"]["hidden_act"] = "quick_gelu"
    hub.add("acme/tiny", {**files, "config.json": json.dumps(config).encode()})
    error = (await client.pull(NAME))[-1]["error"]
    assert 'config.json has vision_config.hidden_act = "quick_gelu"' in error.replace("'", '"')
    assert "pull.vision = false" in error
    assert not fetched(hub, digest_of(files["model.safetensors"]).removeprefix("sha256:"))


async def test_weights_without_a_tower_make_the_text_alone(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: Any
) -> None:
    """As fine-tunes are saved that trained only the text."""
    hub.add("acme/tiny", {**edited_towers(lambda weights: weights.tensors.clear()), "tokenizer_config.json": b"{}"})
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert [kind for kind, _ in gguf_layers(ollama, NAME)] == ["model"]
    assert any(f"{LOST}: the weights have no tensor" in line.get("status", "") for line in lines)


async def test_nothing_is_installed_without_the_projector(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: Any
) -> None:
    """A matrix with a number beyond the range of F16."""

    def huge(weights: Weights) -> None:
        weights.tensors["multi_modal_projector.mm_input_projection_weight"][3, 5] = 1e6

    hub.add("acme/tiny", {**edited_towers(huge), "tokenizer_config.json": b"{}"})
    error = (await client.pull(NAME))[-1]["error"]
    assert "mm.input_projection.weight cannot become F16" in error
    assert "set pull.projector to BF16 or F32" in error
    assert NAME not in ollama.models


async def test_a_change_of_the_settings_makes_the_model_again(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: Any
) -> None:
    hub.add("acme/tiny", files)
    await _pull(hub, ollama, session)
    ollama.requests.clear()
    await _pull(hub, ollama, session)
    assert not weight_uploads(ollama)
    await _pull(hub, ollama, session, pull={"vision": False})
    assert [kind for kind, _ in gguf_layers(ollama, NAME)] == ["model"]
    assert not weight_uploads(ollama)
    await _pull(hub, ollama, session, pull={"projector": "Q8_0"})
    assert gguf_layers(ollama, NAME)[1] == ("projector", digest_of(projector(files, "Q8_0", name="tiny")))


async def test_inspect_shows_both_files(hub: StandInHub, ollama: StandInOllama, files: Any) -> None:
    hub.add("acme/tiny", files)
    shown = (await inspect(settings(hub.endpoint, ollama.url), NAME)).to_json()
    text, eyes = converted(files, quantization="BF16"), projector(files, name="tiny")
    assert [(file["path"], file["size"]) for file in shown["files"]] == [
        ("model.gguf", len(text)),
        ("mmproj.gguf", len(eyes)),
    ]
    assert shown["result_size"] == len(text) + len(eyes)
    assert "with its projector" in shown["reason"]
