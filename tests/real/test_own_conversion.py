"""SmolLM2 as the proxy converts it and as Ollama does, of one repository: the same model comes of both."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import aiohttp
import orjson
import pytest
from gguf import GGUFReader

from proxy.app import App
from proxy.demo.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.real.test_lifecycle import said
from tests.real_ollama import RealOllama, measured
from tests.smollm2 import Smollm2
from tests.support import Client, digest_of, settings

pytestmark = pytest.mark.timeout(300)

# Nothing that is cut otherwise by the pre-tokenizer `default`, of which Ollama's own conversion is.
QUESTIONS = ("What is the capital of France? Answer in one sentence.", "Which planet do we live on?")
SPOILT = {"token_embd.weight": ("BF16", "Q8_0")}
"""What v0.24 makes otherwise where it casts to BF16: an output matrix, which this embedding is too."""

MOST_SILENT = 5
"""Seconds."""

Tensors = dict[str, tuple[str, tuple[int, ...], str]]


@dataclass(frozen=True)
class Made:
    """A model that is gone again: how it came, and what it was."""

    shown: str
    creates: int
    orphans: set[str]
    tensors: Tensors
    answers: list[tuple[str, int]]


@pytest.fixture(scope="module")
def repositories(real_ollama: RealOllama, smollm2: Smollm2) -> Mapping[str, dict[str, bytes]]:
    """By the type of the weights."""
    chat = {"tokenizer_config.json": smollm2.tokenizer_config(chat_template=smollm2.jinja)}
    return {dtype: smollm2.files(dtype) | chat for dtype in ("BF16", "F16")}


def tensors_of(gguf: Path) -> Tensors:
    """Type, shape and digest of each."""
    return {
        tensor.name: (tensor.tensor_type.name, tuple(map(int, tensor.shape)), digest_of(tensor.data.tobytes()))
        for tensor in GGUFReader(gguf).tensors
    }


async def answered(client: Client, name: str, question: str) -> tuple[str, int]:
    """An answer, always the same, and the number of tokens that the prompt was."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "keep_alive": 0 if question == QUESTIONS[-1] else "1m",
        # Several threads wait for each other by spinning, which takes minutes where others use the machine.
        "options": {"temperature": 0, "seed": 1, "num_predict": 10, "num_ctx": 256, "num_thread": 1},
    }
    status, content = await client.post("/api/chat", body)
    assert status == 200, content
    answer = orjson.loads(content)
    return str(answer["message"]["content"]), int(answer["prompt_eval_count"])


async def made(ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession, name: str, converter: str) -> Made:
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, pull={"converter": converter})
    async with App(config) as app:
        before, position = set(ollama.orphans), ollama.log_size
        status, shown = await ollama.cli(app.address.url, "pull", name)
        assert status == 0, shown
        creates = sum(path == "/api/create" for _, path in ollama.asked_since(position))
        orphans = set(ollama.orphans) - before
        client = Client(app.address.url, session)
        answers = [await answered(client, name, question) for question in QUESTIONS]
        tensors = tensors_of(await ollama.gguf_file(name))
        assert (await ollama.cli(app.address.url, "rm", name))[0] == 0
    return Made(shown, creates, orphans, tensors, answers)


@pytest.mark.parametrize(
    ("dtype", "tag"),
    [("BF16", "bf16"), ("BF16", "q8_0"), ("BF16", "q4_K_M"), ("F16", "f16"), ("F16", "bf16")],
)
async def test_the_proxys_conversion_is_ollamas_tensor_by_tensor_and_answers_the_same(
    real_ollama: RealOllama,
    hub: StandInHub,
    session: aiohttp.ClientSession,
    repositories: Mapping[str, dict[str, bytes]],
    dtype: str,
    tag: str,
) -> None:
    """And comes without a create where nothing has to be quantized by Ollama, and with nothing left behind."""
    real_ollama.needs_converter()
    hub.add("acme/own-SmolLM2", repositories[dtype])
    name = f"hf.co/acme/own-SmolLM2:{tag}"
    ours = await made(real_ollama, hub, session, name, "proxy")
    theirs = await made(real_ollama, hub, session, name, "ollama")
    assert ours.tensors.keys() == theirs.tensors.keys()
    different = {
        tensor: (ours.tensors[tensor][0], theirs.tensors[tensor][0])
        for tensor in ours.tensors
        if ours.tensors[tensor] != theirs.tensors[tensor]
    }
    spoils = (dtype, tag) == ("F16", "bf16") and real_ollama.version < (0, 30)
    assert different == (SPOILT if spoils else {})
    assert "Paris" in ours.answers[0][0]
    if not spoils:
        assert ours.answers == theirs.answers
    assert ours.creates == 0
    assert "converting model" not in ours.shown
    assert "converting model" in theirs.shown
    assert ours.orphans == set()


async def lines_of(client: Client, name: str) -> list[tuple[float, str]]:
    """The lines of a pull as they come: when, and what; the first is its beginning."""
    lines = [(time.monotonic(), "asked")]
    async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
        async for line in response.content:
            said = orjson.loads(line)
            lines.append((time.monotonic(), said.get("error") or said["status"]))
    return lines


async def test_the_store_never_holds_more_than_the_result_and_no_silence_is_long(
    real_ollama: RealOllama,
    hub: StandInHub,
    session: aiohttp.ClientSession,
    repositories: Mapping[str, dict[str, bytes]],
) -> None:
    """The store grows by the finished model and what lies beside it."""
    hub.add("acme/peak-SmolLM2", repositories["BF16"])
    name = "hf.co/acme/peak-SmolLM2:q4_K_M"
    before = set(real_ollama.orphans)
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        with measured(real_ollama.home / "models" / "blobs") as sizes:
            lines = await lines_of(Client(app.address.url, session), name)
        assert lines[-1][1] == "success"
        result = (await real_ollama.gguf_file(name)).stat().st_size
        assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0
    peak = max(sizes) - sizes[0]
    silence, where = max(
        (later - earlier, f"{one!r} and {other!r}") for (earlier, one), (later, other) in pairwise(lines)
    )
    print(f"the store takes {peak / result:.2f} times the result; nothing is said for {silence:.1f} s between {where}")
    assert result <= peak < result + 100_000
    assert silence <= MOST_SILENT
    assert set(real_ollama.orphans) <= before


@pytest.mark.parametrize("tag", ["bf16", "q4_K_M"])
async def test_a_model_that_cannot_be_loaded_replaces_nothing_where_the_user_wants_that(
    real_ollama: RealOllama,
    hub: StandInHub,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
) -> None:
    """Here since its config.json is another model's, and the converter does not look."""
    monkeypatch.setattr("proxy.gguf.conversion.check_loadable", lambda *_: None)
    files, name = REPOSITORIES["llama"].files(), f"hf.co/acme/verified:{tag}"
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True}, pull={"verify": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        repository = hub.add("acme/verified", files)
        status, shown = await real_ollama.cli(app.address.url, "pull", name)
        assert status == 0, shown
        assert "verifying conversion" in shown
        first = await real_ollama.gguf_file(name), await said(client, name)

        wrong = orjson.loads(files["config.json"])
        wrong["intermediate_size"] *= 2
        repository.update({"config.json": orjson.dumps(wrong)})
        status, shown = await real_ollama.cli(app.address.url, "pull", name)
        assert status == 1, shown
        assert f"{name} is made, but Ollama cannot load it" in shown
        assert "nothing was replaced" in shown
        assert "writing manifest" not in shown
        assert (await real_ollama.gguf_file(name), await said(client, name)) == first
