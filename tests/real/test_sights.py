"""Models that see or hear answer about pictures and sounds like transformers, on a real Ollama."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from proxy.planning.capabilities import LLAMA_SERVER
from proxy.standins.hub import StandInHub
from tests.gguf.projecting import TOWERED
from tests.kit.real_ollama import RealOllama, running
from tests.kit.support import Client
from tests.real.make_logprobs import CANDIDATES
from tests.real.make_sights import FIGURES, PROMPTS, encoded, media
from tests.real.measuring import Record, install
from tests.real.test_logprobs import OPTIONS, delta

pytestmark = pytest.mark.timeout(300)

SIGHTS: Mapping[str, Mapping[str, Any]] = json.loads(FIGURES.read_bytes())
ROUNDED = 0.05
"""The limit of the difference of logprobs: the projector's matrices are F16, as most users have them."""


@pytest.fixture(scope="module")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    """An Ollama without flash attention.

    On a CPU, llama.cpp (b10488) adds the values of flash attention up in F16: logprobs are off by 0.08 when a
    picture of Qwen2.5-VL has 4,096 patches, and by 0.001 without it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_FLASH_ATTENTION", "0")
        with running(tmp_path_factory.mktemp("ollama")) as ollama:
            yield ollama


async def _ask(client: Client, model: str, medium: bytes, expected: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": f"[img-0]{expected['prompt']}",
        "images": [b64encode(medium).decode()],
        "raw": True,
        "stream": False,
        "logprobs": True,
        "top_logprobs": CANDIDATES,
        "options": OPTIONS | {"num_predict": max(len(expected["continuation"]), 1), "num_ctx": 2048},
    }
    status, content = await client.post("/api/generate", body)
    assert status == 200, content
    answered: dict[str, Any] = orjson.loads(content)
    return answered


@pytest.mark.parametrize("name", sorted(SIGHTS))
async def test_what_is_seen_or_heard_equals_that_of_transformers(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, record: Record, name: str
) -> None:
    files = TOWERED[name].files()
    model = await install(real_ollama, real_client, hub, record, name, "F32")
    deltas = {}
    for which, medium in media(json.loads(files["config.json"])).items():
        expected = SIGHTS[name][which]
        answered = await _ask(real_client, model, encoded(medium), expected)
        deltas[which] = delta(answered, expected)
        assert answered["prompt_eval_count"] == expected["tokens"]
        if expected["continuation"]:
            assert [step["token"] for step in answered["logprobs"]] == expected["continuation"]
    record("sight", name, round(max(deltas.values()), 5))
    assert max(deltas.values()) < ROUNDED, deltas
    first = {which: json.dumps(one["first"]) for which, one in SIGHTS[name].items()}
    assert len(set(first.values())) == len(first)


async def test_show_says_that_it_sees(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, record: Record
) -> None:
    model = await install(real_ollama, real_client, hub, record, "gemma3_eyes", "Q4_K_M")
    status, shown = await real_ollama.cli(real_ollama.url, "show", model)
    assert status == 0, shown
    assert "vision" in shown
    assert real_ollama.version >= LLAMA_SERVER[:2] or "projector" in shown.lower()


UNPARSED = b"does not match the expected peg-native format"
"""llama-server's answer where a model of random weights says what no chat template allows."""


async def _chats(client: Client, model: str, question: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """The logprobs of the first token of an answer, for each picture or sound; fewer where one is not parsed."""
    answers = {}
    for which, medium in media(json.loads(files["config.json"])).items():
        message = {"role": "user", "content": question, "images": [b64encode(encoded(medium)).decode()]}
        body = {"model": model, "messages": [message], "stream": False, "logprobs": True, "top_logprobs": CANDIDATES}
        status, content = await client.post("/api/chat", {**body, "options": OPTIONS | {"num_predict": 1}})
        if status != 200 and UNPARSED in content:
            continue
        assert status == 200, content
        # An answer may end at once.
        for first in orjson.loads(content).get("logprobs", []):
            answers[which] = str([candidate["logprob"] for candidate in first["top_logprobs"]])
    return answers


@pytest.mark.parametrize("name", sorted(SIGHTS))
async def test_a_chat_depends_on_the_picture(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, record: Record, name: str
) -> None:
    """With the repository's own chat template, whoever renders it, and a quantized text."""
    files = TOWERED[name].files()
    model = await install(real_ollama, real_client, hub, record, name, "Q4_K_M")
    answers: dict[str, str] = {}
    for question in PROMPTS[0]:
        answers = await _chats(real_client, model, question, files)
        if len(answers) > 1:
            break
    assert len(answers) == len(set(answers.values())) > 1
