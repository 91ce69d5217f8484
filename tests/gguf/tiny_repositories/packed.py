"""Tiny repositories whose matrices are stored quantized, in the forms that DeepSeek, vLLM and NVIDIA publish."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np

from tests.gguf.tiny_repositories import deepseek4, dense, llama, qwen
from tests.gguf.tiny_repositories.repository import Tiny
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.kit.dtypes import to_bytes
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

WEIGHTS = "model.safetensors"
DEVIATION = 0.05
"""Of the weights, about."""


@dataclass(frozen=True)
class Packed:
    """A repository in which `pack` replaces each matrix that a layer multiplies with."""

    tiny: Tiny
    pack: Callable[["Codes", str, tuple[int, ...]], Iterator[tuple[str, StoredTensor]]]
    quantization_config: Mapping[str, Any]
    added: Mapping[str, StoredTensor] = field(default_factory=dict)
    """More tensors, by the end of the name of each packed matrix's layer."""
    ends: tuple[str, ...] = ("_proj.weight",)
    """Of the names of the matrices."""

    def files(self) -> dict[str, bytes]:
        files = self.tiny.files()
        config = json.loads(files["config.json"]) | {"quantization_config": self.quantization_config}
        codes = Codes()
        tensors: dict[str, StoredTensor] = {}
        for name, tensor in unpack_safetensors(files[WEIGHTS]).items():
            if name.endswith(self.ends) and len(tensor.shape) > 1:
                tensors |= dict(self.pack(codes, name, tuple(tensor.shape)))
                stem = name.removesuffix(".weight")
                tensors |= {stem + end: stored for end, stored in self.added.items()}
            else:
                tensors[name] = tensor
        # The package safetensors writes tensors of one type in the order of their names.
        return files | {"config.json": dump(config), WEIGHTS: pack_safetensors(dict(sorted(tensors.items())))}


class Codes:
    """Random bytes: which number each is, matters to the reader only."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(11)

    def numbers(self, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
        """FP8 from about -30 to 30, or any INT8."""
        content = self.random.integers(0, 256, shape, np.uint8)
        # Without the largest exponents there is neither a NaN nor an infinity.
        return StoredTensor(dtype, shape, (content & (0xFF if dtype == "I8" else 0xCF)).tobytes())

    def scales(self, dtype: str, shape: tuple[int, ...], deviation: float) -> StoredTensor:
        """For weights of DEVIATION, from numbers of `deviation`."""
        numbers = self.random.uniform(0.5, 1.5, prod(shape)).astype(np.float32) * np.float32(DEVIATION / deviation)
        return StoredTensor(dtype, shape, to_bytes(dtype, numbers))


FP8_DEVIATION, INT8_DEVIATION = 0.7, 74.0
BLOCK = (96, 80)
"""Other than DeepSeek's 128 by 128: no matrix here is a multiple of it."""


def by_block(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    yield name, codes.numbers("F8_E4M3", shape)
    counts = (ceil(shape[0] / BLOCK[0]), ceil(shape[1] / BLOCK[1]))
    yield f"{name}_scale_inv", codes.scales("F32", counts, FP8_DEVIATION)


def by_powers_of_two(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    """As DeepSeek V4's authors do."""
    yield name, codes.numbers("F8_E4M3", shape)
    counts = (ceil(shape[0] / 128), ceil(shape[1] / 128))
    scales = codes.random.integers(122, 125, counts, np.uint8)
    yield f"{name.removesuffix('weight')}scale", StoredTensor("F8_E8M0", counts, scales.tobytes())


def by_row(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    yield name, codes.numbers("F8_E4M3", shape)
    yield f"{name}_scale", codes.scales("BF16", (shape[0], 1), FP8_DEVIATION)


def by_tensor(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    yield name, codes.numbers("F8_E4M3", shape)
    yield f"{name}_scale", codes.scales("F32", (), FP8_DEVIATION)


def e5m2(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    numbers = codes.numbers("F8_E5M2", shape)
    yield name, numbers._replace(data=(np.frombuffer(numbers.data, np.uint8) & 0xBF).tobytes())
    yield f"{name}_scale_inv", codes.scales("F32", (), FP8_DEVIATION)


def int8(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    yield name, codes.numbers("I8", shape)
    yield f"{name}_scale", codes.scales("F32", (shape[0], 1), INT8_DEVIATION)


def compressed(form: str, kind: str) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": kind, "strategy": "channel", "symmetric": True, "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


ONE = StoredTensor("F32", (), struct.pack("<f", 1.5))
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": list(BLOCK)}

REPOSITORIES: dict[str, Packed] = {
    "llama_fp8_blocks": Packed(llama.REPOSITORIES["llama"], by_block, BLOCKS),
    "qwen3moe_fp8_blocks": Packed(qwen.REPOSITORIES["qwen3moe"], by_block, BLOCKS),
    "phi3_fp8_blocks": Packed(dense.REPOSITORIES["phi3"], by_block, BLOCKS),
    "deepseek4_fp8": Packed(
        deepseek4.REPOSITORIES["deepseek4"],
        by_powers_of_two,
        deepseek4.FP8,
        ends=(
            *(".wq_a.weight", ".wq_b.weight", "attn.wkv.weight", ".wo_a.weight", ".wo_b.weight"),
            *(f"shared_experts.w{part}.weight" for part in (1, 2, 3)),
        ),
    ),
    "qwen2_fp8_rows": Packed(qwen.REPOSITORIES["qwen2"], by_row, compressed("float-quantized", "float")),
    "llama_fp8_tensors": Packed(
        llama.REPOSITORIES["llama"],
        by_tensor,
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {".input_scale": ONE},
    ),
    "llama_fp8_e5m2": Packed(
        llama.REPOSITORIES["llama"], e5m2, {"quant_method": "fp8", "activation_scheme": "dynamic"}
    ),
    "llama_int8_rows": Packed(llama.REPOSITORIES["llama"], int8, compressed("int-quantized", "int")),
}
"""The name in `tests/gguf/packing/scaled_bytes.json` → the repository."""
