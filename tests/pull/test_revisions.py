"""A model of an older family revision is made again by its next pull, and is listed as outdated until then."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.gguf.families import FAMILIES
from proxy.planning import identity
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, fetched, making
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:q4_K_M"
SUCCESS = {"status": "success"}
LLAMA = "LlamaForCausalLM"


async def outdated(client: Client) -> Mapping[str, Any]:
    _, answer = await client.get("/-/models?ask=no")
    return {model["name"]: model["outdated"] for model in orjson.loads(answer)}


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the proxy converts a Llama in a new revision."""
    family = FAMILIES[LLAMA]
    monkeypatch.setattr(identity, "FAMILIES", {LLAMA: replace(family, output_version=family.output_version + 1)})


async def test_a_model_of_an_older_revision_is_made_again_once(
    client: Client, hub: StandInHub, ollama: StandInOllama, request: pytest.FixtureRequest
) -> None:
    hub.add("acme/tiny", tiny_llama())
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert await outdated(client) == {NAME: None}
    request.getfixturevalue("better")
    assert await outdated(client) == {NAME: "this version of the proxy converts LlamaForCausalLM better"}
    hub.requests.clear()
    made_before = len(making(ollama.requests))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert fetched(hub, "safetensors")
    assert len(making(ollama.requests)) > made_before
    assert await outdated(client) == {NAME: None}
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)


async def test_a_gguf_is_of_no_revision(client: Client, hub: StandInHub, better: None) -> None:
    hub.add("acme/tiny", {"tiny-Q4_K_M.gguf": tiny_gguf()})
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert await outdated(client) == {NAME: None}


async def test_an_earlier_versions_record_costs_one_check(app: App, client: Client, hub: StandInHub) -> None:
    """Nothing is fetched again if the model is the same."""
    hub.add("acme/tiny", tiny_llama())
    assert (await client.pull(NAME))[-1] == SUCCESS
    app._journal._do("UPDATE models SET made_by = '?'")
    [why] = (await outdated(client)).values()
    assert "an earlier version of the proxy pulled it" in why
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)
    assert await outdated(client) == {NAME: None}
