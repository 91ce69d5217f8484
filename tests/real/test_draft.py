"""Layers for multi-token prediction on a real Ollama: it drafts tokens with them, and the answers stay the same."""

import re

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.gguf.families import FAMILIES
from proxy.planning.capabilities import Version, capabilities_of
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories.drafts import DRAFTS
from tests.kit.ollama_log import Lines
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client, settings

pytestmark = pytest.mark.timeout(300)

PROMPTS = ("a small language", "the quick brown fox jumps over the l")
"""A draft is confirmed in a batch, which llama.cpp rounds in another way: an answer may change where two tokens are
equally likely, to 0.0001 of their logprobs. Here they never are."""
GREEDY = {"temperature": 0, "num_predict": 24, "num_ctx": 256, "num_thread": 1}
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 9}
"""The form of the answers. Without it these models write bytes that are no UTF-8, which ends an answer."""
LEFT_OUT = "the layers for multi-token prediction (pull.draft) are left out"
STARTED = re.compile(r"--spec-type draft-mtp --spec-draft-n-max (\d+)")


async def pulled(
    hub: StandInHub, ollama: RealOllama, session: aiohttp.ClientSession, model: str, *, draft: bool
) -> tuple[Lines, dict[str, tuple[str, int]]]:
    """The lines of a pull, and the model's greedy answers with their numbers of tokens."""
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, pull={"draft": draft})
    async with App(config) as app:
        client = Client(app.address.url, session)
        lines = await client.pull(model)
        assert lines[-1] == {"status": "success"}, lines[-1]
        answers = {}
        for prompt in PROMPTS:
            body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "format": NUMBERS}
            status, content = await client.post("/api/generate", body | {"options": GREEDY})
            assert status == 200, content
            answer = orjson.loads(content)
            answers[prompt] = answer["response"], answer["eval_count"]
        return lines, answers


@pytest.mark.parametrize("name", DRAFTS)
async def test_ollama_drafts_tokens_and_answers_as_without(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession, name: str
) -> None:
    files = DRAFTS[name].files()
    capabilities = capabilities_of(real_ollama.version_text)
    architecture = FAMILIES[DRAFTS[name].architecture].architecture
    problem = capabilities.draft_problem(architecture)
    for organization in ("drafts", "plain"):
        hub.add(f"{organization}/{name}", files)
    before = real_ollama.log_size
    if not capabilities.runs(architecture) or ("qwen3_5" in name and not capabilities.runs_llama_server):
        pytest.skip("this Ollama does not run the family")
    lines, answers = await pulled(hub, real_ollama, session, f"hf.co/drafts/{name}:f32", draft=True)
    log = (real_ollama.home / "log").read_bytes()[before:].decode(errors="replace")
    started = set(STARTED.findall(log))
    if problem:
        assert not started
        assert any(LEFT_OUT in line["status"] for line in lines)
    else:
        assert started == {"4"}
        assert not any(LEFT_OUT in line["status"] for line in lines)
    _, expected = await pulled(hub, real_ollama, session, f"hf.co/plain/{name}:f32", draft=False)
    assert answers == expected
    assert {count for _, count in answers.values()} == {GREEDY["num_predict"]}


async def test_a_quantized_model_drafts_too(
    hub: StandInHub, real_ollama: RealOllama, session: aiohttp.ClientSession
) -> None:
    if capabilities_of(real_ollama.version_text).version < Version(0, 30, 0):
        pytest.skip("Ollama drafts no tokens before 0.30")
    hub.add("drafts/tiny", DRAFTS["qwen3_5_draft"].files())
    before = real_ollama.log_size
    _, answers = await pulled(hub, real_ollama, session, "hf.co/drafts/tiny:q4_K_M", draft=True)
    assert any(text for text, _ in answers.values())
    assert STARTED.search((real_ollama.home / "log").read_bytes()[before:].decode(errors="replace"))
