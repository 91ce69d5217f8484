"""A pull of a model that has changed moves only what has changed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.responses import ErrorAnswer
from tests.kit.ollama_log import weight_uploads
from tests.kit.repeated_pulls import (
    NAME,
    SETTINGS,
    WEIGHTS,
    Pull,
    assert_nothing_but_metadata,
    assert_only_looked,
    clear,
    lines_of_held,
    with_settings,
)
from tests.kit.support import Client, digest_of, fetched, making
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector


async def assert_made_again(pulling: Pull, ollama: StandInOllama, name: str = NAME, /, **sections: Any) -> None:
    before = len(making(ollama.requests))
    assert (await pulling(name, **sections))[-1] == {"status": "success"}
    assert len(making(ollama.requests)) > before
    after = len(making(ollama.requests))
    assert (await pulling(name, **sections))[-1] == {"status": "success"}
    assert len(making(ollama.requests)) == after


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "{{ .Prompt }}!"},
        {"system": "Be verbose."},
        {"system": None},
        {"parameters": {**SETTINGS["parameters"], "temperature": 0.8}},
        {"parameters": {**SETTINGS["parameters"], "num_ctx": 8192}},
        {"parameters": {**SETTINGS["parameters"], "stop": ["</s>", "other"]}},
        {"parameters": {**SETTINGS["parameters"], "top_k": 4}},
        {"parameters": {"num_ctx": 4096, "stop": SETTINGS["parameters"]["stop"]}},
        {"parameters": {**SETTINGS["parameters"], "stop": ["</s>"]}},
    ],
    ids=[
        "template",
        "system",
        "no system",
        "a parameter",
        "another parameter",
        "a stop",
        "one parameter more",
        "one parameter less",
        "one stop less",
    ],
)
async def test_without_a_record_a_different_model_is_replaced(
    pull: Pull,
    lose_journal: Callable[[], None],
    files: dict[str, bytes],
    ollama: StandInOllama,
    changes: dict[str, Any],
) -> None:
    """The journal is lost, and Ollama shows other settings than the plan has."""
    await pull(**with_settings())
    lose_journal()
    await assert_made_again(pull, ollama, **with_settings(**changes))


async def test_without_a_record_another_quantization_is_made(
    pull: Pull, lose_journal: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await pull("hf.co/acme/tiny")
    lose_journal()
    await assert_made_again(pull, ollama, "hf.co/acme/tiny", pull={"default_quantization": "Q8_0"})
    assert ollama.models["hf.co/acme/tiny"].quantization_level == "Q8_0"


async def test_without_a_record_an_older_model_is_replaced(
    pull: Pull, lose_journal: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """The model is older than the repository's commit."""
    await pull()
    lose_journal()
    ollama.models[NAME].modified_at = datetime.now(UTC) - timedelta(hours=1)
    await assert_made_again(pull, ollama)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_model_that_was_removed_is_made_again(
    pull: Pull, lose_journal: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama, lost: bool
) -> None:
    await pull()
    del ollama.models[NAME]
    if lost:
        lose_journal()
    await assert_made_again(pull, ollama)


async def test_a_model_removed_through_the_proxy_is_made_again(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    async with client.session.delete(f"{client.url}/api/delete", json={"model": NAME}) as response:
        assert response.status == 200
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert len(making(ollama.requests)) == 2
    assert NAME in ollama.models


async def test_a_users_model_of_that_name_is_replaced(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    before = ollama.models[NAME]
    await client.post("/api/create", {"model": NAME, "from": NAME, "system": "Mine."})
    assert ollama.models[NAME].system == "Mine."
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert ollama.models[NAME].system == ""
    assert ollama.models[NAME].digest == before.digest


async def test_a_users_model_is_not_an_interrupted_pulls(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """After an interrupted pull, the next one does not take a model of that name, which a user made, for its result."""
    await client.pull(NAME)
    licenses = ollama.models[NAME].licenses
    await client.post("/api/create", {"model": NAME, "from": NAME, "license": "Mine."})

    async def full(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/api/copy":
            raise ErrorAnswer("write /models/manifests/x: no space left on device", 500)
        return await handler(request)

    ollama.around = full
    assert "no space left" in (await client.pull(NAME))[-1]["error"]
    ollama.around = None
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert ollama.models[NAME].licenses == licenses


async def test_another_default_quantization_is_another_model(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull("hf.co/acme/tiny")
    await assert_made_again(pull, ollama, "hf.co/acme/tiny", pull={"default_quantization": "Q8_0"})
    assert ollama.models["hf.co/acme/tiny"].quantization_level == "Q8_0"


async def test_an_unrelated_commit_costs_one_check(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    hub.repositories["acme/tiny"].update({"README.md": files["README.md"] + b"More.\n", "notes.txt": b"new"})
    clear(hub, ollama)
    assert await client.pull(NAME) == lines_of_held([files[WEIGHTS]])
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert await client.pull(NAME) == lines_of_held([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)


async def test_only_changed_files_of_a_new_commit_move(
    small_spans: int, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """Of files that Ollama gets unchanged."""
    path, whole = "m-Q4_K_M.gguf", tiny_gguf()
    repository = hub.add("acme/tiny", {path: whole, "mmproj-F16.gguf": tiny_projector()})
    await client.pull(NAME)
    changed = "mmproj-F16.gguf"
    projector = tiny_projector(seed=1)
    repository.update({changed: projector})
    clear(hub, ollama)
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert {request.path.partition("?")[0].rpartition("/")[2] for request in fetched(hub)} == {changed}
    assert weight_uploads(ollama) == [f"/api/blobs/{digest_of(projector)}"]
    digests = {layer.digest for layer in ollama.models[NAME].layers}
    assert {digest_of(whole), digest_of(projector)} <= digests
