"""Tiny repositories whose matrices are stored as bitsandbytes and BitNet store them."""

import json
from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tests.gguf.tiny_repositories import dense, llama, qwen
from tests.gguf.tiny_repositories.packed import INT8_DEVIATION, Codes, Packed
from tests.kit.dtypes import to_bytes
from tests.kit.tiny_families import StoredTensor

FOUR_BIT_DEVIATION = 0.5
"""Of the numbers of NF4 and FP4, before they are multiplied by their scales, about."""
INT8_PARTS = 127
TERNARY_DEVIATION = 0.8
OTHER_MAP = np.linspace(-1, 1, 16, dtype=np.float32)
"""Not that of the library, which writes its own but does not use the one that it reads."""


class FourBit(NamedTuple):
    kind: str = "nf4"
    block: int = 64
    nested: int = 0
    """Scales that share a scale."""
    storage: str = "U8"
    width: int = 1
    """Bytes of `storage`."""


def four_bit(form: FourBit, codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    count = prod(shape)
    numbers = codes.numbers("I8", (count // 2, 1))
    yield name, StoredTensor(form.storage, (count // 2 // form.width, 1), numbers.data)
    state = {"quant_type": form.kind, "blocksize": form.block, "dtype": "bfloat16", "shape": shape}
    blocks = -(-count // form.block)
    if form.nested:
        nested = -(-blocks // form.nested)
        state |= {"nested_blocksize": form.nested, "nested_dtype": "float32", "nested_offset": 0.1234567890123}
        yield f"{name}.absmax", codes.numbers("I8", (blocks,))._replace(dtype="U8")
        yield f"{name}.nested_absmax", codes.scales("F32", (nested,), 2.0)
        table = np.sort(np.cbrt(np.linspace(-1, 1, 256))).astype(np.float32)
        yield f"{name}.nested_quant_map", StoredTensor("F32", (256,), table.tobytes())
    else:
        yield f"{name}.absmax", codes.scales("F32", (blocks,), FOUR_BIT_DEVIATION)
    yield f"{name}.quant_map", StoredTensor("F32", (16,), OTHER_MAP.tobytes())
    content = json.dumps(state).encode()
    yield f"{name}.quant_state.bitsandbytes__{form.kind}", StoredTensor("U8", (len(content),), content)


def int8(codes: Codes, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, StoredTensor]]:
    stem = name.removesuffix(".weight")
    yield name, codes.numbers("I8", shape)
    yield f"{stem}.SCB", codes.scales("F32", (shape[0],), INT8_DEVIATION / INT8_PARTS)
    yield f"{stem}.weight_format", StoredTensor("U8", (), b"\0")


def ternary(
    dtype: str, divides: bool, codes: Codes, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, StoredTensor]]:
    rows, width = shape
    content = np.frombuffer(codes.numbers("I8", (rows // 4, width)).data, np.uint8)
    packed = sum(content // np.uint8(3**part) % 3 << 2 * part for part in range(4))
    yield name, StoredTensor("U8", (rows // 4, width), np.asarray(packed, np.uint8).tobytes())
    scale = np.frombuffer(codes.scales("F32", (1,), TERNARY_DEVIATION).data, np.float32)
    yield f"{name}_scale", StoredTensor(dtype, (1,), to_bytes(dtype, 1 / scale if divides else scale))


def load(bits: int) -> dict[str, Any]:
    return {"quant_method": "bitsandbytes", "load_in_4bit": bits == 4, "load_in_8bit": bits == 8}


LLAMA = llama.REPOSITORIES["llama"]
BITNET = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
AUTO = BITNET | {"linear_class": "autobitlinear", "quantization_mode": "offline"}

FOUR_BITS: dict[str, Packed] = {
    "llama_nf4": Packed(LLAMA, partial(four_bit, FourBit()), load(4)),
    "llama_nf4_double": Packed(LLAMA, partial(four_bit, FourBit(nested=256)), load(4)),
    "qwen3moe_nf4_double": Packed(
        qwen.REPOSITORIES["qwen3moe"], partial(four_bit, FourBit(nested=256, storage="BF16", width=2)), load(4)
    ),
    "phi3_fp4": Packed(dense.REPOSITORIES["phi3"], partial(four_bit, FourBit("fp4", 4096)), load(4)),
    "qwen2_fp4_double": Packed(
        qwen.REPOSITORIES["qwen2"], partial(four_bit, FourBit("fp4", 128, 256, "F32", 4)), load(4)
    ),
}
INT8 = {"llama_bnb_int8": Packed(LLAMA, int8, load(8))}
TERNARY = {
    "llama_bitnet": Packed(LLAMA, partial(ternary, "BF16", True), BITNET),
    "llama_bitnet_auto": Packed(LLAMA, partial(ternary, "BF16", False), AUTO),
}
REPOSITORIES: dict[str, Packed] = {**FOUR_BITS, **INT8, **TERNARY}
"""The name in `tests/gguf/packing/bitsandbytes.json` or `bitnet.json` → the repository."""
