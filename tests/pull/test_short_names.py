"""`name` in `[models]`: a repository whose name Ollama does not take is pulled by another one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.errors import ConfigError
from proxy.inspection import inspect
from proxy.sources.plugins import build_sources
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.adapter_pulls import layer_of
from tests.kit.administration import call, wait_for_pull
from tests.kit.conversions import converted
from tests.kit.gguf_pulls import WHOLE
from tests.kit.job_clients import newest, remove
from tests.kit.ollama_log import bodies
from tests.kit.support import Client, digest_of, eventually, fetched, settings
from tests.kit.tiny_adapter import tiny_adapter

LONG = f"acme/{'very-long-' * 9}llama"
SHORT = "hf.co/me/short"
NAME = f"{SHORT}:q8_0"
SUCCESS = {"status": "success"}
MODELS: dict[str, Any] = {f"hf.co/{LONG}": {"name": SHORT, "system": "Be terse."}}


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    assert 80 < len(LONG.partition("/")[2]) <= 96
    hub.add(LONG, tiny_llama())
    return tiny_llama()


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[App]:
    async with App(settings(hub.endpoint, ollama.url, models=MODELS, pull={"on_demand": True})) as app:
        yield app


async def test_the_model_has_the_short_name_and_the_settings_of_the_repository(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert list(ollama.models) == [NAME]
    assert ollama.models[NAME].system == "Be terse."
    expected = converted(files, LONG.partition("/")[2], quantization="Q8_0")
    assert layer_of(ollama, NAME, "model").digest == digest_of(expected)


async def test_an_unchanged_model_is_not_pulled_again(client: Client, hub: StandInHub, files: dict[str, bytes]) -> None:
    assert (await client.pull(NAME))[-1] == SUCCESS
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert hub.requests
    assert not fetched(hub)
    hub.repositories[LONG].update(tiny_llama(seed=2))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert fetched(hub)


async def test_the_page_shows_the_repository_and_whether_it_changed(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    await client.pull(NAME)
    [model] = (await call(client, "GET", "models"))[1]
    commit = hub.repositories[LONG].commit
    shown = {key: model[key] for key in ("name", "repository", "commit", "changed")}
    assert shown == {"name": NAME, "repository": LONG, "commit": commit, "changed": False}
    hub.repositories[LONG].update({"README.md": b"another"})
    [model] = (await call(client, "GET", "models"))[1]
    assert model["changed"] is True


async def test_inspect_shows_the_name_and_the_repository(
    app: App, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    config = settings(hub.endpoint, ollama.url, models=MODELS)
    inspection = (await inspect(config, NAME)).to_json()
    assert (inspection["name"], inspection["repository"]) == (NAME, LONG)
    assert (inspection["refusal"], inspection["system"]) == (None, "Be terse.")
    refusal = (await inspect(config, f"hf.co/{LONG}")).refusal
    assert refusal is not None
    assert f"pull it as {SHORT}, its name in the proxy's configuration" in refusal


async def test_a_call_on_demand_and_a_started_pull_use_it(
    client: Client, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "stream": False}
    status, answer = await client.post("/api/chat", body)
    assert (status, orjson.loads(answer)["model"]) == (200, NAME)
    assert (await call(client, "POST", "pulls", json={"name": f"{SHORT}:f16"}))[0] == 202
    await wait_for_pull(client, name=f"{SHORT}:f16", state="done")
    assert sorted(ollama.models) == [f"{SHORT}:f16", NAME]


async def test_removing_the_model_cancels_its_pull(
    client: Client, app: App, hub: StandInHub, files: dict[str, bytes]
) -> None:
    hub.line = 200_000
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(lambda: fetched(hub))
    assert await remove(client, model=NAME) == (200, b"")
    assert "was removed while it was pulled" in (await pulling)[-1]["error"]
    assert newest(app).state == "failed"


@pytest.mark.parametrize("mode", ["auto", "native"])
async def test_ollama_never_pulls_by_a_short_name(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, public_hub: None, mode: str
) -> None:
    """It would ask the Hub for another repository."""
    hub.add(LONG, {"tiny-Q4_K_M.gguf": WHOLE})
    async with App(settings(hub.endpoint, ollama.url, models=MODELS, pull={"gguf": mode})) as app:
        assert (await Client(app.address.url, session).pull(SHORT))[-1] == SUCCESS
    assert layer_of(ollama, f"{SHORT}:latest", "model").digest == digest_of(WHOLE)
    assert {"model": f"{SHORT}:latest"} not in bodies(ollama, "/api/pull")


async def test_an_adapter_with_a_short_name_keeps_its_base(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/tiny", tiny_llama())
    hub.add(LONG, tiny_adapter("acme/tiny"))
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert sorted(ollama.models) == ["hf.co/acme/tiny:q8_0", NAME]
    assert layer_of(ollama, NAME, "adapter")


async def test_a_repository_of_another_source_may_have_a_name_of_the_hub(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tmp_path: Any
) -> None:
    folder = tmp_path / "acme.v2" / "Tiny"
    folder.mkdir(parents=True)
    for path, content in tiny_llama().items():
        (folder / path).write_bytes(content)
    sources = {"home": {"type": "folder", "path": str(tmp_path)}}
    models = {"home/acme.v2/Tiny": {"name": "hf.co/acme/tiny"}}
    async with App(settings(hub.endpoint, ollama.url, sources=sources, models=models)) as app:
        assert (await Client(app.address.url, session).pull("hf.co/acme/tiny:q8_0"))[-1] == SUCCESS
    assert list(ollama.models) == ["hf.co/acme/tiny:q8_0"]
    assert not hub.requests


@pytest.mark.parametrize(("key", "name"), [("hf.co/o/r", "x.example/me/s"), ("x.example/o/r", "hf.co/me/s")])
def test_a_host_without_a_source_is_an_error_of_the_configuration(key: str, name: str) -> None:
    config = settings("http://127.0.0.1:9", "http://127.0.0.1:9", models={key: {"name": name}})
    with pytest.raises(ConfigError) as error:
        build_sources(config)
    assert str(error.value).startswith(f'models."{key}".name: no source has the host of ')
    assert "hf.co, huggingface.co, modelscope.cn" in str(error.value)
