"""`POST /api/pull` on the wire: what a client reads, and what reaches Ollama."""

import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.pull import reading
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.job_clients import UNREACHED
from tests.kit.ollama_log import created, uploads
from tests.kit.support import (
    GGUF_BYTES,
    PULL_STATUSES,
    Client,
    digest_of,
    fetched,
    making,
    settings,
)
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q4_K_M"
LONG = "a" * 81
ALIAS = "in the proxy's configuration: [models.\""
"""The remedy for a repository's name."""


def layer(ollama: StandInOllama, kind: str, name: str = NAME) -> str:
    """The digest of a model's only layer of this kind."""
    [digest] = [layer.digest for layer in ollama.models[name].layers if layer.kind == kind]
    return digest


def weights_uploaded(ollama: StandInOllama) -> int:
    """The number of uploads that are larger than a small file."""
    return sum(request.received > 10_000 for request in ollama.requests)


async def test_the_lines_are_the_contracts_in_its_order(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    lines = await client.pull(NAME)
    weights = digest_of(files["model.safetensors"])
    size = len(files["model.safetensors"])
    bars = [line for line in lines if line.get("digest") == weights]
    assert all(line["status"] == f"pulling {weights[7:19]}" and line["total"] == size for line in bars)
    assert bars[-1]["completed"] == size
    assert len(bars) == len([line for line in lines if "digest" in line])
    assert [line["status"] for line in lines if "digest" not in line] == PULL_STATUSES
    assert NAME in ollama.models


async def test_the_gguf_and_the_small_layers_become_blobs(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await client.pull(NAME)
    expected = converted(files, quantization="Q4_K_M")
    assert layer(ollama, "model") == digest_of(expected)
    assert ollama.blobs[digest_of(expected)] == len(expected)
    assert not {digest_of(content) for path, content in files.items() if path != "LICENSE"} & ollama.blobs.keys()
    # Ollama keeps nothing of the upload with a wrong digest.
    assert ollama.models.used_digests() | {PROBE_DIGEST} >= ollama.blobs.keys()


async def test_a_create_gets_the_same_gguf(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with App(settings(hub.endpoint, ollama.url, ollama=UNREACHED)) as app:
        assert (await Client(app.address.url, session).pull(NAME))[-1] == {"status": "success"}
    [body] = created(ollama)
    assert body["model"] == NAME
    assert body["files"] == {"model.gguf": digest_of(converted(files, quantization="Q4_K_M"))}
    assert body["stream"] is False
    assert "quantize" not in body


async def test_sharded_weights_have_a_bar_each(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    files = tiny_llama(shards=3)
    hub.add("acme/sharded", files)
    lines = await client.pull("hf.co/acme/sharded:q8_0")
    assert lines[-1] == {"status": "success"}
    shards = {digest_of(content): len(content) for path, content in files.items() if path.endswith(".safetensors")}
    last = {line["digest"]: line for line in lines if line.get("digest") in shards}
    assert {digest: (line["total"], line["completed"]) for digest, line in last.items()} == {
        digest: (size, size) for digest, size in shards.items()
    }
    assert layer(ollama, "model", "hf.co/acme/sharded:q8_0") == digest_of(
        converted(files, "sharded", quantization="Q8_0")
    )


async def test_twenty_shards_share_sixteen_bars(client: Client, hub: StandInHub) -> None:
    files = tiny_llama(shards=20)
    hub.add("acme/sharded", files)
    lines = await client.pull("hf.co/acme/sharded:f16")
    bars = {
        line["digest"]: line for line in lines if line.get("status", "").startswith("pulling ") and "digest" in line
    }
    assert lines[-1] == {"status": "success"}
    assert len(bars) == 16
    size = sum(len(content) for path, content in files.items() if path.endswith(".safetensors"))
    assert sum(bar["total"] for bar in bars.values()) == sum(bar["completed"] for bar in bars.values()) == size


async def test_stream_false_answers_once(client: Client, files: dict[str, bytes], ollama: StandInOllama) -> None:
    assert await client.pull_at_once(NAME) == (200, {"status": "success"})
    assert NAME in ollama.models


async def test_a_failure_is_500_without_a_stream_and_a_line_within_one(client: Client) -> None:
    status, answer = await client.pull_at_once("hf.co/acme/nothing")
    assert status == 500
    assert "there is no repository acme/nothing" in answer["error"]
    lines = await client.pull("hf.co/acme/nothing")
    assert lines[-1] == answer


@pytest.mark.parametrize(
    "body",
    [
        {"model": "", "name": NAME, "username": "", "password": ""},
        {"name": NAME, "model": ""},
        {"model": NAME, "insecure": True, "name": NAME},
        {"Model": NAME, "stream": None},
        {"name": f"https://{NAME}"},
        {"model": f" {NAME} "},
    ],
)
async def test_all_clients_names_of_a_model_are_understood(
    client: Client, files: dict[str, bytes], ollama: StandInOllama, body: dict[str, Any]
) -> None:
    status, answer = await client.post("/api/pull", body)
    assert status == 200
    assert orjson.loads(answer.splitlines()[-1]) == {"status": "success"}
    assert list(ollama.models) == [NAME]


async def test_the_two_names_of_the_hub_are_two_models(
    client: Client, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    await client.pull("hf.co/acme/tiny")
    await client.pull("huggingface.co/acme/tiny")
    assert sorted(ollama.models) == ["hf.co/acme/tiny:latest", "huggingface.co/acme/tiny:latest"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": 5}',
        b'{"name": ""}',
        b'{"name": "hf.co/gpt2"}',
        b'{"name": "hf.co/a/b/c"}',
        b'{"name": "hf.co/a/b@sha256:abc"}',
        b'{"name": "registry.example/a.b/c"}',
        b'{"name": "hf.co/a.b/c", "stream": 1}',
        b'{"name": "hf.co/a/b", "stream": 1}',
        b'{"name": "llama3.2"}',
        b'{"name": "registry.example/a/b:c"}',
        b'{"name": "hf.co/a/b:8b-cloud"}',
    ],
)
async def test_ollama_answers_what_no_source_claims(client: Client, ollama: StandInOllama, body: bytes) -> None:
    answers = []
    for url in (client.url, ollama.url):
        async with client.session.post(f"{url}/api/pull", data=body) as response:
            answers.append((response.status, response.content_type, await response.read()))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("name", "rule", "remedy"),
    [
        (f"hf.co/acme/{LONG}", "the repository's name has 81 characters, and Ollama takes at most 80", ALIAS),
        (f"https://HF.co/acme/{LONG}:q8_0", "the repository's name has 81 characters", ALIAS),
        (f"hf.co/{LONG}/tiny", "the organization has 81 characters, and Ollama takes at most 80", ALIAS),
        ("hf.co/a.b/c", "the organization contains '.', and Ollama takes only letters, digits and _ -", ALIAS),
        ("hf.co/acme/-tiny", "the repository's name does not begin with a letter, a digit or _", ALIAS),
        (f"hf.co/acme/tiny:{LONG}", "the tag has 81 characters, and Ollama takes at most 80", "[models] revision"),
        ("hf.co/acme/tiny:v1+2--q8_0", "the tag contains '+'", "[models] revision"),
    ],
)
async def test_a_name_of_a_source_that_breaks_a_rule_of_ollama_is_refused_with_the_rule(
    client: Client, ollama: StandInOllama, name: str, rule: str, remedy: str, stream: bool
) -> None:
    """With Ollama's own status. Ollama says only that the name is invalid."""
    status, answer = await client.post("/api/pull", {"name": name, "stream": stream})
    error = orjson.loads(answer)["error"]
    assert status == 400
    assert rule in error
    assert remedy in error
    async with client.session.post(f"{ollama.url}/api/pull", json={"name": name}) as response:
        assert (response.status, await response.json()) == (400, {"error": "invalid model name"})


async def test_an_endless_body_is_forwarded_without_buffering(client: Client, ollama: StandInOllama) -> None:
    body = b'{"name": "' + b"x" * 3_000_000 + b'"}'
    async with client.session.post(f"{client.url}/api/pull", data=io.BytesIO(body)) as response:
        assert (response.status, await response.json()) == (400, {"error": "invalid model name"})


async def test_ollama_pulls_a_gguf_itself_without_insecure(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    """Open WebUI sends `insecure` in every pull, which breaks pulls from hf.co."""
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF", "README.md": b""})
    ollama.native["hf.co/acme/tiny-gguf:Q4_K_M"] = 4
    lines = await client.pull("hf.co/acme/tiny-gguf:Q4_K_M", insecure=True)
    assert lines[-1] == {"status": "success"}
    [request] = [request for request in ollama.requests if request.path == "/api/pull"]
    assert orjson.loads(request.body or b"") == {"model": "hf.co/acme/tiny-gguf:Q4_K_M"}
    assert not created(ollama)


async def test_blobs_that_ollama_holds_are_not_fetched_again(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    """Under another name of the repository."""
    await client.pull(NAME)
    before = weights_uploaded(ollama)
    hub.requests.clear()
    lines = await client.pull("huggingface.co/acme/tiny:q4_K_M")
    assert lines[-1] == {"status": "success"}
    assert not fetched(hub)
    assert weights_uploaded(ollama) == before
    [bar] = [line for line in lines if line.get("digest") == digest_of(files["model.safetensors"])]
    assert bar["completed"] == bar["total"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("model.safetensors", "corrupt", after=2_000_000, times=2), "arrived damaged"),
        (Fault("model.safetensors", "corrupt", after=2_300, times=2), "arrived damaged"),
        (Fault("model.safetensors", "short", after=200_000, times=-1), "the connection to 127.0.0.1 failed"),
        (Fault("model.safetensors", "drop", after=200_000, times=-1), "failed (the connection broke in the middle"),
        (Fault("model.safetensors", "status", status=503, times=-1), "answered 503"),
    ],
)
async def test_a_broken_file_never_becomes_a_blob_and_is_named(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama, fault: Fault, message: str
) -> None:
    hub.faults.append(fault)
    lines = await client.pull(NAME)
    assert set(lines[-1]) == {"error"}
    assert "acme/tiny/model.safetensors" in lines[-1]["error"]
    assert message in lines[-1]["error"]
    assert not making(ollama.requests)
    # If the upload ended cleanly, Ollama would keep the bytes under their own digest.
    assert all(size < 1_000_000 for size in ollama.blobs.values())
    hub.faults.clear()
    assert (await client.pull(NAME))[-1] == {"status": "success"}


async def test_a_damaged_small_file_is_found_by_its_git_hash(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.faults.append(Fault("config.json", "corrupt", after=5, times=2))
    lines = await client.pull(NAME)
    assert "acme/tiny/config.json arrived damaged" in lines[-1]["error"]
    assert not ollama.blobs


async def test_finished_files_stay_when_another_fails(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "GGUF_BYTES", GGUF_BYTES)
    files = {"model-Q8_0.gguf": tiny_gguf("Q8_0"), "mmproj-F16.gguf": tiny_projector(rows=4000)}
    hub.add("acme/tiny", files)
    hub.faults.append(Fault("mmproj-F16.gguf", "drop", after=100_000, times=-1))
    app_of_one = settings(hub.endpoint, ollama.url, pull={"connections": 1})
    async with App(app_of_one) as app:
        lines = await Client(app.address.url, session).pull("hf.co/acme/tiny:q8_0")
    assert "mmproj-F16.gguf" in lines[-1]["error"]
    assert digest_of(files["model-Q8_0.gguf"]) in ollama.blobs
    assert digest_of(files["mmproj-F16.gguf"]) not in ollama.blobs


async def test_refusals_come_before_the_first_weight_byte(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/evil", files | {"model.safetensors.index.json": b'{"weight_map": {"a": "../../x.safetensors"}}'})
    hub.add("acme/gated", files, gated=True)
    expected = {
        "hf.co/acme/tiny:iq2_xxs": "IQ2_XXS needs an importance matrix",
        "hf.co/acme/evil": "names an unsafe file, '../../x.safetensors'",
        "hf.co/acme/gated": "is gated; ask for access at",
        "hf.co/acme/none": "there is no repository acme/none",
    }
    for name, message in expected.items():
        assert message in (await client.pull(name))[-1]["error"]
    assert not [request for request in hub.requests if "safetensors" in request.path and "index" not in request.path]
    assert not uploads(ollama)


@pytest.mark.parametrize("lfs", [False, True])
async def test_a_too_large_small_file_is_refused(client: Client, hub: StandInHub, tmp_path: Path, lfs: bool) -> None:
    large = tmp_path / "tokenizer.json"
    with large.open("wb") as file:
        file.truncate(65 * 1024**2)
    hub.add("acme/tiny", tiny_llama() | {"tokenizer.json": large}, lfs=lambda _: lfs)
    lines = await client.pull(NAME)
    assert "acme/tiny/tokenizer.json has 68157440 bytes and would have to be read into memory" in lines[-1]["error"]
    requests = [request for request in hub.requests if request.path.endswith("/tokenizer.json")]
    assert [request.method for request in requests] == ([] if lfs else ["HEAD"])


async def test_the_token_goes_to_the_endpoint_and_never_to_the_cdn(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/gated", tiny_llama(), gated=True)
    hub.token = "hf_secret"
    async with App(settings(hub.endpoint, ollama.url, hub={"token": "hf_secret"})) as app:
        lines = await Client(app.address.url, session).pull("hf.co/acme/gated")
    assert lines[-1] == {"status": "success"}
    assert {request.headers.get("Authorization") for request in hub.requests if request.origin == "hub"} == {
        "Bearer hf_secret"
    }
    assert {request.headers.get("Authorization") for request in hub.requests if request.origin == "cdn"} == {None}
    assert not [request for request in ollama.requests if "Authorization" in request.headers]


async def test_a_token_without_access_has_its_own_error_text(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/gated", tiny_llama(), gated=True)
    hub.token = "hf_other"
    async with App(settings(hub.endpoint, ollama.url, hub={"token": "hf_mine"})) as app:
        lines = await Client(app.address.url, session).pull("hf.co/acme/gated")
    assert "the proxy's token has no access to it" in lines[-1]["error"]
    assert "hf_mine" not in lines[-1]["error"]


async def test_the_commit_is_pinned_while_the_branch_moves(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    repository = hub.repositories["acme/tiny"]
    old = repository.commit
    await client.pull(NAME)
    repository.update(tiny_llama(seed=9))
    assert repository.commit != old
    fetched = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert fetched
    assert all(f"/resolve/{old}/" in path for path in fetched)


@pytest.mark.parametrize("way", [{}, UNREACHED], ids=["manifest", "create"])
async def test_the_users_settings_go_into_the_model(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    way: dict[str, str],
) -> None:
    first = hub.repositories["acme/tiny"].commit
    hub.repositories["acme/tiny"].update(tiny_llama(seed=1))
    own: dict[str, Any] = {
        "template": "{{- if .System }}{{ .System }}{{ end }}<｜User｜>{{ .Prompt }}<｜Assistant｜>",
        "system": "Be terse.",
        "parameters": {"temperature": 0.3, "stop": ["<｜User｜>", "<｜Assistant｜>"]},
        "license": "MIT",
    }
    models = {"HF.CO/Acme/Tiny:whatever": own | {"revision": first}}
    async with App(settings(hub.endpoint, ollama.url, models=models, ollama=way)) as app:
        assert (await Client(app.address.url, session).pull(NAME))[-1] == {"status": "success"}
    expected = converted(files, quantization="Q4_K_M")
    assert layer(ollama, "model") == digest_of(expected)
    parameters = own["parameters"] | {"repeat_penalty": 1.0}
    if way:
        [body] = created(ollama)
        assert {key: body[key] for key in own} == own | {"parameters": parameters}
    else:
        texts = {one.kind: one.text for one in ollama.models[NAME].layers}
        assert {key: texts[key] for key in ("template", "system", "license")} == {
            key: own[key] for key in ("template", "system", "license")
        }
        assert orjson.loads(texts["params"]) == parameters


@pytest.mark.parametrize(
    "place", ["chat_template.jinja", "additional_chat_templates/default.jinja", "chat_template.json"]
)
async def test_a_template_file_is_the_template_of_the_gguf(
    client: Client, hub: StandInHub, ollama: StandInOllama, place: str
) -> None:
    files = tiny_llama()
    config = json.loads(files["tokenizer_config.json"])
    template = config["chat_template"] + "{# from the file #}"
    if place.endswith(".json"):
        del config["chat_template"]
        more = {place: json.dumps({"chat_template": template}), "tokenizer_config.json": json.dumps(config)}
    else:
        more = {place: template}
    hub.add("acme/tiny", files | {path: text.encode() for path, text in more.items()})
    await client.pull(NAME)
    config["chat_template"] = template
    expected = converted(files | {"tokenizer_config.json": json.dumps(config).encode()}, quantization="Q4_K_M")
    assert layer(ollama, "model") == digest_of(expected)
    assert template.encode() in ollama.beginning(digest_of(expected))
