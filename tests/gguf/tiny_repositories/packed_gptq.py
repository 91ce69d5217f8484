"""Tiny repositories of GPTQ and AWQ, as auto-gptq, gptqmodel, AutoRound and AutoAWQ publish them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.gguf.tiny_repositories import dense, llama, qwen
from tests.gguf.tiny_repositories.packed import DEVIATION, Codes, Packed
from tests.kit.dtypes import to_bytes
from tests.kit.tiny_families import StoredTensor

Array = NDArray[Any]
Format = Literal["gptq", "gptq_v2", "gptqmodel", "gemm"]
"""`gptqmodel` is `gptq` as gptqmodel makes it from gptq_v2."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GROUP = 64


class Layer(NamedTuple):
    """What a quantizer finds for a matrix of [out, in]."""

    codes: Array
    """[in, out], from 0 on."""
    zeros: Array
    """[groups, out]"""
    scales: Array
    """[groups, out], F32."""
    groups: Array
    """The group of each input."""


def random_layer(random: np.random.Generator, shape: tuple[int, int], how: "How") -> Layer:
    outputs, inputs = shape
    size = how.group or inputs
    count = -(-inputs // size)
    groups = np.arange(inputs) // size
    levels = 1 << how.bits
    if how.act_order:
        groups = random.permutation(groups)
    codes = random.integers(0, levels, (inputs, outputs))
    middle = np.full((count, outputs), levels // 2)
    # In `gptq` no zero point is stored for 0, except by gptqmodel.
    zeros = middle if how.is_symmetric else random.integers(how.form == "gptq", levels, (count, outputs))
    scales = random.uniform(0.5, 1.5, (count, outputs)) * DEVIATION * np.sqrt(12) / levels
    return Layer(codes, zeros, scales.astype(np.float32), groups)


def pack_words(codes: Array, bits: int) -> Array:
    """One stream of bits for each column, the lowest first, in words of 32 bits below each other."""
    stream = (codes[:, None] >> np.arange(bits)[:, None] & 1).reshape(-1, codes.shape[1])
    padded = np.zeros((-(-len(stream) // 32) * 32, codes.shape[1]), np.uint64)
    padded[: len(stream)] = stream
    words = padded.reshape(-1, 32, codes.shape[1]) << np.arange(32, dtype=np.uint64)[:, None]
    packed: Array = words.sum(axis=1).astype("<u4")
    return packed


def pack_zeros(zeros: Array, bits: int, form: Format) -> Array:
    if form == "gptq":
        return pack_words(zeros.T - 1, bits).T
    if form == "gptq_v2":
        return pack_words(zeros.T, bits).T
    if bits == 3:
        return pack_words((zeros.T - 1) % 8, bits).T
    return pack_words(zeros.T, bits).T - np.uint32(sum(1 << shift for shift in range(0, 32, bits)))


def pack_awq(codes: Array) -> Array:
    eights = codes.reshape(len(codes), -1, 8)[:, :, list(AWQ_ORDER)]
    packed: Array = (eights.astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
    return packed


@dataclass(frozen=True)
class How:
    bits: int
    form: Format
    group: int | None = GROUP
    """None: one group for all inputs."""
    act_order: bool = False
    is_symmetric: bool = False
    has_groups: bool = True
    """Whether g_idx is stored."""
    scales: str = "F16"
    has_bias: bool = False
    """Whether each layer has a bias of zeros, as auto-gptq writes it."""

    def pack(self, layer: Layer) -> dict[str, StoredTensor]:
        """By the end of the name."""
        if self.form == "gemm":
            words, zeros = pack_awq(layer.codes), pack_awq(layer.zeros)
        else:
            words, zeros = pack_words(layer.codes, self.bits), pack_zeros(layer.zeros, self.bits, self.form)
        stored = {
            ".qweight": StoredTensor("I32", words.shape, words.astype("<u4").tobytes()),
            ".qzeros": StoredTensor("I32", zeros.shape, zeros.astype("<u4").tobytes()),
            ".scales": StoredTensor(self.scales, layer.scales.shape, to_bytes(self.scales, layer.scales.reshape(-1))),
        }
        if self.has_bias:
            outputs = layer.scales.shape[1]
            stored[".bias"] = StoredTensor("F16", (outputs,), bytes(2 * outputs))
        if self.has_groups and self.form != "gemm":
            stored[".g_idx"] = StoredTensor("I32", layer.groups.shape, layer.groups.astype("<i4").tobytes())
        return stored


def replace_matrix(how: How, codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    stored = how.pack(random_layer(codes.random, (shape[0], shape[1]), how))
    return ((name.removesuffix(".weight") + end, tensor) for end, tensor in stored.items())


def _packing(how: How) -> Callable[[Codes, str, tuple[int, ...]], Iterator[tuple[str, StoredTensor]]]:
    return partial(replace_matrix, how)


def settings(how: How, **more: Any) -> Mapping[str, Any]:
    shared = {"bits": how.bits, "group_size": how.group or -1, "sym": how.is_symmetric}
    if how.form == "gemm":
        return {"quant_method": "awq", "version": "gemm", "zero_point": True, **shared, **more}
    form = "gptq_v2" if how.form == "gptq_v2" else "gptq"
    made_by = {"meta": {"quantizer": ["gptqmodel:7.7.0"]}} if how.form == "gptqmodel" else {}
    return {"quant_method": "gptq", "checkpoint_format": form, "desc_act": how.act_order, **shared, **made_by, **more}


def auto_round(how: How, packing_format: str) -> Mapping[str, Any]:
    return {"quant_method": "auto-round", "packing_format": packing_format, "bits": how.bits, "group_size": GROUP}


HOWS: dict[str, How] = {
    "llama_gptq": How(4, "gptq", is_symmetric=True),
    "llama_gptq_act_order": How(4, "gptq", act_order=True, has_bias=True),
    "qwen2_gptq_8bit": How(8, "gptq_v2", group=None, scales="BF16"),
    "qwen3moe_gptq": How(4, "gptq_v2"),
    "phi3_gptq_2bit": How(2, "gptq"),
    "llama_gptq_3bit": How(3, "gptq_v2", act_order=True),
    "llama_gptqmodel": How(4, "gptqmodel", scales="F32"),
    "llama_auto_round": How(4, "gptq_v2", has_groups=False),
    "llama_awq": How(4, "gemm"),
    "phi3_awq": How(4, "gemm", group=32),
    "qwen3moe_auto_round_awq": How(4, "gemm", scales="BF16"),
}
_TINY = {**llama.REPOSITORIES, **qwen.REPOSITORIES, **dense.REPOSITORIES}
_SETTINGS: dict[str, Mapping[str, Any]] = {
    "llama_auto_round": auto_round(HOWS["llama_auto_round"], "auto_round"),
    "qwen3moe_auto_round_awq": auto_round(HOWS["qwen3moe_auto_round_awq"], "auto_round:auto_awq"),
}

REPOSITORIES: dict[str, Packed] = {
    name: Packed(_TINY[name.partition("_")[0]], _packing(how), _SETTINGS.get(name, settings(how)))
    for name, how in HOWS.items()
}
"""The name in `tests/gguf/packing/gptq.json` → the repository."""
