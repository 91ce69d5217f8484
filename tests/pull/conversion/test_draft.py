"""`pull.draft`: layers for multi-token prediction are kept where an Ollama uses them, else a line says why not."""

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.gguf.draft import DraftRequest
from proxy.inspection import inspect
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.drafts import DRAFTS
from tests.gguf.tiny_repositories.repository import Tiny, Weights
from tests.gguf.writing import plan, write
from tests.kit.ollama_log import Lines
from tests.kit.support import Client, digest_of, making, settings

NAME = "hf.co/acme/tiny:bf16"
LEFT_OUT = "the layers for multi-token prediction (pull.draft) are left out: "


@pytest.fixture
def pull(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> Any:
    """Pulls through a proxy that runs only for this pull."""

    async def pull(draft: bool = True, **sections: Any) -> Lines:
        async with App(settings(hub.endpoint, ollama.url, pull={"draft": draft}, **sections)) as app:
            return await Client(app.address.url, session).pull(NAME)

    return pull


def files_of(tiny: Tiny) -> dict[str, bytes]:
    """Without a chat template, which has an opening of the proxy's in the GGUF."""
    return tiny.files() | {"tokenizer_config.json": b"{}"}


def expected_digest(files: dict[str, bytes], *, draft: bool) -> str:
    return digest_of(write(plan(files, name="tiny", draft=DraftRequest() if draft else None), files))


def weights(ollama: StandInOllama) -> str:
    [layer] = [layer for layer in ollama.models[NAME].layers if layer.kind == "model"]
    return layer.digest


@pytest.mark.parametrize("name", ["qwen3_5_draft", "qwen3_5moe_eyes_draft", "qwen3_next_draft"])
@pytest.mark.parametrize("version", ["0.32.6", "0.34.1", "0.40.0"])
async def test_the_model_has_the_layer_and_the_parameter(
    pull: Any, hub: StandInHub, ollama: StandInOllama, name: str, version: str
) -> None:
    ollama.version = version
    files = files_of(DRAFTS[name])
    hub.add("acme/tiny", files)
    lines = await pull()
    assert lines[-1] == {"status": "success"}
    assert not any(LEFT_OUT in line["status"] for line in lines)
    assert weights(ollama) == expected_digest(files, draft=True)
    assert ollama.models[NAME].parameters["draft_num_predict"] == 4


@pytest.mark.parametrize("parameters", [{"draft_num_predict": 0}, {"draft_num_predict": 2}])
async def test_the_users_number_of_drafts_wins(
    pull: Any, hub: StandInHub, ollama: StandInOllama, parameters: dict[str, int]
) -> None:
    ollama.version = "0.34.1"
    hub.add("acme/tiny", files_of(DRAFTS["qwen3_5_draft"]))
    assert (await pull(models={"hf.co/acme/tiny": {"parameters": parameters}}))[-1] == {"status": "success"}
    assert ollama.models[NAME].parameters["draft_num_predict"] == parameters["draft_num_predict"]


async def test_without_the_setting_there_is_neither(pull: Any, hub: StandInHub, ollama: StandInOllama) -> None:
    ollama.version = "0.34.1"
    files = files_of(DRAFTS["qwen3_5_draft"])
    hub.add("acme/tiny", files)
    lines = await pull(draft=False)
    assert lines[-1] == {"status": "success"}
    assert not any(LEFT_OUT in line["status"] for line in lines)
    assert weights(ollama) == expected_digest(files, draft=False) != expected_digest(files, draft=True)
    assert "draft_num_predict" not in ollama.models[NAME].parameters


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("qwen3_next_draft", "0.24.0", "Ollama 0.24.0 does not use them; 0.32.6 or newer does"),
        ("qwen3_next_draft", "0.32.5", "Ollama 0.32.5 does not use them; 0.32.6 or newer does"),
        ("nemotron_h_moe_draft", "0.40.0", "Ollama 0.40.0 does not use them; the releases from 0.32.10 on do, before"),
        ("glm4moe", "0.34.1", "the proxy does not write them for this architecture"),
    ],
)
async def test_a_line_says_why_they_are_left_out(
    pull: Any, hub: StandInHub, ollama: StandInOllama, name: str, version: str, reason: str
) -> None:
    """The rest of the pull is as always. The line comes before the first byte of the weights."""
    ollama.version = version
    tiny = (REPOSITORIES | DRAFTS)[name]
    if name == "glm4moe":
        tiny = replace(tiny, change={**tiny.change, "num_nextn_predict_layers": 1})
    files = files_of(tiny)
    hub.add("acme/tiny", files)
    lines = await pull()
    assert lines[-1] == {"status": "success"}
    statuses = [line["status"] for line in lines]
    [warning] = [number for number, status in enumerate(statuses) if LEFT_OUT in status]
    assert LEFT_OUT + reason in statuses[warning]
    assert warning < min(number for number, line in enumerate(lines) if "digest" in line)
    assert weights(ollama) == expected_digest(files, draft=False)
    assert "draft_num_predict" not in ollama.models[NAME].parameters


async def test_a_broken_layer_breaks_no_pull(pull: Any, hub: StandInHub, ollama: StandInOllama) -> None:
    def without_projection(made: Weights) -> None:
        tiny.weights(made)
        del made.tensors["mtp.fc.weight"]

    ollama.version = "0.34.1"
    tiny = DRAFTS["qwen3_5_draft"]
    files = files_of(replace(tiny, weights=without_projection))
    hub.add("acme/tiny", files)
    lines = await pull()
    assert lines[-1] == {"status": "success"}
    assert any(LEFT_OUT in line["status"] and "nextn.eh_proj" in line["status"] for line in lines)
    assert weights(ollama) == expected_digest(files, draft=False)


@pytest.mark.parametrize("version", ["0.24.0", "0.34.1"])
async def test_a_repository_without_such_layers_is_pulled_as_always(
    pull: Any, hub: StandInHub, ollama: StandInOllama, version: str
) -> None:
    ollama.version = version
    files = files_of(REPOSITORIES["qwen3"])
    hub.add("acme/tiny", files)
    with_setting, model = await pull(), ollama.models[NAME].digest
    del ollama.models[NAME]
    without = await pull(draft=False)
    assert [line["status"] for line in with_setting if "digest" not in line] == [
        line["status"] for line in without if "digest" not in line
    ]
    assert ollama.models[NAME].digest == model


async def test_a_change_of_the_setting_makes_the_model_again(pull: Any, hub: StandInHub, ollama: StandInOllama) -> None:
    ollama.version = "0.34.1"
    files = files_of(DRAFTS["qwen3_5_draft"])
    hub.add("acme/tiny", files)
    for draft in (False, True, False):
        for made in (1, 0):
            before = len(making(ollama.requests))
            assert (await pull(draft=draft))[-1] == {"status": "success"}
            assert bool(len(making(ollama.requests)) - before) is bool(made)
            assert weights(ollama) == expected_digest(files, draft=draft)
            assert ("draft_num_predict" in ollama.models[NAME].parameters) is draft


async def test_inspect_names_the_layer(hub: StandInHub, ollama: StandInOllama) -> None:
    ollama.version = "0.34.1"
    hub.add("acme/tiny", files_of(DRAFTS["qwen3_5_draft"]))
    shown = (await inspect(settings(hub.endpoint, ollama.url, pull={"draft": True}), NAME)).to_json()
    assert shown["reason"] == "the proxy converts Qwen3_5ForCausalLM, with its layer for multi-token prediction"
    assert shown["parameters"]["draft_num_predict"] == 4
