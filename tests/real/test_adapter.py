"""LoRA adapters on a real Ollama: they answer like a model with the adapter merged into it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from proxy.app import App
from proxy.gguf.header import read_header
from proxy.gguf.tensors import TensorType
from proxy.planning import safetensors as headers
from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import HEADS, KV_HEADS, tiny_llama
from tests.kit import tiny_adapter as tiny
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client, settings
from tests.kit.tiny_adapter import tiny_adapter

pytestmark = pytest.mark.timeout(300)

PROMPTS = ("import the list", "a dog runs in", "hello world")
TOKENS = 24
GGUF_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}

Matrix = np.ndarray[Any, np.dtype[Any]]


def weights_of(content: bytes) -> dict[str, Matrix]:
    size = headers.header_size("test", content[:8], len(content))
    weights = {}
    for name, tensor in headers.read_header("test", content[:size], len(content)).tensors.items():
        data = content[tensor.start : tensor.stop]
        if tensor.dtype == "BF16":
            numbers = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            numbers = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[tensor.dtype]).astype(np.float32)
        weights[name] = numbers.reshape(tensor.shape)
    return weights


def changes_of(adapter: dict[str, bytes]) -> dict[str, Matrix]:
    """What PEFT adds to each weight, with GGUF names, and rows in the order of a converted Llama."""
    config = orjson.loads(adapter["adapter_config.json"])
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    halves = weights_of(adapter["adapter_model.safetensors"])
    changes = {}
    for name in halves:
        if name.endswith(".lora_A.weight"):
            _, _, _, _, layer, _, module, *_ = name.split(".")
            change = scale * (halves[name.replace("lora_A", "lora_B")].astype(np.float64) @ halves[name])
            heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(module)
            if heads:
                change = change.reshape(heads, 2, len(change) // heads // 2, -1).swapaxes(1, 2).reshape(change.shape)
            changes[f"blk.{layer}.{GGUF_NAMES[module]}.weight"] = change
    return changes


def merged(base: bytes, adapter: dict[str, bytes]) -> bytes:
    """A GGUF in F32 with the adapter merged into it."""
    header = read_header(base, size=len(base))
    content = bytearray(base)
    changes = changes_of(adapter)
    for tensor in header.tensors:
        if tensor.name in changes:
            change = changes.pop(tensor.name)
            assert tensor.type == TensorType.F32
            assert tensor.shape == change.shape[::-1]
            start = header.data_start + tensor.offset
            old = np.frombuffer(base, "<f4", change.size, start).reshape(change.shape)
            content[start : start + tensor.size] = (old + change).astype("<f4").tobytes()
    assert not changes
    return bytes(content)


async def answers(client: Client, name: str) -> list[str]:
    texts = []
    for prompt in PROMPTS:
        body = {
            "model": name,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "options": {"temperature": 0, "seed": 1, "num_predict": TOKENS, "num_ctx": 256},
        }
        status, answer = await client.post("/api/generate", body)
        assert status == 200, answer
        texts.append(str(orjson.loads(answer)["response"]))
    return texts


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"modules": tuple(tiny.SHAPES), "seed": 1},
        {"rank": 8, "seed": 2, "lora_alpha": 12.5},
        {"use_rslora": True, "seed": 3, "lora_alpha": 4},
    ],
    ids=["attention", "all", "alpha", "rslora"],
)
async def test_a_pulled_adapter_answers_like_the_merged_model(
    real_client: Client, real_ollama: RealOllama, hub: StandInHub, fields: dict[str, Any]
) -> None:
    """All in F32: with random weights, the most likely tokens are too close for a less precise type."""
    adapter = tiny_adapter("acme/lora-base", **fields)
    hub.add("acme/lora-base", tiny_llama(seed=11))
    hub.add("acme/lora", adapter)
    assert (await real_client.pull("hf.co/acme/lora:f32"))[-1] == {"status": "success"}
    whole = merged(await real_ollama.gguf_of("hf.co/acme/lora-base:f32"), adapter)
    hub.add("acme/lora-merged", {"Merged-F32.gguf": whole})
    assert (await real_client.pull("hf.co/acme/lora-merged:f32"))[-1] == {"status": "success"}
    changed = await answers(real_client, "hf.co/acme/lora:f32")
    assert changed == await answers(real_client, "hf.co/acme/lora-merged:f32")
    assert changed != await answers(real_client, "hf.co/acme/lora-base:f32")


async def test_the_command_line_with_a_quantized_base(
    real_ollama: RealOllama, real_app: App, real_client: Client, hub: StandInHub
) -> None:
    hub.add("acme/cli-base", tiny_llama(seed=12))
    hub.add("acme/cli-lora", tiny_adapter("acme/cli-base"))
    name, host = "hf.co/acme/cli-lora:q4_K_M", real_app.address.url
    status, output = await real_ollama.cli(host, "pull", name)
    assert status == 0, output
    _, listed = await real_ollama.cli(host, "list")
    # Ollama may use the tag in the case of another model's tag.
    assert name.casefold() in listed.casefold()
    assert "hf.co/acme/cli-base:q4_k_m" in listed.casefold()
    _, modelfile = await real_ollama.cli(host, "show", "--modelfile", name)
    assert any(line.startswith("ADAPTER ") for line in modelfile.splitlines())
    assert await answers(real_client, name) != await answers(real_client, "hf.co/acme/cli-base:q4_K_M")
    assert (await real_ollama.cli(host, "pull", name))[0] == 0
    assert (await real_ollama.cli(host, "rm", name))[0] == 0
    assert "hf.co/acme/cli-base:q4_k_m" in (await real_ollama.cli(host, "list"))[1].casefold()


async def test_an_adapter_from_a_folder(real_ollama: RealOllama, hub: StandInHub, session: Any, tmp_path: Path) -> None:
    for repository, files in (("tiny", tiny_llama(seed=13)), ("lora", tiny_adapter("acme/tiny"))):
        folder = tmp_path / "acme" / repository
        folder.mkdir(parents=True)
        for path, content in files.items():
            (folder / path).write_bytes(content)
    sources = {"home": {"type": "folder", "path": str(tmp_path)}}
    config = settings("http://127.0.0.1:9", real_ollama.url, sources=sources)
    async with App(config) as app:
        client = Client(app.address.url, session)
        for _ in range(2):
            assert (await client.pull("home/acme/lora:q8_0"))[-1] == {"status": "success"}
        assert await answers(client, "home/acme/lora:q8_0") != await answers(client, "home/acme/tiny:q8_0")
