"""GGUF repositories on a real Ollama: a real model, split GGUFs, and GGUFs that are quantized."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from proxy.app import App
from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.gguf.splitting import split
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client, digest_of

pytestmark = pytest.mark.timeout(300)

QUESTION = "What is the capital of France? Answer in one sentence."


async def chat(client: Client, name: str, question: str = QUESTION) -> str:
    """The greedy answer. It may be empty for a tiny model."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "options": {"temperature": 0, "seed": 1, "num_predict": 20, "num_ctx": 512},
        "keep_alive": "30s",
    }
    status, answer = await client.post("/api/chat", body)
    assert status == 200, answer
    return str(orjson.loads(answer)["message"]["content"])


async def level(client: Client, name: str) -> str:
    status, answer = await client.post("/api/show", {"model": name})
    assert status == 200, answer
    return str(orjson.loads(answer)["details"]["quantization_level"])


async def test_a_real_gguf_and_its_split_answer_the_same(
    real_client: Client, real_app: App, real_ollama: RealOllama, hub: StandInHub, smollm2_file: Path
) -> None:
    hub.add("acme/SmolLM2-GGUF", {smollm2_file.name: smollm2_file})
    name = "hf.co/acme/SmolLM2-GGUF"
    lines = await real_client.pull(name)
    assert lines[-1] == {"status": "success"}
    assert await level(real_client, name) == "Q4_1"
    answer = await chat(real_client, name)
    assert "Paris" in answer

    parts = split(smollm2_file, 3, prefix="Q4_1/SmolLM2-Q4_1")
    hub.add("acme/split", parts)
    split_name = "hf.co/acme/split:q4_1"
    status, output = await real_ollama.cli(real_app.address.url, "pull", split_name)
    assert status == 0, output
    assert "success" in output
    assert split_name in (await real_ollama.cli(real_app.address.url, "list"))[1]
    assert await chat(real_client, split_name) == answer
    assert await real_ollama.gguf_of(split_name) == smollm2_file.read_bytes()


def with_floats(content: bytes, kind: TensorType) -> bytes:
    """A GGUF of floats with all matrices in one type, and `general.file_type` as llama.cpp writes it."""
    header = read_header(content, size=len(content))
    infos, data = [], []
    for tensor in header.tensors:
        start = header.data_start + tensor.offset
        numbers = floats(content[start : start + tensor.size], TensorType(tensor.type))
        target = kind if len(tensor.shape) > 1 else TensorType.F32
        encoded = numbers.astype("<f2" if target is TensorType.F16 else "<f4").tobytes()
        infos.append(TensorInfo(tensor.name, tensor.shape, target))
        data.append(encoded + bytes(padding(len(encoded))))
    metadata: Mapping[str, Field] = header.metadata | {"general.file_type": Field.uint32(int(kind is TensorType.F16))}
    return write_header(metadata, lay_out(infos)) + b"".join(data)


def floats(content: bytes, kind: TensorType) -> "np.ndarray[Any, np.dtype[np.float32]]":
    if kind is TensorType.BF16:
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, {TensorType.F32: "<f4", TensorType.F16: "<f2"}[kind]).astype(np.float32)


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.F32])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("tag", ["q4_K_M", "Q8_0"])
async def test_a_gguf_of_floats_is_quantized_and_answers(
    real_client: Client, real_ollama: RealOllama, hub: StandInHub, kind: TensorType, shards: int, tag: str
) -> None:
    """Ollama itself refuses a GGUF in F32: its file type is 0, which Ollama reads as "no file type"."""
    hub.add("acme/tiny", tiny_llama())
    assert (await real_client.pull("hf.co/acme/tiny:f16"))[-1] == {"status": "success"}
    whole = with_floats(await real_ollama.gguf_of("hf.co/acme/tiny:f16"), kind)
    name = f"Tiny-{kind.name}"
    repository = f"acme/floats-{kind.name.lower()}-{shards}"
    hub.add(repository, {f"{name}.gguf": whole} if shards == 1 else split(whole, shards, prefix=name))
    lines = await real_client.pull(f"hf.co/{repository}:{tag}")
    assert lines[-1] == {"status": "success"}
    assert await level(real_client, f"hf.co/{repository}:{tag}") == tag.upper()
    await chat(real_client, f"hf.co/{repository}:{tag}")


@pytest.mark.parametrize("tag", ["F16", "BF16"])
async def test_a_gguf_of_f32_becomes_halves(
    real_client: Client, real_ollama: RealOllama, hub: StandInHub, tag: str
) -> None:
    hub.add("acme/tiny", tiny_llama())
    assert (await real_client.pull("hf.co/acme/tiny:f16"))[-1] == {"status": "success"}
    whole = with_floats(await real_ollama.gguf_of("hf.co/acme/tiny:f16"), TensorType.F32)
    hub.add("acme/floats32", {"Tiny-F32.gguf": whole})
    name = f"hf.co/acme/floats32:{tag}"
    assert (await real_client.pull(name))[-1] == {"status": "success"}
    assert await level(real_client, name) == tag
    converted = await real_ollama.gguf_of(name)
    assert len(converted) < 0.6 * len(whole)
    await chat(real_client, name)


async def test_an_invalid_gguf_is_refused_before_its_upload(
    real_client: Client, real_ollama: RealOllama, real_app: App, hub: StandInHub
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    hub.add("acme/pointer", {"m-Q4_K_M.gguf": pointer})
    status, output = await real_ollama.cli(real_app.address.url, "pull", "hf.co/acme/pointer:q4_K_M")
    assert status == 1
    assert "m-Q4_K_M.gguf is a Git LFS pointer, not the file itself" in output
    async with real_client.session.head(f"{real_ollama.url}/api/blobs/{digest_of(pointer)}") as response:
        assert response.status == 404
