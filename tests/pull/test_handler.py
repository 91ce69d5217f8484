"""Door 2 on the wire: what a client of `/api/pull` reads, what reaches Ollama, and what never does."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import ollama as ollama_client
import orjson
import pytest

from proxy.app import App
from proxy.ollama.client import PROBE_DIGEST
from proxy.pull import reading
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.transfer import progress
from proxy.transfer.streams import FIRST_STREAMS
from tests.kit.conversions import converted
from tests.kit.ollama_log import created, uploads
from tests.kit.support import (
    GGUF_BYTES,
    NO_TEMPLATE,
    PULL_STATUSES,
    Client,
    digest_of,
    eventually,
    fetched,
    making,
    settings,
)
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector

NAME = "hf.co/acme/tiny:q4_K_M"


UNREACHED = {"advertise_url": "http://127.0.0.1:9"}
"""Where Ollama does not reach the proxy, it makes models by creates."""


def layer(ollama: StandInOllama, kind: str, name: str = NAME) -> str:
    """The digest of a model's only layer of a kind."""
    [digest] = [layer.digest for layer in ollama.models[name].layers if layer.kind == kind]
    return digest


def weights_uploaded(ollama: StandInOllama) -> int:
    """How many uploads were of more than a small file."""
    return sum(request.received > 10_000 for request in ollama.requests)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama()
    hub.add("acme/tiny", files)
    return files


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
    # The upload under a wrong digest goes unkept.
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
        b'{"name": "hf.co/a.b/c"}',
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


async def test_an_endless_body_is_forwarded_without_buffering(client: Client, ollama: StandInOllama) -> None:
    body = b'{"name": "' + b"x" * 3_000_000 + b'"}'
    async with client.session.post(f"{client.url}/api/pull", data=io.BytesIO(body)) as response:
        assert (response.status, await response.json()) == (400, {"error": "invalid model name"})


