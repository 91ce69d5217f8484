"""`pull.on_demand`: calls for models that Ollama does not have pull them first."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import orjson
import pytest

from proxy import on_demand
from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, eventually, fetched, making, settings
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:q8_0"
MESSAGES = [{"role": "user", "content": "hello"}]
REPLY = "The stand-in has heard you."


@pytest.fixture
async def app(hub: StandInHub, ollama: StandInOllama) -> AsyncIterator[App]:
    hub.add("acme/tiny", tiny_llama())
    async with App(settings(hub.endpoint, ollama.url, pull={"on_demand": True})) as app:
        yield app


@pytest.fixture
async def unreached(hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    """A client of a proxy that Ollama does not reach, so that a create makes the model."""
    hub.add("acme/tiny", tiny_llama())
    advertised = {"advertise_url": "http://127.0.0.1:9"}
    async with App(settings(hub.endpoint, ollama.url, pull={"on_demand": True}, ollama=advertised)) as app:
        yield Client(app.address.url, session)


def calls(ollama: StandInOllama, path: str) -> list[bytes]:
    return [request.body or b"" for request in ollama.requests if request.path == path]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/chat", {"messages": MESSAGES, "stream": False}, REPLY),
        ("/api/chat", {"messages": MESSAGES}, "heard"),
        ("/api/generate", {"prompt": "hello", "stream": False}, REPLY),
        ("/api/embed", {"input": "hello"}, "embeddings"),
        ("/v1/chat/completions", {"messages": MESSAGES}, REPLY),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, "[DONE]"),
    ],
)
async def test_ollama_gets_the_original_call_after_the_pull(
    client: Client, ollama: StandInOllama, path: str, body: dict[str, Any], expected: str
) -> None:
    sent = {"model": NAME, **body, "options": {"num_ctx": 77}}
    status, answer = await client.post(path, sent)
    assert (status, expected in answer.decode()) == (200, True), answer
    assert [orjson.loads(one) for one in calls(ollama, path)] == [sent]
    assert NAME in ollama.models
    before = len(ollama.requests)
    assert (await client.post(path, sent))[0] == 200
    assert not making(ollama.requests[before:])


async def test_a_modelfiles_from_is_pulled_first(client: Client, ollama: StandInOllama) -> None:
    status, answer = await client.post("/api/create", {"model": "mine", "from": NAME, "system": "Be brief."})
    assert (status, b"success" in answer) == (200, True), answer
    assert {"mine:latest", NAME} <= set(ollama.models)


async def test_by_default_ollama_gets_every_call(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """With `pull.on_demand`, it still gets calls for other names."""
    hub.add("acme/tiny", tiny_llama())
    for is_on, name in ((False, NAME), (True, "llama3.2"), (True, "registry.ollama.ai/library/x"), (True, 5)):
        async with App(settings(hub.endpoint, ollama.url, pull={"on_demand": is_on})) as app:
            status, _ = await Client(app.address.url, session).post("/api/chat", {"model": name, "messages": MESSAGES})
        assert status in (400, 404)
    assert not hub.requests


async def test_show_pulls_nothing(client: Client, hub: StandInHub) -> None:
    """`ollama run` calls it first, and then pulls with its own bars."""
    assert (await client.post("/api/show", {"model": NAME}))[0] == 404
    assert not fetched(hub)


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s"])
@pytest.mark.parametrize(
    ("path", "inputs"), [("/api/generate", {"prompt": "hello"}), ("/api/chat", {"messages": MESSAGES})]
)
async def test_a_call_that_only_unloads_pulls_nothing(
    client: Client, hub: StandInHub, path: str, inputs: dict[str, Any], keep_alive: float | str
) -> None:
    body = {"model": NAME, "keep_alive": keep_alive, "stream": False}
    assert (await client.post(path, body))[0] == 404
    assert not hub.requests
    assert (await client.post(path, {**body, **inputs}))[0] == 200


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/chat", lambda answer: answer["error"]),
        ("/v1/chat/completions", lambda answer: answer["error"]["message"]),
        ("/v1/messages", lambda answer: answer["error"]["message"]),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_the_calls_own_error(client: Client, path: str, text: Any, *, stream: bool) -> None:
    body = {"model": "hf.co/acme/none:q8_0", "messages": MESSAGES, "stream": stream}
    status, answer = await client.post(path, body)
    assert status == 404
    assert "there is no repository acme/none" in text(orjson.loads(answer))


async def test_a_failed_transfer_is_the_calls_error(client: Client, hub: StandInHub) -> None:
    hub.faults.append(Fault("model.safetensors", "corrupt", after=200_000, times=-1))
    status, answer = await client.post("/api/generate", {"model": NAME, "prompt": "hello"})
    assert status == 502
    assert "arrived damaged" in orjson.loads(answer)["error"]


async def test_a_stream_of_events_is_kept_alive_by_comments_alone(
    client: Client, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(on_demand, "KEEP_ALIVE_SECONDS", 0.01)
    ollama.hold_making = asyncio.Event()
    body = {"model": NAME, "messages": MESSAGES, "stream": True}
    async with client.session.post(f"{client.url}/v1/chat/completions", json=body) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        for _ in range(3):
            assert await response.content.readline() == b": the model is being pulled\n"
            assert await response.content.readline() == b"\n"
        ollama.hold_making.set()
        rest = (await response.read()).decode()
    events = [line for line in rest.splitlines() if line and not line.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    texts = [orjson.loads(event[6:])["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert "".join(texts) == REPLY


@pytest.mark.parametrize(
    ("path", "inputs", "empty"),
    [
        ("/api/chat", {"messages": MESSAGES}, {"message": {"role": "assistant", "content": ""}}),
        ("/api/generate", {"prompt": "hello"}, {"response": ""}),
    ],
)
async def test_ollamas_own_stream_is_kept_alive_by_empty_answers(
    client: Client,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    inputs: dict[str, Any],
    empty: dict[str, Any],
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(on_demand, "KEEP_ALIVE_SECONDS", 0.01)
    ollama.hold_making = asyncio.Event()
    async with client.session.post(f"{client.url}{path}", json={"model": NAME, **inputs}) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        for _ in range(3):
            line = orjson.loads(await response.content.readline())
            datetime.fromisoformat(line.pop("created_at"))
            assert line == {"model": NAME, **empty, "done": False}
        ollama.hold_making.set()
        lines = [orjson.loads(line) for line in (await response.read()).splitlines()]
    assert lines[-1]["done"] is True
    assert "".join(line.get("response") or line.get("message", {}).get("content", "") for line in lines) == REPLY


async def test_a_create_from_it_shows_the_bars_of_the_pull(
    client: Client, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    ollama.hold_upload = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, ollama.hold_upload.set)
    status, answer = await client.post("/api/create", {"model": "mine", "from": NAME})
    lines = [orjson.loads(line) for line in answer.splitlines()]
    assert status == 200
    assert not [line for line in lines if "error" in line]
    assert [line["status"] for line in lines].count("success") == 1
    assert lines[-1] == {"status": "success"}
    bars = [line for line in lines if line["status"].startswith("pulling ") and "digest" in line]
    assert bars[-1]["completed"] == bars[-1]["total"]
    assert "mine:latest" in ollama.models


@pytest.mark.parametrize("path", ["/api/chat", "/api/create"])
async def test_a_failure_behind_signs_of_life_is_the_last_line(
    unreached: Client, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(on_demand, "KEEP_ALIVE_SECONDS", 0.01)
    ollama.fail_create = "it does not fit"
    ollama.hold_making = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, ollama.hold_making.set)
    names = {"model": "mine", "from": NAME} if path == "/api/create" else {"model": NAME, "messages": MESSAGES}
    status, answer = await unreached.post(path, names)
    lines = [orjson.loads(line) for line in answer.splitlines()]
    assert status == 200
    assert len(lines) > 1
    assert [line for line in lines if "error" in line] == [lines[-1]]
    assert "it does not fit" in lines[-1]["error"]


async def test_a_failure_behind_comments_is_an_event(
    unreached: Client, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    ollama.fail_create = "it does not fit"
    ollama.hold_making = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, ollama.hold_making.set)
    body = {"model": NAME, "messages": MESSAGES, "stream": True}
    status, answer = await unreached.post("/v1/chat/completions", body)
    assert status == 200
    *_, event = [line for line in answer.decode().splitlines() if line.startswith("data: ")]
    assert "it does not fit" in orjson.loads(event[6:])["error"]["message"]


async def test_a_client_that_leaves_may_come_back_to_the_same_pull(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    ollama.hold_upload = asyncio.Event()
    asking = asyncio.create_task(client.post("/api/chat", {"model": NAME, "messages": MESSAGES, "stream": False}))
    await eventually(lambda: [job.state for job in app.jobs.all()] == ["transferring"])
    asking.cancel()
    await eventually(lambda: [job.clients for job in app.jobs.all()] == [0])
    ollama.hold_upload.set()
    status, answer = await client.post("/api/chat", {"model": NAME, "messages": MESSAGES, "stream": False})
    assert (status, REPLY in answer.decode()) == (200, True)
    assert len(app.jobs.all()) == 1
    assert sum(request.body_bytes for request in fetched(hub)) < 1.5 * len(tiny_llama()["model.safetensors"])


async def test_many_callers_cost_one_pull(app: App, client: Client) -> None:
    body = {"model": NAME, "messages": MESSAGES, "stream": False}
    answers = await asyncio.gather(*(client.post("/api/chat", body) for _ in range(20)))
    assert [status for status, _ in answers] == [200] * 20
    assert len(app.jobs.all()) == 1


@pytest.mark.usefixtures("public_hub")
async def test_ollama_pulls_what_it_can_by_itself(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    hub.add("acme/tiny-gguf", {"tiny-Q4_K_M.gguf": tiny_gguf()})
    name = "hf.co/acme/tiny-gguf:Q4_K_M"
    ollama.native[name] = 1000
    status, answer = await client.post("/api/chat", {"model": name, "messages": MESSAGES, "stream": False})
    assert (status, REPLY in answer.decode()) == (200, True)
    [pull] = calls(ollama, "/api/pull")
    assert "insecure" not in orjson.loads(pull)
    del ollama.native[name]
    ollama.models.clear()
    status, answer = await client.post("/api/chat", {"model": name, "messages": MESSAGES, "stream": False})
    assert (status, orjson.loads(answer)) == (502, {"error": "pull model manifest: file does not exist"})
