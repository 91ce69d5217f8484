"""The proxy's memory stays small, however large a repository is."""

import asyncio
import hashlib
import sys
from math import prod
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.support import Client, serving
from tests.kit.tiny_gguf import large_header

MIB = 1024**2
SIZE = 512 * MIB
"""Of a GGUF: more than three times the memory that its pull may need."""


pytestmark = pytest.mark.timeout(400)
"""So many bytes take minutes on a busy machine."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shards", [1, 8])
async def test_half_a_gibibyte_needs_less_than_150_mib(
    shards: int, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A GGUF in one file, or in shards."""
    files: dict[str, bytes | Path] = {}
    digests = {}
    for number in range(shards):
        path = tmp_path / f"model-F16-{number + 1:05}-of-{shards:05}.gguf"
        header = large_header(number, shards, SIZE // shards)
        size = len(header) + SIZE // shards
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)
        digests[path.name] = await asyncio.to_thread(sha256_of_zeros, header, size)
        files[path.name] = path
    hub.add("acme/large", files, digests=digests)
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint) as (process, url):
        before = peak(process.pid)
        lines = await Client(url, session).pull("hf.co/acme/large:f16")
        assert lines[-1] == {"status": "success"}
        assert sum(request.received for request in ollama.requests) > SIZE
        assert peak(process.pid) - before < 150 * MIB


VOCABULARY, HIDDEN, HEAD, KV_HEADS = 24_414, 8192, 128, 8
LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (256, HIDDEN),
    "mlp.up_proj": (256, HIDDEN),
    "mlp.down_proj": (HIDDEN, 256),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    **{f"model.layers.0.{name}.weight": shape for name, shape in LAYER.items()},
}
"""The tensors of a Llama with an embedding of 0.4 GB, and with Q and K heads that are permuted."""


@pytest.fixture(scope="module")
def large_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes | Path], dict[str, str]]:
    """The files, and the digest of the weights. Computing it for each test would take too long."""
    header, end = {}, 0
    for name, shape in SHAPES.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = orjson.dumps(header)
    beginning = len(text).to_bytes(8, "little") + text
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(len(beginning) + end)
    files = REPOSITORIES["llama"].files()
    config = orjson.loads(files["config.json"]) | {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": KV_HEADS,
        "tie_word_embeddings": True,
    }
    digest = sha256_of_zeros(beginning, len(beginning) + end)
    return {**files, "config.json": orjson.dumps(config), path.name: path}, {path.name: digest}


@pytest.fixture
def large_hub(hub: StandInHub, large_llama: tuple[dict[str, bytes | Path], dict[str, str]]) -> StandInHub:
    files, digests = large_llama
    hub.add("acme/large", files, digests=digests)
    return hub


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("tag", "ratio"), [("bf16", 1.0), ("q8_0", 17 / 32), ("q4_0", 9 / 32)])
async def test_a_conversion_needs_less_than_200_mib(
    tag: str, ratio: float, large_hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Although one tensor has 0.4 GB."""
    async with serving("--ollama", ollama.url, "--hub", large_hub.endpoint) as (process, url):
        lines = await Client(url, session).pull(f"hf.co/acme/large:{tag}")
        assert lines[-1] == {"status": "success"}
        assert sum(request.received for request in ollama.requests) > ratio * 2 * VOCABULARY * HIDDEN
        assert peak(process.pid) < 200 * MIB


def sha256_of_zeros(header: bytes, size: int) -> str:
    """The digest of a file of `size` bytes with only zeros after its header."""
    digest = hashlib.sha256(header)
    zeros = bytes(MIB)
    left = size - len(header)
    for _ in range(left // MIB):
        digest.update(zeros)
    digest.update(bytes(left % MIB))
    return digest.hexdigest()


def peak(pid: int) -> int:
    """The peak memory of a process in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
