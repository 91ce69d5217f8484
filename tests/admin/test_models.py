"""`GET /-/models`: the pulled models, and whether their repositories have changed."""

import asyncio
from typing import Any

import aiohttp
import pytest

from proxy.admin import models
from proxy.app import App
from proxy.sources import huggingface
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.administration import NAME, call, start, wait_for_pull
from tests.kit.support import PATIENCE, Client, settings


async def models_shown(client: Client, query: str = "") -> dict[str, dict[str, Any]]:
    status, shown = await call(client, "GET", f"models{query}")
    assert status == 200
    return {model["name"]: model for model in shown}


def asked_for(hub: StandInHub, repository: str) -> int:
    return len([request for request in hub.requests if request.path.startswith(f"/api/models/{repository}")])


async def test_a_model_has_its_commit_and_whether_it_changed(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    repository = hub.repositories["acme/tiny"]
    commit = repository.commit
    await client.pull(NAME)
    listed = ollama.models[NAME]
    assert await models_shown(client) == {
        NAME: {
            "name": NAME,
            "repository": "acme/tiny",
            "commit": commit,
            "digest": listed.digest,
            "size": listed.size,
            "when": listed.modified_at.isoformat(),
            "changed": False,
            "outdated": None,
        }
    }
    repository.update({"README.md": b"another"})
    assert (await models_shown(client, "?ask=no"))[NAME]["changed"] is False
    assert (await models_shown(client))[NAME]["changed"] is True
    assert (await models_shown(client, "?ask=no"))[NAME]["changed"] is True
    await start(client, NAME)
    await wait_for_pull(client, id="2", state="done")
    assert (await models_shown(client, "?ask=no"))[NAME] | {"changed": None} == (await models_shown(client, "?ask=no"))[
        NAME
    ]
    assert (await models_shown(client))[NAME]["changed"] is False
    assert (await models_shown(client))[NAME]["commit"] == repository.commit


async def test_models_without_a_source_are_not_shown(client: Client, ollama: StandInOllama) -> None:
    ollama.models["llama3.2:latest"] = StandInModel()
    ollama.models["registry.example/acme/tiny:latest"] = StandInModel()
    ollama.models["hf.co/acme/by-hand:latest"] = StandInModel()
    shown = await models_shown(client)
    assert list(shown) == ["hf.co/acme/by-hand:latest"]
    [model] = shown.values()
    assert (model["repository"], model["commit"], model["changed"]) == ("acme/by-hand", None, None)


async def test_a_model_made_by_others_has_no_commit(
    client: Client, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    await client.pull(NAME)
    ollama.models[NAME] = StandInModel(digest="f" * 64)
    assert (await models_shown(client))[NAME]["commit"] is None


async def test_a_repository_is_asked_once_and_only_on_request(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    for tag in ("f16", "q8_0"):
        await client.pull(f"hf.co/acme/tiny:{tag}")
    hub.requests.clear()
    assert [model["changed"] for model in (await models_shown(client, "?ask=no")).values()] == [None, None]
    assert not hub.requests
    assert [model["changed"] for model in (await models_shown(client)).values()] == [False, False]
    assert asked_for(hub, "acme/tiny?") + asked_for(hub, "acme/tiny") == 2


async def test_a_lost_or_silent_repository_does_not_hurt_others(
    client: Client,
    hub: StandInHub,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "proxy.admin.models")
    for name in ("gone", "moved"):
        hub.add(f"acme/{name}", tiny_llama())
        await client.pull(f"hf.co/acme/{name}:f16")
    del hub.repositories["acme/gone"]
    hub.repositories["acme/moved"].update({"README.md": b""})
    shown = await models_shown(client)
    assert {name: model["changed"] for name, model in shown.items()} == {
        "hf.co/acme/gone:f16": None,
        "hf.co/acme/moved:f16": True,
    }
    [message] = [record.getMessage() for record in caplog.records if record.name == "proxy.admin.models"]
    assert message.startswith("it is unknown whether hf.co/acme/gone:f16 has changed: there is no repository acme/gone")
    hub.faults.append(Fault("api", "hang", times=-1))
    monkeypatch.setattr(models, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(huggingface, "METADATA_SECONDS", 3600)
    async with asyncio.timeout(PATIENCE):
        shown = await models_shown(client)
    assert {model["changed"] for model in shown.values()} == {None}
    assert shown["hf.co/acme/moved:f16"]["commit"] is not None


async def test_at_most_four_repositories_are_asked_at_once(
    client: Client, hub: StandInHub, ollama: StandInOllama, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_llama()
    for number in range(6):
        hub.add(f"acme/tiny-{number}", files)
        await client.pull(f"hf.co/acme/tiny-{number}:f16")
    asking, most = 0, 0

    async def commit(*_: object) -> str:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.02)
        asking -= 1
        return "another"

    monkeypatch.setattr(app.backend.planner, "commit", commit)
    assert {model["changed"] for model in (await models_shown(client)).values()} == {True}
    assert most == 4


async def test_without_ollama_there_are_no_models_and_the_reason(
    hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    async with App(settings(hub.endpoint, "http://127.0.0.1:9")) as app:
        status, answer = await call(Client(app.address.url, session), "GET", "models")
    assert status == 502
    assert "cannot be reached" in answer["error"]
