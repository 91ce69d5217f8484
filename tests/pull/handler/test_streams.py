"""The stream of a pull: clients that leave, silence, errors, and several pulls at once."""

import asyncio
import json
from typing import Any

import aiohttp
import ollama as ollama_client
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from proxy.transfer.streams import FIRST_STREAMS
from tests.kit.job_clients import UNREACHED
from tests.kit.ollama_log import created, uploads
from tests.kit.pauses import use_timings
from tests.kit.support import (
    NO_TEMPLATE,
    PULL_STATUSES,
    Client,
    digest_of,
    eventually,
    making,
    settings,
)

NAME = "hf.co/acme/tiny:q4_K_M"


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
    use_timings(monkeypatch, keep_alive=0.02)
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
    texts = [line.get("error") or line["status"] for line in lines]
    assert "cannot be rendered" in " ".join(texts)
    assert "unsupported  ]0;owned" in texts[-1]
    assert all(text.isprintable() for text in texts)


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
    texts = [line["status"] for line in lines if "digest" not in line]
    assert texts[: len(warnings) + 2] == ["pulling manifest", *warnings, "verifying sha256 digest"]


async def test_a_missing_ollama_is_an_error_line(
    hub: StandInHub, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with App(settings(hub.endpoint, "http://127.0.0.1:9")) as app:
        lines = await Client(app.address.url, session).pull(NAME)
    assert "Ollama at http://127.0.0.1:9 cannot be reached" in lines[-1]["error"]


async def test_a_missing_hub_is_an_error_line(ollama: StandInOllama, session: aiohttp.ClientSession) -> None:
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
