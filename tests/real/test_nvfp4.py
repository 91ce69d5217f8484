"""NVFP4 that stays: a real Ollama answers as with the same weights in F32, as far as its calculation lets it."""

import math

import orjson
import pytest

from proxy.planning.capabilities import NVFP4_SINCE
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories.packed_nvfp4 import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.real.test_conversion import shown_quantization
from tests.real.test_logprobs import OPTIONS

pytestmark = pytest.mark.timeout(300)

TEXT = "the quick brown fox jumps over the lazy dog and then the story begins with a small language model"
PROMPTS = tuple(TEXT[:end] for end in range(12, len(TEXT), 12))
LIKELIEST, CANDIDATES = 5, 20
LIMIT, LIMIT_OF_QWEN3_5 = 0.15, 0.5
"""Of the logprobs of the likeliest tokens. llama.cpp rounds what it multiplies with NVFP4 to 8 bits, as with Q8_0: both
differ from F32 by up to 0.13 here, and by 0.6 where Qwen3_5Moe chooses another expert. The same weights in Q4_K_M
differ by 0.1 to 1.1, those of Qwen3_5 by 0.7 to 6 (libllama b10488)."""


@pytest.fixture
def runs_nvfp4(real_ollama: RealOllama) -> bool:
    return real_ollama.version >= NVFP4_SINCE[:2]


@pytest.mark.parametrize("name", REPOSITORIES)
async def test_logprobs_are_near_those_of_f32(
    real_client: Client, hub: StandInHub, runs_nvfp4: bool, name: str
) -> None:
    if not runs_nvfp4:
        pytest.skip(f"NVFP4 needs Ollama {NVFP4_SINCE}")
    hub.add(f"acme/{name}", REPOSITORIES[name].files())
    found = []
    for tag in ("latest", "F32"):
        model = f"hf.co/acme/{name}:{tag}"
        lines = await real_client.pull(model)
        assert lines[-1] == {"status": "success"}, lines[-1]
        found.append([await first_logprobs(real_client, model, prompt) for prompt in PROMPTS])
    assert await shown_quantization(real_client, f"hf.co/acme/{name}:latest") == "NVFP4"
    limit = LIMIT_OF_QWEN3_5 if name.startswith("qwen3_5") else LIMIT
    pairs = [(kept, exact) for kept, exact in zip(*found, strict=True) if kept and exact]
    assert pairs
    for kept, exact in pairs:
        likeliest = sorted(exact, key=exact.__getitem__)[-LIKELIEST:]
        assert max(abs(kept.get(token, -math.inf) - exact[token]) for token in likeliest) < limit


async def first_logprobs(client: Client, model: str, prompt: str) -> dict[str, float]:
    """Of the candidates for the first token of an answer, by text; of two with the same text the likelier.

    Empty if the answer has no text: its first token ends it, or is part of a character.
    """
    options = OPTIONS | {"num_predict": 1}
    body = {"model": model, "prompt": prompt, "raw": True, "stream": False, "options": options}
    status, content = await client.post("/api/generate", body | {"logprobs": True, "top_logprobs": CANDIDATES})
    assert status == 200, content
    [*tokens] = orjson.loads(content).get("logprobs", ())
    candidates = tokens[0]["top_logprobs"] if tokens else ()
    return {one["token"]: float(one["logprob"]) for one in reversed(candidates)}


async def test_an_older_ollama_gets_the_default(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, runs_nvfp4: bool
) -> None:
    if runs_nvfp4:
        pytest.skip("this Ollama runs NVFP4")
    hub.add("acme/tiny", REPOSITORIES["llama_modelopt"].files())
    lines = await real_client.pull("hf.co/acme/tiny")
    assert lines[-1] == {"status": "success"}
    assert any(f"but Ollama {'.'.join(map(str, real_ollama.version))}" in line["status"] for line in lines)
    assert await shown_quantization(real_client, "hf.co/acme/tiny:latest") == "Q4_K_M"
