"""A pull of what is there costs nothing, and one of what has changed only what has changed."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.app import App
from proxy.errors import OllamaError, OllamaGone
from proxy.pull.freshness import UNQUANTIZED, _parameters, _shown_parameters, seconds_of
from proxy.standins.hub import StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.standins.responses import ErrorAnswer
from tests.kit.ollama_log import Lines, created, last_bars, uploads
from tests.kit.support import Client, digest_of, fetched, making, settings
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "model.safetensors"

Pull = Callable[..., Awaitable[Lines]]


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


@pytest.fixture
def pull(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> Pull:
    """As `Client.pull`, through a proxy that starts for it and ends after it."""

    async def pull(name: str = NAME, **sections: Any) -> Lines:
        async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
            return await Client(app.address.url, session).pull(name)

    return pull


@pytest.fixture
def forget(tmp_path: Path) -> Callable[[], None]:
    """Takes the proxy's state away."""

    def forget() -> None:
        assert list((tmp_path / "state").rglob("*.sqlite"))
        shutil.rmtree(tmp_path / "state")

    return forget


def weight_uploads(ollama: StandInOllama) -> list[str]:
    """Without those of small layers."""
    return uploads(ollama, least=1000)


def said_of(bars: Iterable[bytes]) -> Lines:
    """What Ollama itself says of a model that it has."""
    return [
        {"status": "pulling manifest"},
        *(
            {
                "status": f"pulling {digest_of(content)[7:19]}",
                "digest": digest_of(content),
                "total": len(content),
                "completed": len(content),
            }
            for content in bars
        ),
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


def clear(hub: StandInHub, ollama: StandInOllama) -> None:
    hub.requests.clear()
    ollama.requests.clear()


def paths(requests: Iterable[LoggedRequest]) -> set[str]:
    return {request.path.partition("?")[0] for request in requests}


def assert_nothing_but_metadata(hub: StandInHub, ollama: StandInOllama, repository: str = "acme/tiny") -> None:
    assert hub.requests
    assert all(path.startswith(f"/api/models/{repository}") for path in paths(hub.requests))
    assert {(request.method, request.path) for request in ollama.requests} <= {("GET", "/api/tags"), ("GET", "/-/")}


def assert_only_looked(hub: StandInHub, ollama: StandInOllama) -> None:
    """Metadata, small files, headers of weights; nothing that changes Ollama."""
    assert not fetched(hub)
    assert {request.method for request in ollama.requests if request.path != "/api/show"} <= {"GET", "HEAD"}


# ---- nothing has changed


@pytest.mark.parametrize("shards", [1, 3])
async def test_an_unchanged_model_costs_only_metadata(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: int
) -> None:
    """The client gets the lines that Ollama itself sends for a model that it has."""
    files = tiny_llama(shards=shards)
    hub.add("acme/tiny", files)
    await client.pull(NAME)
    model = ollama.models[NAME]
    for _ in range(2):
        clear(hub, ollama)
        lines = await client.pull(NAME)
        assert lines == said_of(content for path, content in sorted(files.items()) if path.endswith(".safetensors"))
        assert_nothing_but_metadata(hub, ollama)
    assert ollama.models[NAME] is model


async def test_without_a_stream_the_answer_is_success(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    clear(hub, ollama)
    assert await client.pull_at_once(NAME) == (200, {"status": "success"})
    assert_nothing_but_metadata(hub, ollama)


async def test_a_name_in_another_case_is_the_same_model(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    clear(hub, ollama)
    assert await client.pull("HF.co/acme/tiny:Q4_k_m") == said_of([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)
    assert list(ollama.models) == [NAME]


async def test_a_restart_does_not_forget_a_model(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull()
    clear(hub, ollama)
    assert await pull() == said_of([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)


@pytest.mark.parametrize("reclaim", [True, False])
async def test_a_lost_journal_costs_one_check_of_the_model(
    pull: Pull,
    forget: Callable[[], None],
    files: dict[str, bytes],
    hub: StandInHub,
    ollama: StandInOllama,
    reclaim: bool,
) -> None:
    """The next pulls find it in the journal again."""
    sections = {"ollama": {"reclaim": reclaim}}
    await pull(**sections)
    model, blobs = ollama.models[NAME], dict(ollama.blobs)
    forget()
    clear(hub, ollama)
    assert await pull(**sections) == said_of([files[WEIGHTS]])
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert await pull(**sections) == said_of([files[WEIGHTS]])
    assert_nothing_but_metadata(hub, ollama)
    assert ollama.models[NAME] is model
    assert ollama.blobs == blobs


@pytest.mark.parametrize(("version", "tag"), [("0.24.0", "f16"), ("0.24.0", "q8_0"), ("0.33.0", "Q4_K_S")])
async def test_a_quantization_is_recognised_in_ollamas_answer(
    pull: Pull,
    forget: Callable[[], None],
    files: dict[str, bytes],
    hub: StandInHub,
    ollama: StandInOllama,
    version: str,
    tag: str,
) -> None:
    ollama.version = version
    await pull(f"hf.co/acme/tiny:{tag}")
    forget()
    clear(hub, ollama)
    assert await pull(f"hf.co/acme/tiny:{tag}") == said_of([files[WEIGHTS]])
    assert_only_looked(hub, ollama)


async def test_a_gguf_is_recognised_by_its_size(
    pull: Pull, forget: Callable[[], None], hub: StandInHub, ollama: StandInOllama
) -> None:
    whole = tiny_gguf()
    hub.add("acme/tiny-gguf", {"m-Q4_K_M.gguf": whole})
    name = "hf.co/acme/tiny-gguf:Q4_K_M"
    await pull(name)
    forget()
    clear(hub, ollama)
    assert await pull(name) == said_of([whole])
    assert not created(ollama)
    assert not weight_uploads(ollama)
    ollama.models[name].size *= 2
    forget()
    assert (await pull(name))[-1] == {"status": "success"}
    assert ollama.models[name].size < 2 * len(whole)
    assert not created(ollama)


SETTINGS: dict[str, Any] = {
    "template": "{{ .System }}{{ .Prompt }}",
    "system": "Be terse.",
    "parameters": {"temperature": 0.7, "num_ctx": 4096, "stop": ["</s>", 'a "quoted" one']},
    "license": ["MIT", "BSD"],
}


def with_settings(**changes: Any) -> dict[str, Any]:
    """The sections; a setting that is None is not made."""
    made = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    return {"models": {"hf.co/acme/tiny": made}}


async def test_a_users_settings_are_recognised_too(
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**with_settings())
    forget()
    clear(hub, ollama)
    assert await pull(**with_settings()) == said_of([files[WEIGHTS]])
    assert_only_looked(hub, ollama)


async def test_updating_twenty_models_at_once_costs_metadata(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    files = tiny_llama()
    names = [f"hf.co/acme/tiny{number}:q8_0" for number in range(20)]
    for number in range(20):
        hub.add(f"acme/tiny{number}", files)
    for name in names:
        assert (await client.pull(name))[-1] == {"status": "success"}
    clear(hub, ollama)
    answers = await asyncio.gather(*(client.pull(name) for name in names))
    assert answers == [said_of([files[WEIGHTS]])] * 20
    assert_nothing_but_metadata(hub, ollama, "acme/tiny")


# ---- what is not the same


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
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama, changes: dict[str, Any]
) -> None:
    """The journal is lost, and Ollama shows other settings than the plan has."""
    await pull(**with_settings())
    forget()
    await assert_made_again(pull, ollama, **with_settings(**changes))


async def test_without_a_record_another_quantization_is_made(
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await pull("hf.co/acme/tiny")
    forget()
    await assert_made_again(pull, ollama, "hf.co/acme/tiny", pull={"default_quantization": "Q8_0"})
    assert ollama.models["hf.co/acme/tiny"].quantization_level == "Q8_0"


async def test_without_a_record_an_older_model_is_replaced(
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama
) -> None:
    """The model is older than the repository's commit."""
    await pull()
    forget()
    ollama.models[NAME].modified_at = datetime.now(UTC) - timedelta(hours=1)
    await assert_made_again(pull, ollama)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_model_that_was_removed_is_made_again(
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], ollama: StandInOllama, lost: bool
) -> None:
    await pull()
    del ollama.models[NAME]
    if lost:
        forget()
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
    assert await client.pull(NAME) == said_of([files[WEIGHTS]])
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert await client.pull(NAME) == said_of([files[WEIGHTS]])
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


# ---- only the dressing has changed


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
    model, wanted = ollama.models[NAME], {**SETTINGS, **changes}
    assert [layer for layer in model.layers if layer.kind == "model"] == [weights]
    assert model.size == sum(ollama.blobs[layer.digest] for layer in model.layers)
    assert model.runner == "llamacpp"
    assert model.template == wanted["template"]
    assert model.system == (wanted["system"] or "")
    assert model.licenses == ([wanted["license"]] if isinstance(wanted["license"], str) else wanted["license"])
    of_repository = {"repeat_penalty": 1.0, "stop": ["<|eot_id|>"]}
    assert model.parameters == of_repository | wanted["parameters"]
    assert model.quantization_level == "Q4_K_M"
    assert set(ollama.blobs) >= {layer.digest for layer in model.layers}


async def test_a_recreated_model_equals_a_first_pulls(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The model after a change of its settings has the layers that a first pull would give it."""
    await pull(**with_settings(), ollama={"reclaim": True})
    await pull(ollama={"reclaim": True})
    redressed = ollama.models[NAME]
    del ollama.models[NAME]
    await pull(ollama={"reclaim": True})
    fresh = ollama.models[NAME]
    assert set(redressed.layers) == set(fresh.layers)
    assert redressed.details == fresh.details


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
    assert lines == said_of([files[WEIGHTS]])


async def test_a_recreated_model_is_recorded(
    pull: Pull, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    await pull(**with_settings())
    await pull(**with_settings(system="Be verbose."))
    clear(hub, ollama)
    assert await pull(**with_settings(system="Be verbose.")) == said_of([files[WEIGHTS]])
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
    pull: Pull, forget: Callable[[], None], files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """The sources of the weights are unknown then."""
    await pull(**with_settings(), ollama={"reclaim": True})
    forget()
    clear(hub, ollama)
    assert (await pull(**with_settings(system="Be verbose."), ollama={"reclaim": True}))[-1] == {"status": "success"}
    assert fetched(hub)
    assert ollama.models[NAME].system == "Be verbose."


# ---- what the proxy converts itself

OURS: dict[str, Any] = {"ollama": {"reclaim": True}}
TAGS = pytest.mark.parametrize("tag", ["bf16", "q8_0", "f16", "f32", "q4_K_M"])


def check_clean(ollama: StandInOllama, name: str) -> None:
    assert list(ollama.models) == [name]
    assert ollama.blobs.keys() == ollama.models.used_digests()


@pytest.fixture
def shards(hub: StandInHub) -> list[bytes]:
    """The weight files of a repository."""
    files = tiny_llama(shards=2)
    hub.add("acme/tiny", files)
    return [content for path, content in sorted(files.items()) if path.endswith(".safetensors")]


@TAGS
async def test_a_converted_model_costs_only_metadata_again(
    pull: Pull, forget: Callable[[], None], shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    """If the journal is lost, one check of the model."""
    name = f"hf.co/acme/tiny:{tag}"
    first = await pull(name, **OURS)
    assert first[-1] == {"status": "success"}
    model = ollama.models[name]
    for look in (assert_nothing_but_metadata, assert_only_looked, assert_nothing_but_metadata):
        if look is assert_only_looked:
            forget()
        clear(hub, ollama)
        lines = await pull(name, **OURS)
        assert [line["status"] for line in lines] == [line["status"] for line in said_of(shards)]
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
    await pull(name, **OURS)
    [weights] = [layer for layer in ollama.models[name].layers if layer.kind == "model"]
    for sections in (with_settings(), with_settings(**changes)):
        clear(hub, ollama)
        assert (await pull(name, **OURS, **sections))[-1] == {"status": "success"}
        assert not fetched(hub)
        assert not weight_uploads(ollama)
        model, wanted = ollama.models[name], sections["models"]["hf.co/acme/tiny"]
        assert [layer for layer in model.layers if layer.kind == "model"] == [weights]
        assert (model.template, model.system) == (wanted["template"], wanted.get("system", ""))
        assert model.licenses == wanted["license"]
        assert model.parameters.items() >= wanted["parameters"].items()
        assert model.quantization_level in UNQUANTIZED.get(tag.upper(), (tag.upper(),))
        check_clean(ollama, name)
        clear(hub, ollama)
        assert (await pull(name, **OURS, **sections))[-1] == {"status": "success"}
        assert_nothing_but_metadata(hub, ollama)


@TAGS
async def test_an_unrelated_commit_costs_one_check_if_converted(
    pull: Pull, shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **OURS)
    readme = tiny_llama()["README.md"] + b"More.\n"
    hub.repositories["acme/tiny"].update({"README.md": readme, "notes.txt": b"new"})
    clear(hub, ollama)
    assert (await pull(name, **OURS))[-1] == {"status": "success"}
    assert_only_looked(hub, ollama)
    clear(hub, ollama)
    assert (await pull(name, **OURS))[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


@TAGS
@pytest.mark.parametrize("changed", ["tokenizer_config.json", "config.json", "model-00002-of-00002.safetensors"])
async def test_a_changed_source_file_replaces_the_model(
    pull: Pull, shards: list[bytes], hub: StandInHub, ollama: StandInOllama, tag: str, changed: str
) -> None:
    """Nothing of the old model stays."""
    name = f"hf.co/acme/tiny:{tag}"
    await pull(name, **OURS)
    before = ollama.models[name]
    files = tiny_llama(seed=1, shards=2)
    if not changed.endswith(".safetensors"):
        key = "rope_theta" if changed == "config.json" else "chat_template"
        value = 10000.0 if changed == "config.json" else "{{ messages[0].content }}"
        files[changed] = orjson.dumps({**orjson.loads(tiny_llama(shards=2)[changed]), key: value})
    hub.repositories["acme/tiny"].update({changed: files[changed]})
    clear(hub, ollama)
    assert (await pull(name, **OURS))[-1] == {"status": "success"}
    assert fetched(hub)
    after = ollama.models[name]
    weights = [[layer.digest for layer in model.layers if layer.kind == "model"] for model in (before, after)]
    assert weights[0] != weights[1]
    check_clean(ollama, name)
    clear(hub, ollama)
    assert (await pull(name, **OURS))[-1] == {"status": "success"}
    assert_nothing_but_metadata(hub, ollama)


# ---- an Ollama that answers badly


@pytest.mark.parametrize("error", [OllamaError("broken"), OllamaGone("gone")], ids=str)
async def test_a_pull_succeeds_though_it_cannot_be_recorded(
    app: App,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    error: OllamaError,
) -> None:
    """Ollama fails to list its models."""
    models = app.backend.ollama.models

    async def broken() -> list[dict[str, Any]]:
        if ollama.models:
            raise error
        return await models()

    monkeypatch.setattr(app.backend.ollama, "models", broken)
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    monkeypatch.undo()
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert len(set(making(ollama.requests))) == 1


@pytest.mark.parametrize("shown", [None, {}, {"modified_at": 5}, {"parameters": 7, "details": {}}], ids=str)
async def test_a_strange_answer_to_show_counts_as_no_model(
    app: App,
    client: Client,
    files: dict[str, bytes],
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    shown: dict[str, Any] | None,
) -> None:
    ollama.models[NAME] = StandInModel()

    async def strange(_: str) -> dict[str, Any] | None:
        return shown

    monkeypatch.setattr(app.backend.ollama, "show", strange)
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert ollama.models[NAME].quantization_level == "Q4_K_M"


# ---- what Ollama shows, as Go writes it


GO_PARAMETERS = """\
temperature                    0.7
num_ctx                        4096
stop                           "</s>"
stop                           "q\\"x\\""
stop                           "n\\nl"
stop                           "tab\\t"
stop                           "uni é"
stop                           "back\\\\s"
stop                           ""
stop                           "\\u00a0 \\x7f"
repeat_penalty                 1
num_predict                    -1
min_p                          1e-05
tfs_z                          1e-07
seed                           1e+06
num_batch                      2.1e+07
penalize_newline               true
use_mmap                       false"""
PARAMETERS: dict[str, Any] = {
    "temperature": 0.7,
    "num_ctx": 4096,
    "stop": ["</s>", 'q"x"', "n\nl", "tab\t", "uni é", "back\\s", "", "\u00a0 \x7f"],
    "repeat_penalty": 1.0,
    "num_predict": -1,
    "min_p": 1e-05,
    "tfs_z": 1e-07,
    "seed": 1000000,
    "num_batch": 21_000_000,
    "penalize_newline": True,
    "use_mmap": False,
}


def test_parameters_are_read_as_go_writes_them() -> None:
    assert set(_shown_parameters(GO_PARAMETERS)) == _parameters(PARAMETERS)


@pytest.mark.parametrize("key", list(PARAMETERS))
def test_each_parameter_counts(key: str) -> None:
    other: Any = {bool: not PARAMETERS[key], list: ["z"]}.get(type(PARAMETERS[key]), 3)
    assert not _parameters({key: other}) <= set(_shown_parameters(GO_PARAMETERS))


@pytest.mark.parametrize("line", ["", "stop", "stop  [", "stop  nil", "x  map[string]interface {}{}", 'stop "'])
def test_an_unreadable_line_is_no_parameter(line: str) -> None:
    assert list(_shown_parameters(f"{line}\ntop_k  4")) == [("top_k", "4.0")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01T00:01:00.123456789Z", 60.123456),
        ("1970-01-01T01:01:00.12345678+01:00", 60.123456),
        ("1969-12-31T19:01:00.1234-05:00", 60.1234),
        ("", 0.0),
        ("None", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_times_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
