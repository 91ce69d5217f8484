"""Client libraries through the proxy to a real Ollama: Ollama's for Python and JavaScript, and OpenAI's."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import orjson
import pytest

from proxy import on_demand
from proxy.app import App
from proxy.standins.hub import Fault, StandInHub
from tests.kit.conversions import weights_of
from tests.kit.real_ollama import RealOllama
from tests.kit.support import eventually, fetched, settings
from tests.kit.tiny_models import tiny_bert, tiny_parrot

pytestmark = pytest.mark.timeout(300)

SLOW = 400_000
MESSAGES = [{"role": "user", "content": "hello"}]
REPLY = "hihihihi"
FEW = {"num_predict": 4, "num_ctx": 256, "temperature": 0, "seed": 1}
JAVASCRIPT = "OLLAMA_JS"
"""Environment variable with a folder that has `ollama` in its node_modules."""
PREAMBLE = """
import {Ollama} from 'ollama';
const [, host, name] = process.argv;
const ollama = new Ollama({host});
const say = (what) => console.log(JSON.stringify(what));
"""


@pytest.fixture
async def pulling_app(hub: StandInHub, real_ollama: RealOllama) -> AsyncIterator[App]:
    """A proxy that pulls a missing model when a call needs it."""
    ours = {"on_demand": True}
    async with App(settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True}, pull=ours)) as app:
        yield app


@pytest.fixture
async def python(pulling_app: App) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(pulling_app.address.url)
    yield client
    await client._client.aclose()


@pytest.fixture
async def openai(pulling_app: App) -> AsyncIterator[Any]:
    package = pytest.importorskip("openai", reason="OpenAI's client is not here: pip install openai")
    async with package.AsyncOpenAI(base_url=f"{pulling_app.address.url}/v1", api_key="any") as client:
        yield client


async def names(client: ollama.AsyncClient) -> set[str]:
    return {str(model.model).casefold() for model in (await client.list()).models}


# ---- Python


def assert_pulled(parts: list[ollama.ProgressResponse], files: dict[str, bytes]) -> None:
    """One bar for each weight file, which never shrinks, then success."""
    assert (parts[0].status, parts[-1].status) == ("pulling manifest", "success")
    totals: dict[str, int] = {}
    completed: dict[str, int] = {}
    for part in parts:
        if part.digest:
            assert totals.setdefault(part.digest, part.total or 0) == part.total
            assert (part.completed or 0) >= completed.get(part.digest, 0)
            completed[part.digest] = part.completed or 0
    assert completed == totals
    assert totals.keys() == weights_of(files).keys()


async def test_python_pulls_and_asks(python: ollama.AsyncClient, hub: StandInHub) -> None:
    files, name = tiny_parrot(seed=11, shards=2), "hf.co/acme/python:q8_0"
    hub.add("acme/python", files)
    hub.line = 4 * SLOW
    assert_pulled([part async for part in await python.pull(name, stream=True)], files)
    assert (await python.pull(name)).status == "success"
    assert name in await names(python)
    shown = await python.show(name)
    assert shown.details is not None
    assert shown.details.quantization_level == "Q8_0"
    reply = await python.chat(name, MESSAGES, options=FEW)
    assert reply.message.content == REPLY
    parts = [part async for part in await python.generate(name, "hello", stream=True, options=FEW)]
    assert "".join(part.response or "" for part in parts) == REPLY
    assert (await python.delete(name)).status == "success"
    assert name not in await names(python)


async def test_pythons_synchronous_client_pulls(pulling_app: App, hub: StandInHub) -> None:
    files = tiny_parrot(seed=12, shards=2)
    hub.add("acme/sync", files)

    def pull() -> list[ollama.ProgressResponse]:
        client = ollama.Client(pulling_app.address.url)
        with client._client:
            return list(client.pull("hf.co/acme/sync:f16", stream=True))

    assert_pulled(await asyncio.to_thread(pull), files)


async def test_python_gets_the_reason_of_a_refusal(python: ollama.AsyncClient, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_parrot())
    name = "hf.co/acme/tiny:iq2_xs"
    with pytest.raises(ollama.ResponseError, match="importance matrix") as refusal:
        [part async for part in await python.pull(name, stream=True)]
    with pytest.raises(ollama.ResponseError) as at_once:
        await python.pull(name)
    assert at_once.value.error == refusal.value.error
    assert at_once.value.status_code == 500


async def test_python_embeds_with_a_missing_model(python: ollama.AsyncClient, hub: StandInHub) -> None:
    hub.add("acme/python-bert", tiny_bert())
    embedded = await python.embed("hf.co/acme/python-bert:f16", ["the cat sits", "a dog runs"])
    assert [len(vector) for vector in embedded.embeddings] == [256, 256]
    assert "hf.co/acme/python-bert:f16" in await names(python)


async def test_python_chats_with_a_missing_model(python: ollama.AsyncClient, hub: StandInHub) -> None:
    hub.add("acme/python-asks", tiny_parrot(seed=13))
    name = "hf.co/acme/python-asks:q4_K_M"
    with pytest.raises(ollama.ResponseError, match="not found"):
        await python.generate(name, keep_alive=0)
    parts = [part async for part in await python.chat(name, MESSAGES, stream=True, options=FEW)]
    assert "".join(part.message.content or "" for part in parts) == REPLY
    assert name.casefold() in await names(python)
    with pytest.raises(ollama.ResponseError, match="there is no repository acme/none") as refusal:
        await python.chat("hf.co/acme/none:q8_0", MESSAGES)
    assert refusal.value.status_code == 404


async def test_create_from_a_model_of_the_hub(
    real_ollama: RealOllama, pulling_app: App, hub: StandInHub, python: ollama.AsyncClient, tmp_path: Path
) -> None:
    hub.add("acme/from", tiny_parrot(seed=14))
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM hf.co/acme/from:q8_0\nSYSTEM Be terse.\n")
    status, output = await real_ollama.cli(pulling_app.address.url, "create", "terse", "-f", str(modelfile))
    assert status == 0, output
    assert {"terse:latest", "hf.co/acme/from:q8_0"} <= await names(python)
    assert "SYSTEM Be terse." in str((await python.show("terse")).modelfile)
    assert (await python.create("mine", from_="hf.co/acme/from:f16", system="Be long.")).status == "success"
    assert {"mine:latest", "hf.co/acme/from:f16"} <= await names(python)
    modelfile.write_text("FROM hf.co/acme/none:q8_0\n")
    status, output = await real_ollama.cli(pulling_app.address.url, "create", "none", "-f", str(modelfile))
    assert status == 1
    assert "there is no repository acme/none" in output


# ---- JavaScript


async def run_javascript(script: str, app: App, name: str) -> list[Any]:
    """Runs a script; returns what it passes to `say`."""
    folder, node = os.environ.get(JAVASCRIPT), shutil.which("node")
    if folder is None or node is None:
        pytest.skip(f"no JavaScript client: install node, `npm install --prefix FOLDER ollama`, {JAVASCRIPT}=FOLDER")
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "--eval", PREAMBLE + script, "--", app.address.url, name),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]


async def test_javascript_pulls_and_asks(pulling_app: App, hub: StandInHub) -> None:
    files = tiny_parrot(seed=15, shards=2)
    hub.add("acme/javascript", files)
    hub.line = 4 * SLOW
    script = f"""
        for await (const part of await ollama.pull({{model: name, stream: true}})) say(part);
        const options = {json.dumps(FEW)};
        say(await ollama.chat({{model: name, messages: {json.dumps(MESSAGES)}, options}}));
        say((await ollama.list()).models.map((model) => model.name));
        say(await ollama.delete({{model: name}}));
    """
    name = "hf.co/acme/javascript:q8_0"
    *parts, reply, models, deleted = await run_javascript(script, pulling_app, name)
    assert_pulled([ollama.ProgressResponse(**part) for part in parts], files)
    assert reply["message"]["content"] == REPLY
    assert name in models
    assert deleted == {"status": "success"}


async def test_javascript_aborts_and_resumes_a_pull(pulling_app: App, hub: StandInHub) -> None:
    files, name = tiny_parrot(seed=16), "hf.co/acme/aborted:q8_0"
    hub.add("acme/aborted", files)
    hub.line = SLOW
    script = """
        const parts = await ollama.pull({model: name, stream: true});
        try {
            for await (const part of parts) {
                if (part.completed > 0) {
                    say(part);
                    parts.abort();
                }
            }
        } catch (error) {
            say(error.name);
        }
    """
    aborted, error = await run_javascript(script, pulling_app, name)
    assert 0 < aborted["completed"] < aborted["total"]
    assert error == "AbortError"
    [job] = pulling_app.jobs.all()
    await eventually(lambda: job.clients == 0)
    hub.line = None
    parts = await run_javascript(script.replace("parts.abort();", ""), pulling_app, name)
    assert parts[0]["completed"] >= aborted["completed"]
    assert parts[-1]["completed"] == parts[-1]["total"]
    assert sum(request.body_bytes for request in fetched(hub)) < 1.2 * len(files["model.safetensors"])


async def test_javascript_gets_the_reason_of_a_refusal(pulling_app: App, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_parrot())
    script = """
        for (const stream of [true, false]) {
            try {
                for await (const part of await ollama.pull({model: name, stream}));
            } catch (error) {
                say(error.message);
            }
        }
        try {
            await ollama.chat({model: 'hf.co/acme/none:q8_0', messages: []});
        } catch (error) {
            say([error.message, error.status_code]);
        }
    """
    streamed, at_once, (chat_error, status) = await run_javascript(script, pulling_app, "hf.co/acme/tiny:q5_k_m")
    assert "cannot quantize to 'q5_k_m'" in streamed
    assert at_once == streamed
    assert "there is no repository acme/none" in chat_error
    assert status == 404


# ---- OpenAI


@pytest.mark.parametrize("missing", [True, False])
async def test_openai_gets_answers_from_missing_models_too(
    openai: Any, python: ollama.AsyncClient, hub: StandInHub, *, missing: bool
) -> None:
    hub.add("acme/openai", tiny_parrot(seed=17))
    hub.add("acme/openai-bert", tiny_bert())
    name, bert = "hf.co/acme/openai:q8_0", "hf.co/acme/openai-bert:f16"
    for model in (name, bert):
        if not missing:
            await python.pull(model)
    reply = await openai.chat.completions.create(model=name, messages=MESSAGES, max_tokens=4, temperature=0, seed=1)
    assert reply.choices[0].message.content == REPLY
    stream = await openai.chat.completions.create(
        model=name, messages=MESSAGES, max_tokens=4, temperature=0, seed=1, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == REPLY
    assert chunks[-1].choices[0].finish_reason == "length"
    continued = await openai.completions.create(model=name, prompt="hello", max_tokens=4, temperature=0, seed=1)
    assert continued.choices[0].text == REPLY
    embedded = await openai.embeddings.create(model=bert, input=["the cat sits", "a dog runs"])
    assert [len(one.embedding) for one in embedded.data] == [256, 256]
    assert {name, bert} <= {model.id.casefold() async for model in openai.models.list()}
    for model in (name, bert):
        await python.delete(model)


async def test_openais_stream_has_comments_during_the_pull(
    openai: Any,
    pulling_app: App,
    session: aiohttp.ClientSession,
    hub: StandInHub,
    python: ollama.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(on_demand, "KEEP_ALIVE_SECONDS", 0.01)
    hub.add("acme/awaited", tiny_parrot(seed=18))
    hub.line = SLOW
    name = "hf.co/acme/awaited:q8_0"
    body = {"model": name, "messages": MESSAGES, "stream": True, "max_tokens": 4, "temperature": 0, "seed": 1}
    answering = asyncio.create_task(openai.chat.completions.create(**body))
    async with session.post(f"{pulling_app.address.url}/v1/chat/completions", json=body) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.content.readline() == b": the model is being pulled\n"
        assert name not in await names(python)
        hub.line = None
        lines = [line.strip() for line in (await response.read()).splitlines() if line.strip()]
    events = [line for line in lines if not line.startswith(b": the model is being pulled")]
    assert lines.index(events[0]) == len(lines) - len(events) > 0
    assert all(event.startswith(b"data: ") for event in events)
    assert events[-1] == b"data: [DONE]"
    choices = [orjson.loads(event[6:])["choices"][0] for event in events[:-1]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == REPLY
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in await answering]) == REPLY
    await python.delete(name)


async def test_ollamas_stream_has_empty_answers_during_the_pull(
    pulling_app: App, hub: StandInHub, python: ollama.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them, the JavaScript client would give up after five minutes of silence."""
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(on_demand, "KEEP_ALIVE_SECONDS", 0.01)
    hub.add("acme/expected", tiny_parrot(seed=20))
    hub.line = SLOW
    name = "hf.co/acme/expected:q8_0"
    parts = []
    async for part in await python.chat(name, MESSAGES, stream=True, options=FEW):
        hub.line = None
        parts.append(part)
    assert [parts[0].done, parts[0].message.content] == [False, ""]
    assert parts[-1].done
    assert "".join(part.message.content or "" for part in parts) == REPLY
    await python.delete(name)


