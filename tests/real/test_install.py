"""Models that a real Ollama installs from a manifest: how it shows and lists them, and what remains after `rm`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client, digest_of, fetched, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

pytestmark = pytest.mark.timeout(300)

SUCCESS = {"status": "success"}
BASE = "hf.co/acme/install-base:bf16"
ADAPTER = "hf.co/acme/install-lora:bf16"


@asynccontextmanager
async def proxy(
    hub: StandInHub, ollama: RealOllama, session: aiohttp.ClientSession, /, **sections: Any
) -> AsyncIterator[tuple[App, Client]]:
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, **sections)
    async with App(config) as app:
        yield app, Client(app.address.url, session)


async def show(client: Client, name: str) -> dict[str, Any]:
    status, answer = await client.post("/api/show", {"model": name})
    assert status == 200, answer
    return dict(orjson.loads(answer))


async def listed(client: Client, name: str) -> dict[str, Any]:
    _, answer = await client.get("/api/tags")
    # Ollama may have changed upper and lower case to that of another model's name.
    [model] = [model for model in orjson.loads(answer)["models"] if model["name"].casefold() == name.casefold()]
    return dict(model)


async def remove(client: Client, name: str) -> None:
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
        assert response.status == 200


def weights_in(shown: dict[str, Any]) -> list[str]:
    lines = [line.split(" ", 1) for line in shown["modelfile"].splitlines() if "sha256-" in line]
    return [f"{command} {path.rpartition('-')[2]}" for command, path in lines if command in ("FROM", "ADAPTER")]


def hexadecimal(content: bytes) -> str:
    return digest_of(content).removeprefix("sha256:")


async def test_a_gguf_and_its_projector_are_installed_unchanged(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    before, log = real_ollama.blobs, real_ollama.log_size
    weights, projector = tiny_gguf(), tiny_projector()
    hub.add("acme/install", {"m-Q4_K_M.gguf": weights, "mmproj-F16.gguf": projector})
    name = "hf.co/acme/install:Q4_K_M"
    async with proxy(hub, real_ollama, session) as (_, client):
        assert (await client.pull(name))[-1] == SUCCESS
        assert ("POST", "/api/create") not in real_ollama.requests_since(log)
        shown = await show(client, name)
        assert weights_in(shown) == [f"FROM {hexadecimal(weights)}", f"FROM {hexadecimal(projector)}"]
        details = shown["details"]
        assert (details["format"], details["family"], details["families"]) == ("gguf", "llama", ["llama", "clip"])
        assert (details["parameter_size"], details["quantization_level"]) == ("394K", "Q4_K_M")
        assert "vision" in shown["capabilities"]
        size = len(weights) + len(projector)
        assert size < (await listed(client, name))["size"] < size + 1000
        await remove(client, name)
    assert real_ollama.blobs == before


@pytest.mark.parametrize("base_is_there", [False, True])
async def test_an_adapter_shares_the_weights_of_its_base(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession, base_is_there: bool
) -> None:
    before, log = real_ollama.blobs, real_ollama.log_size
    hub.add("acme/install-base", tiny_llama(seed=21) | {"LICENSE": b"Of the base."})
    hub.add("acme/install-lora", tiny_adapter("acme/install-base"))
    models = {"hf.co/acme/install-lora": {"system": "Be terse.", "parameters": {"temperature": 0.25}}}
    async with proxy(hub, real_ollama, session, models=models) as (_, client):
        if base_is_there:
            assert (await client.pull(BASE))[-1] == SUCCESS
        assert (await client.pull(ADAPTER))[-1] == SUCCESS
        assert ("POST", "/api/create") not in real_ollama.requests_since(log)
        base, shown = await show(client, BASE), await show(client, ADAPTER)
        weights, adapter = weights_in(shown)
        assert weights_in(base) == [weights]
        assert adapter.startswith("ADAPTER ")
        assert (shown["template"], shown["license"]) == (base["template"], "Of the base.")
        assert shown["details"] == base["details"] | {"parent_model": BASE}
        own = {line for line in shown["parameters"].splitlines() if not line.startswith("temperature")}
        assert own == {line for line in base["parameters"].splitlines() if not line.startswith("temperature")}
        assert (shown["system"], "0.25" in shown["parameters"]) == ("Be terse.", True)
        size = real_ollama.blobs[f"sha256:{weights[5:]}"] + real_ollama.blobs[f"sha256:{adapter[8:]}"]
        assert size < (await listed(client, ADAPTER))["size"] < size + 4000
        assert (await client.pull(ADAPTER))[-1] == SUCCESS
        await remove(client, ADAPTER)
        assert weights_in(await show(client, BASE)) == [weights]
        await remove(client, BASE)
    assert real_ollama.blobs == before


async def test_new_settings_reuse_the_weights(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    before, log = real_ollama.blobs, real_ollama.log_size
    hub.add("acme/install-base", tiny_llama(seed=22))
    async with proxy(hub, real_ollama, session) as (_, client):
        assert (await client.pull(BASE))[-1] == SUCCESS
        old, old_size = await show(client, BASE), (await listed(client, BASE))["size"]
    hub.requests.clear()
    models = {"hf.co/acme/install-base": {"system": "Be terse.", "parameters": {"temperature": 0.25}}}
    async with proxy(hub, real_ollama, session, models=models) as (_, client):
        assert (await client.pull(BASE))[-1] == SUCCESS
        assert not fetched(hub)
        assert ("POST", "/api/create") not in real_ollama.requests_since(log)
        shown, model = await show(client, BASE), await listed(client, BASE)
        assert weights_in(shown) == weights_in(old)
        assert (shown["details"], shown["template"]) == (old["details"], old["template"])
        assert (shown["system"], "0.25" in shown["parameters"]) == ("Be terse.", True)
        assert abs(model["size"] - old_size) < 100
        lines = await client.pull(BASE)
        assert lines[-1] == SUCCESS
        assert await listed(client, BASE) == model
        await remove(client, BASE)
    assert real_ollama.blobs == before


async def test_a_users_template_is_checked_first(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    before = real_ollama.blobs
    hub.add("acme/install-base", tiny_llama(seed=23))
    for template in ("{{ .Prompt", "{{ .Prompt }}!"):
        models = {"hf.co/acme/install-base": {"template": template}}
        async with proxy(hub, real_ollama, session, models=models) as (_, client):
            last = (await client.pull(BASE))[-1]
            if template.endswith("!"):
                assert last == SUCCESS
                assert f"TEMPLATE {template}" in (await show(client, BASE))["modelfile"]
                await remove(client, BASE)
            else:
                assert ": template: :1: unclosed action" in last["error"]
                assert not fetched(hub)
            assert real_ollama.blobs == before


async def test_reclaim_leaves_no_blobs_and_no_models(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    before = real_ollama.blobs
    files = [b"{}", b'{"added": 1}', bytes(100_000)]
    async with proxy(hub, real_ollama, session) as (app, client):
        await app.reclaim.check_reached()
        before.pop(PROBE_DIGEST, None)
        assert real_ollama.blobs == before
        for content in files:
            async with session.post(f"{real_ollama.url}/api/blobs/{digest_of(content)}", data=content) as response:
                assert response.status == 201
            app._journal.track(digest_of(content), len(content))
        status, answer = await client.post("/-/reclaim", {"dry_run": False})
        assert status == 200
        assert {blob["digest"] for blob in orjson.loads(answer)["blobs"]} == {digest_of(content) for content in files}
        _, answer = await client.get("/api/tags")
        assert not [model for model in orjson.loads(answer)["models"] if "reclaim" in model["name"]]
    assert real_ollama.blobs == before
