"""Tiny repositories with packed integers (compressed-tensors), NVFP4 and MXFP4, and single matrices of odd layouts.

`python -m tests.gguf.tiny_repositories.packed_compressed FOLDER` writes all of them, into a folder each.
"""

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.gguf.tiny_repositories import experts, llama, qwen
from tests.gguf.tiny_repositories.packed import ONE, WEIGHTS, Codes, Packed
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.kit.tiny_families import StoredTensor, pack_safetensors

Tensors = Iterator[tuple[str, StoredTensor]]


class Integers(NamedTuple):
    """How a matrix of integers is packed."""

    bits: int
    group: int = -1
    """Columns that share a scale; -1: all."""
    zeros: str = ""
    """The dtype of the zero points; empty without them."""
    scale_dtype: str = "BF16"
    is_ordered: bool = False
    strategy: str = ""
    block: tuple[int, int] | None = None
    is_dense: bool = True
    """Whether numbers of 3, 5, 6 or 7 bits go on in the next I32."""

    def weights(self) -> dict[str, Any]:
        """What the quantization_config says of them."""
        settings: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": not self.zeros,
            "strategy": self.strategy or ("channel" if self.group < 0 else "group"),
            "dynamic": False,
        }
        if self.group > 0:
            settings["group_size"] = self.group
        if self.is_ordered:
            settings["actorder"] = "group"
        return settings | ({"block_structure": list(self.block)} if self.block else {})

    def words(self, numbers: int) -> int:
        return ceil(numbers * self.bits / 32) if self.is_dense else ceil(numbers / (32 // self.bits))

    def config(self) -> dict[str, Any]:
        return compressed("pack-quantized", self.weights())


def compressed(form: str, weights: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}
    return config | settings


def integers(how: Integers, codes: Codes, name: str, shape: tuple[int, ...]) -> Tensors:
    rows, columns = shape
    yield f"{name}_packed", words(codes, (rows, how.words(columns)))
    groups = 1 if how.group < 0 else columns // how.group
    counts = (rows, groups)
    if how.block:
        counts = (ceil(rows / how.block[0]), ceil(columns / how.block[1]))
    elif how.strategy == "tensor":
        counts = (1,)  # type: ignore[assignment]
    yield f"{name}_scale", codes.scales(how.scale_dtype, counts, 0.29 * 2**how.bits)
    yield f"{name}_shape", StoredTensor("I64", (2,), np.array(shape, np.int64).tobytes())
    if how.zeros == "I32":
        yield f"{name}_zero_point", words(codes, (how.words(rows), groups))
    elif how.zeros:
        yield f"{name}_zero_point", StoredTensor("I8", counts, bytes(number % 5 for number in range(rows * groups)))
    if how.is_ordered:
        order = np.random.default_rng(rows).permutation(np.arange(columns) // how.group)
        yield f"{name}_g_idx", StoredTensor("I32", (columns,), order.astype(np.int32).tobytes())


def words(codes: Codes, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor("I32", shape, codes.numbers("I8", (*shape, 4)).data)


def mixed(codes: Codes, name: str, shape: tuple[int, ...]) -> Tensors:
    """Four bits in experts and feed-forward, eight in attention."""
    return integers(INT8_ROWS if "self_attn" in name else INT4_GROUPS, codes, name, shape)


def fp4(form: str, codes: Codes, name: str, shape: tuple[int, ...]) -> Tensors:
    """`form` is that of compressed-tensors or, for ModelOpt's, empty."""
    rows, columns = shape
    numbers = StoredTensor("U8", (rows, columns // 2), codes.numbers("I8", (rows, columns // 2)).data)
    yield (f"{name}_packed" if form else name), numbers
    if form.startswith("mx"):
        scales = np.frombuffer(codes.numbers("I8", (rows, columns // 32)).data, np.uint8) % 5 + 119
        yield f"{name}_scale", StoredTensor("U8", (rows, columns // 32), scales.tobytes())
        return
    # From 2 to 30.
    e4m3 = np.frombuffer(codes.numbers("I8", (rows, columns // 16)).data, np.uint8) & 0x1F | 0x40
    yield f"{name}_scale", StoredTensor("F8_E4M3", (rows, columns // 16), e4m3.tobytes())
    one = struct.pack("<f", 700.3 if form else 1 / 700.3)
    yield (f"{name}_global_scale" if form else f"{name}_scale_2"), StoredTensor("F32", (1,) if form else (), one)


INT4_GROUPS = Integers(4, 32)
INT8_ROWS = Integers(8)
NVFP4, MXFP4 = "nvfp4-pack-quantized", "mxfp4-pack-quantized"
FP4_WEIGHTS = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False}
OF_NVFP4 = {**FP4_WEIGHTS, "strategy": "tensor_group", "group_size": 16}
OF_MXFP4 = {**FP4_WEIGHTS, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
MIXED = compressed(
    "pack-quantized",
    {},
    config_groups={
        "attention": {"targets": ["re:.*self_attn.*"], "weights": INT8_ROWS.weights()},
        "others": {"targets": ["Linear"], "weights": INT4_GROUPS.weights()},
    },
)


def of_integers(how: Integers) -> tuple[Callable[[Codes, str, tuple[int, ...]], Tensors], dict[str, Any]]:
    return partial(integers, how), how.config()


REPOSITORIES: dict[str, Packed] = {
    "deepseek3_int4": Packed(experts.REPOSITORIES["deepseek3"], *of_integers(INT4_GROUPS)),
    "llama_int4_zeros": Packed(llama.REPOSITORIES["llama"], *of_integers(Integers(4, 64, "I32"))),
    "qwen3moe_int8_int4": Packed(qwen.REPOSITORIES["qwen3moe"], mixed, MIXED),
    "llama_int4_ordered": Packed(llama.REPOSITORIES["llama"], *of_integers(Integers(4, 64, "I32", "F16", True))),
    "qwen3moe_nvfp4": Packed(
        qwen.REPOSITORIES["qwen3moe"],
        partial(fp4, NVFP4),
        compressed(NVFP4, OF_NVFP4),
        {".input_global_scale": StoredTensor("F32", (1,), struct.pack("<f", 21.5))},
    ),
    "llama_nvfp4_modelopt": Packed(llama.REPOSITORIES["llama"], partial(fp4, ""), MODELOPT, {".input_scale": ONE}),
    "qwen2_mxfp4": Packed(qwen.REPOSITORIES["qwen2"], partial(fp4, MXFP4), compressed(MXFP4, OF_MXFP4)),
}
"""The name in `tests/gguf/packing/compressed.json` → the repository."""


@dataclass(frozen=True)
class Matrix:
    """A repository of one matrix, without a model."""

    shape: tuple[int, int]
    how: Integers
    name: str = field(default="layer.weight", init=False)

    def files(self) -> dict[str, bytes]:
        tensors = dict(integers(self.how, Codes(), self.name, self.shape))
        return {WEIGHTS: pack_safetensors(tensors), "config.json": dump({"quantization_config": self.how.config()})}


MATRICES = {
    **{f"int{bits}": Matrix((45, 192), Integers(bits, 96)) for bits in range(2, 9)},
    **{f"int{bits}_zeros": Matrix((45, 192), Integers(bits, 96, "I32")) for bits in range(2, 9)},
    **{f"int{bits}_old": Matrix((48, 192), Integers(bits, 96, "I32", is_dense=False)) for bits in (3, 5, 6, 7)},
    "int4_odd": Matrix((13, 180), Integers(4, 60, "I32", "F32")),
    "int3_odd": Matrix((33, 180), Integers(3, 60, "I32", "F16")),
    "int4_i8_zeros": Matrix((7, 64), Integers(4, 32, "I8")),
    "int8_rows_zeros": Matrix((9, 64), Integers(8, zeros="I32")),
    "int4_rows": Matrix((9, 64), Integers(4)),
    "int4_tensor": Matrix((9, 64), Integers(4, strategy="tensor")),
    "int4_ordered": Matrix((11, 128), Integers(4, 32, is_ordered=True)),
    "int4_blocks": Matrix((15, 96), Integers(4, strategy="block", block=(5, 32))),
}


def main(folder: Path) -> None:
    everything: dict[str, Packed | Matrix] = {**REPOSITORIES, **MATRICES}
    for name, repository in everything.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path, content in repository.files().items():
            (folder / name / path).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