async def test_ollama_pulls_a_gguf_itself_without_insecure(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    """Open WebUI says `insecure` in every pull, which breaks hf.co there."""
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
    """Here under another name of the repository."""
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
    # A clean end would have stored the bytes, if only under their own digest.
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
    asked = [request for request in hub.requests if request.path.endswith("/tokenizer.json")]
    assert [request.method for request in asked] == ([] if lfs else ["HEAD"])


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


async def test_a_token_without_access_is_told_apart_from_no_token(
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
    wanted: dict[str, Any] = {
        "template": "{{- if .System }}{{ .System }}{{ end }}<｜User｜>{{ .Prompt }}<｜Assistant｜>",
        "system": "Be terse.",
        "parameters": {"temperature": 0.3, "stop": ["<｜User｜>", "<｜Assistant｜>"]},
        "license": "MIT",
    }
    models = {"HF.CO/Acme/Tiny:whatever": wanted | {"revision": first}}
    async with App(settings(hub.endpoint, ollama.url, models=models, ollama=way)) as app:
        assert (await Client(app.address.url, session).pull(NAME))[-1] == {"status": "success"}
    expected = converted(files, quantization="Q4_K_M")
    assert layer(ollama, "model") == digest_of(expected)
    parameters = wanted["parameters"] | {"repeat_penalty": 1.0}
    if way:
        [body] = created(ollama)
        assert {key: body[key] for key in wanted} == wanted | {"parameters": parameters}
    else:
        texts = {one.kind: one.text for one in ollama.models[NAME].layers}
        assert {key: texts[key] for key in ("template", "system", "license")} == {
            key: wanted[key] for key in ("template", "system", "license")
        }
        assert orjson.loads(texts["params"]) == parameters


async def test_a_jinja_file_is_the_template_of_the_gguf(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    files = tiny_llama()
    config = json.loads(files["tokenizer_config.json"])
    template = config["chat_template"] + "{# from the file #}"
    hub.add("acme/tiny", files | {"chat_template.jinja": template.encode()})
    await client.pull(NAME)
    config["chat_template"] = template
    expected = converted(files | {"tokenizer_config.json": json.dumps(config).encode()}, quantization="Q4_K_M")
    assert layer(ollama, "model") == digest_of(expected)
    assert template.encode() in ollama.beginning(digest_of(expected))


async def test_without_linger_the_last_client_ends_the_transfer(
    files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """With `pull.linger = 0`, the transfer ends when its only client leaves."""
    hub.faults.append(Fault("model.safetensors", "hang", after=3_000_000))
    async with App(settings(hub.endpoint, ollama.url, pull={"linger": 0})) as app:
        async with session.post(f"{app.address.url}/api/pull", json={"model": NAME}) as response:
            await eventually(lambda: any(request.body_bytes for request in hub.requests if request.origin == "cdn"))
            response.close()
        await eventually(lambda: [task for task in asyncio.all_tasks() if task.get_name().startswith("pull")] == [])
    assert not making(ollama.requests)
    assert all(size < 10_000 for size in ollama.blobs.values())


@pytest.mark.parametrize("way", [{}, UNREACHED], ids=["manifest", "create"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_create_ends_although_its_client_left(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    way: dict[str, str],
    stream: bool,
) -> None:
    ollama.hold_making = asyncio.Event()
    async with App(settings(hub.endpoint, ollama.url, ollama=way)) as app:
        client = Client(app.address.url, session)
        pulling = asyncio.create_task(client.post("/api/pull", {"model": NAME, "stream": stream}))
        await eventually(lambda: created(ollama) if way else making(ollama.requests))
        pulling.cancel()
        await asyncio.sleep(0.1)
        ollama.hold_making.set()
        await eventually(lambda: NAME in ollama.models)
    assert bool(created(ollama)) == bool(way)
    assert ollama.abandoned_creates == 0


@pytest.mark.parametrize("way", [{}, UNREACHED], ids=["manifest", "create"])
async def test_keep_alives_repeat_the_newest_bar(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    way: dict[str, str],
) -> None:
    """While Ollama creates the model, nothing else moves."""
    monkeypatch.setattr(progress, "KEEP_ALIVE_SECONDS", 0.02)
    ollama.hold_making = asyncio.Event()
    weights = files["model.safetensors"]
    bar = {"digest": digest_of(weights), "total": len(weights), "completed": len(weights)}
    lines: list[dict[str, Any]] = []
    async with (
        App(settings(hub.endpoint, ollama.url, ollama=way)) as app,
        session.post(f"{app.address.url}/api/pull", json={"model": NAME}) as response,
    ):
        async for text in response.content:
            lines.append(orjson.loads(text))
            checked = [line.get("status") == PULL_STATUSES[1] for line in lines]
            if any(checked) and len(lines) - checked.index(True) > 3:
                ollama.hold_making.set()
    silence = lines[checked.index(True) + 1 :][:3]
    assert silence == [{"status": f"pulling {bar['digest'][7:19]}", **bar}] * 3  # type: ignore[index]
    assert lines[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"fail_create": "unsupported architecture"}, f"cannot create {NAME}: unsupported architecture"),
        ({"crash_create": True}, "it may have crashed"),
        ({"end_create_early": True}, "without success"),
        ({"upload_status": 500}, "Ollama refused the blob: the stand-in was told to"),
        ({"fail_upload_after": 1_000_000}, "broke off the upload"),
    ],
)
async def test_a_failure_of_ollama_is_the_last_line(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    script: dict[str, Any],
    message: str,
) -> None:
    for key, value in script.items():
        setattr(ollama, key, value)
    async with App(settings(hub.endpoint, ollama.url, ollama=UNREACHED)) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    assert message in lines[-1]["error"]
    assert not [line for line in lines if line.get("status") == "success"]


async def test_texts_from_outside_cannot_control_a_terminal(
    hub: StandInHub, files: dict[str, bytes], ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Texts of a repository and of Ollama."""
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e"
    template = json.dumps({"chat_template": f"{{{{ raise_exception('{hostile}') }}}}"}).encode()
    hub.add("acme/tiny", files | {"tokenizer_config.json": template})
    ollama.fail_create = f"unsupported {hostile}"
    async with App(settings(hub.endpoint, ollama.url, ollama=UNREACHED)) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    said = [line.get("error") or line["status"] for line in lines]
    assert "cannot be rendered" in " ".join(said)
    assert "unsupported  ]0;owned" in said[-1]
    assert all(text.isprintable() for text in said)


@pytest.mark.parametrize(
    ("agent", "warnings"),
    [
        ("ollama/0.24.0 (amd64 linux) Go/go1.24.1", [NO_TEMPLATE[:57], NO_TEMPLATE[58:]]),
        ("ollama-python/0.6.1 (x86_64 linux) Python/3.11.7", [NO_TEMPLATE]),
        ("ollama-js/0.6.3 (x64 linux Node.js/v20)", [NO_TEMPLATE]),
    ],
)
async def test_ollamas_cli_gets_warnings_in_terminal_rows(
    client: Client, hub: StandInHub, files: dict[str, bytes], agent: str, warnings: list[str]
) -> None:
    """Ollama's command line redraws a status that is longer than one row wrongly."""
    hub.add("acme/tiny", files | {"tokenizer_config.json": b"{}"})
    body = {"model": NAME, "stream": True}
    async with client.session.post(f"{client.url}/api/pull", json=body, headers={"User-Agent": agent}) as response:
        lines = [orjson.loads(line) for line in (await response.read()).splitlines()]
    said = [line["status"] for line in lines if "digest" not in line]
    assert said[: len(warnings) + 2] == ["pulling manifest", *warnings, "verifying sha256 digest"]


async def test_an_ollama_that_is_not_there_is_an_error_line(
    hub: StandInHub, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with App(settings(hub.endpoint, "http://127.0.0.1:9")) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    assert "Ollama at http://127.0.0.1:9 cannot be reached" in lines[-1]["error"]


async def test_a_hub_that_is_not_there_is_an_error_line(ollama: StandInOllama, session: aiohttp.ClientSession) -> None:
    async with App(settings("http://127.0.0.1:9", ollama.url)) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    assert "http://127.0.0.1:9 cannot be reached" in lines[-1]["error"]


async def test_a_shutdown_ends_the_stream_with_an_error_line(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    hub.faults.append(Fault("model.safetensors", "hang", after=3_000_000))
    async with App(settings(hub.endpoint, ollama.url)) as app:
        pulling = asyncio.create_task(Client(app.address.url, session).pull(NAME))
        await eventually(lambda: uploads(ollama))
    assert "the proxy is shutting down" in (await pulling)[-1]["error"]


async def test_an_internal_error_is_reported_without_traceback(
    client: Client, app: App, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(app.backend.transfer, "run", broken)
    error = (await client.pull(NAME))[-1]["error"]
    assert "a fault in ollama-hf-proxy" in error
    assert "secret detail" not in error


async def test_the_python_client_shows_a_pull_as_its_own(
    app: App, files: dict[str, bytes], ollama: StandInOllama
) -> None:
    python = ollama_client.AsyncClient(app.address.url)
    parts = [part async for part in await python.pull(NAME, stream=True)]
    assert parts[-1].status == "success"
    assert max(part.completed or 0 for part in parts) > 1_000_000
    assert (await python.pull(NAME)).status == "success"
    with pytest.raises(ollama_client.ResponseError, match="there is no repository"):
        await python.pull("hf.co/acme/none")
    await python._client.aclose()


async def test_a_full_transfer_does_not_delay_another_plan(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """A second pull is planned while the first one uses every connection."""
    hub.add("acme/slow", tiny_llama(shards=8))
    hub.add("acme/tiny", tiny_llama(seed=2))
    hub.faults.append(Fault("*", "hang", after=100_000, times=8))
    slow = asyncio.create_task(client.pull("hf.co/acme/slow"))
    await eventually(lambda: len([request for request in hub.requests if request.origin == "cdn"]) >= FIRST_STREAMS)
    lines = (await client.pull("hf.co/acme/tiny:iq2_xxs"), await client.post("/api/pull", {"model": "hf.co/acme/none"}))
    assert "needs an importance matrix" in lines[0][-1]["error"]
    async with client.session.post(f"{client.url}/api/pull", json={"model": "hf.co/acme/tiny"}) as response:
        planned = [orjson.loads(await response.content.readline()) for _ in range(2)]
        response.close()
    assert planned[0] == {"status": "pulling manifest"}
    assert planned[1]["digest"] == f"sha256:{await hub.repositories['acme/tiny'].files['model.safetensors'].sha256()}"
    slow.cancel()


async def test_two_pulls_of_different_models_run_side_by_side(
    client: Client, files: dict[str, bytes], hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/other", tiny_llama(seed=2))
    both = await asyncio.gather(client.pull(NAME), client.pull("hf.co/acme/other:f16"))
    assert [lines[-1] for lines in both] == [{"status": "success"}] * 2
    assert sorted(ollama.models) == ["hf.co/acme/other:f16", NAME]
