"""Converted models on a real Ollama answer like transformers: equal tokens, and logprobs that differ within a limit."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from proxy.planning.capabilities import LLAMA_SERVER
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.real.make_logprobs import CANDIDATES, FIGURES, TOLERANCE, WITHOUT_LOGPROBS
from tests.real.measuring import FILES, Record, install, is_kept

pytestmark = pytest.mark.timeout(300)

OPTIONS = {"temperature": 0, "repeat_penalty": 1, "num_ctx": 256, "num_thread": 1}
LOGPROBS: Mapping[str, list[dict[str, Any]]] = json.loads(FIGURES.read_bytes())

_SPARSITY = "llama.cpp divides by n - 1 when it computes the standard deviation of a layer's gates, transformers by n"
_BETA_FAST = (
    "they are compared with beta_fast = 32, which llama.cpp always uses; with the model's 1, transformers differs by "
    "0.03 after 16 tokens, and by 0.31 after 256"
)
_EIGHT_BITS = "llama.cpp rounds the values multiplied with MXFP4 weights to 8 bits, transformers does not"
DEVIATIONS: Mapping[str, tuple[float, str]] = {
    "falcon_mamba": (
        TOLERANCE,
        "llama.cpp normalizes inside a mixer with the epsilon of the layers, not with mixer_rms_eps",
    ),
    "gemma3n": (TOLERANCE, _SPARSITY),
    "gemma3n_v5": (TOLERANCE, _SPARSITY),
    "kimi_k2": (TOLERANCE, _BETA_FAST),
    **dict.fromkeys(("deepseek4", "gpt_oss"), (0.1, _EIGHT_BITS)),
}
"""By repository: the limit, and why llama.cpp's logprobs differ by more than rounding."""
WINDOWS = ("gemma4", "gemma4_inputs", "gemma4_moe", "gpt_oss", "gpt_oss_v5")
WINDOWS_REASON = (
    "before 0.30, the window of Ollama's own engine is one token longer: only tokens within the window are compared"
)
"""For a window of n, Ollama's cache masks tokens more than n back, transformers those n or more back (0.24, causal.go).
"""


def comparable(ollama: RealOllama, name: str) -> list[dict[str, Any]]:
    """The figures that this Ollama should reproduce."""
    if name not in WINDOWS or ollama.version >= LLAMA_SERVER[:2]:
        return LOGPROBS[name]
    window = _config(name)["sliding_window"]
    return [
        {**one, "continuation": one["continuation"][: window - one["tokens"] + 1]}
        for one in LOGPROBS[name]
        if one["tokens"] <= window
    ]


def _config(name: str) -> dict[str, Any]:
    """The settings of the text model."""
    config: dict[str, Any] = json.loads(FILES[name]()["config.json"])
    return {**config, **config.get("text_config", {})}


async def answer(client: Client, model: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with as many tokens as can be compared. From 0.30 on, Ollama ends an answer at part of a character."""
    body = {
        "model": model,
        "prompt": expected["prompt"],
        "raw": True,
        "stream": False,
        "logprobs": True,
        "top_logprobs": CANDIDATES,
        "options": OPTIONS | {"num_predict": len(expected["continuation"])},
    }
    status, content = await client.post("/api/generate", body)
    assert status == 200, content
    answer: dict[str, Any] = orjson.loads(content)
    return answer


def delta(answered: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest difference between logprobs of the most likely first tokens, rank by rank."""
    likeliest: list[dict[str, Any]] = answered["logprobs"][0]["top_logprobs"]
    pairs = zip(likeliest, expected["first"], strict=True)
    return max(abs(float(token["logprob"]) - float(logprob)) for token, (_, logprob) in pairs)


@pytest.mark.parametrize("name", sorted(LOGPROBS))
async def test_tokens_and_logprobs_equal_those_of_transformers(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, record: Record, name: str
) -> None:
    quantization = "MXFP4_MOE" if is_kept(FILES[name]()) else "F32"
    model = await install(real_ollama, real_client, hub, record, name, quantization)
    figures = comparable(real_ollama, name)
    assert figures
    pairs = [(await answer(real_client, model, one), one) for one in figures]
    deltas = [delta(answered, expected) for answered, expected in pairs]
    record("delta", name, round(max(deltas), 5))
    for answered, expected in pairs:
        limit, _ = DEVIATIONS.get(name, (expected["tolerance"], ""))
        check_same(answered, expected, limit)


def check_same(answered: Mapping[str, Any], expected: Mapping[str, Any], limit: float) -> None:
    """Equal tokens, and logprobs that differ by less than the limit."""
    assert answered["prompt_eval_count"] == expected["tokens"]
    assert delta(answered, expected) < limit
    assert [step["token"] for step in answered["logprobs"]] == expected["continuation"]


def test_every_chat_model_has_figures() -> None:
    chat = {name for name, tiny in REPOSITORIES.items() if not tiny.pooling}
    assert chat == LOGPROBS.keys() | WITHOUT_LOGPROBS.keys()