@pytest.mark.parametrize("stream", [True, False])
async def test_openai_gets_the_reason_of_a_refusal(openai: Any, hub: StandInHub, *, stream: bool) -> None:
    errors = pytest.importorskip("openai")
    hub.add("acme/tiny", tiny_parrot())
    for name, text in (
        ("hf.co/acme/none:q8_0", "there is no repository acme/none"),
        ("hf.co/acme/tiny:q5_k_m", "cannot quantize to 'q5_k_m'"),
    ):
        with pytest.raises(errors.APIStatusError, match=text) as refusal:
            await openai.chat.completions.create(model=name, messages=MESSAGES, stream=stream)
        assert refusal.value.status_code == 404
        assert text in refusal.value.body["message"]


async def test_openai_gets_a_later_failure_in_its_stream(
    openai: Any, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "QUIET_SECONDS", 0.01)
    errors = pytest.importorskip("openai")
    hub.add("acme/broken", tiny_parrot(seed=19))
    hub.faults.append(Fault("model.safetensors", "corrupt", after=200_000, times=-1))
    stream = await openai.chat.completions.create(model="hf.co/acme/broken:q8_0", messages=MESSAGES, stream=True)
    with pytest.raises(errors.APIError, match="arrived damaged"):
        [chunk async for chunk in stream]
