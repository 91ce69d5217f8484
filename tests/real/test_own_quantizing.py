"""The proxy's own Q8_0 and casts against what a real Ollama quantizes of the proxy's unquantized GGUF, bit by bit."""

import io
from collections.abc import Mapping
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from proxy.gguf.conversion import FILE_TYPES
from proxy.gguf.header import Field, Header, read_header, write_header
from proxy.gguf.tensors import TensorType
from proxy.planning.safetensors import header_size
from proxy.planning.safetensors import read_header as read_safetensors
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan, write
from tests.real_ollama import RealOllama
from tests.support import digest_of

pytestmark = pytest.mark.timeout(300)

SOURCES = {
    "llama": "BF16",
    "llama_f32": "F32",
    "llama-bias": "F16",
    "qwen3": "BF16",  # tied, with norms of heads
    "mixtral": "BF16",  # stacked
    "qwen2moe": "BF16",  # with gates that stay F32
    "deepseek3": "BF16",  # with transposed heads
    "gptneox": "BF16",  # with fused Q, K and V
}

LATENT = ("attn_k_b.", "attn_v_b.", "attn_kv_a_mqa.", "attn_q_a.", "attn_q_b.")


def with_all_sizes(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """With every BF16 up to the largest that F16 has too: in one matrix like beside like, in another mixed."""
    path = "model.safetensors"
    content = files[path]
    tensors = read_safetensors(path, content[: header_size(path, content[:8], len(content))], len(content)).tensors
    sizes = np.arange(0x4780, dtype="<u2")
    every = np.concatenate([sizes, sizes | 0x8000])
    for name, order in (
        ("model.layers.0.mlp.up_proj.weight", np.argsort(every & 0x7FFF, kind="stable")),
        ("model.layers.0.mlp.down_proj.weight", np.random.default_rng(0).permutation(len(every))),
    ):
        tensor = tensors[name]
        assert tensor.dtype == "BF16"
        numbers = np.resize(every[order], tensor.elements)
        content = content[: tensor.start] + numbers.tobytes() + content[tensor.stop :]
    return {**files, path: content}


def of_another_type(content: bytes, kind: str) -> bytes:
    """What Ollama leaves as it is says that it is of the wanted type already, or of F32."""
    header = read_header(content, size=len(content))
    says = Field.uint32(FILE_TYPES["BF16" if kind == "F16" else "F16"])
    return write_header({**header.metadata, "general.file_type": says}, header.tensors) + content[header.data_start :]


async def quantized_by_ollama(
    ollama: RealOllama, session: aiohttp.ClientSession, name: str, content: bytes, kind: str
) -> bytes:
    digest = digest_of(content)
    if digest not in ollama.blobs:
        async with session.post(f"{ollama.url}/api/blobs/{digest}", data=io.BytesIO(content)) as response:
            assert response.status == 201
    body = {"model": name, "files": {"model.gguf": digest}, "quantize": kind, "stream": False}
    async with session.post(f"{ollama.url}/api/create", data=orjson.dumps(body)) as response:
        assert response.status == 200, await response.text()
    return await ollama.gguf_of(name)


def tensors_of(content: bytes) -> tuple[Header, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    header = read_header(content, size=len(content))
    found = {}
    for tensor in header.tensors:
        start = header.data_start + tensor.offset
        shape = tuple(size for size in tensor.shape if size > 1)  # llama.cpp writes none of 1 at the end
        found[tensor.name] = (TensorType(tensor.type).name, shape, content[start : start + tensor.size])
    return header, found


def spoilt(tensors: Mapping[str, Any]) -> dict[str, str]:
    """What Ollama before v0.30 makes of a float type (server/quantization.go, getTensorNewType), by name."""
    output = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    return {output: "Q6_K", **{name: "Q8_0" for name in tensors if any(part in name for part in LATENT)}}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, source in SOURCES.items() for kind in FILE_TYPES if kind != source]
)
async def test_the_same_comes_of_it_as_of_ollamas_quantizer(
    real_ollama: RealOllama, session: aiohttp.ClientSession, name: str, kind: str
) -> None:
    files = REPOSITORIES[name].files()
    if name == "llama":
        files = with_all_sizes(files)
    source = of_another_type(write(plan(files), files), kind)
    ours, made = tensors_of(write(plan(files, matrices=kind), files))
    theirs, wanted = tensors_of(await quantized_by_ollama(real_ollama, session, f"{name}-{kind}".lower(), source, kind))
    exceptions = spoilt(made) if kind != "Q8_0" and real_ollama.version < (0, 30) else {}
    assert made.keys() == wanted.keys()
    for tensor, (its_type, _, _) in wanted.items():
        if tensor in exceptions:
            assert its_type == exceptions[tensor], tensor
            assert made[tensor][0] == kind
        else:
            assert made[tensor][:2] == wanted[tensor][:2], tensor
            assert made[tensor][2] == wanted[tensor][2], tensor
    for key in ("general.file_type", "general.quantization_version"):
        assert ours.metadata[key].value == theirs.metadata[key].value
