"""Ternary tensors of BitNet: -1, 0 or 1 times one scale for the matrix. Pure.

A byte has two bits each of four rows, the number plus 1: of a row in the first quarter of the matrix in its lowest
bits, up to a row in the last quarter.

The model's linear class decides what the scale means: `bitlinear` divides by it, `autobitlinear` multiplies
(transformers 5.24, integrations/bitnet.py: `BitLinear.post_quant_process`, `AutoBitLinear.forward`; mlx-lm does the
same). llama.cpp's converter (b11434, `dequant_bitnet` in conversion/base.py) divides always, which is right for
`bitlinear` only.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.engine_numpy import to_floats
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.packed import Found, Located, PackedMatrix, decoder
from proxy.gguf.tensor_sources import MATRIX, LocatedTensor
from proxy.gguf.transforms import WIDTHS

_SCALE = "_scale"
_PER_BYTE = 4
_BITS = 2
_LOWEST = 3
_AT_ONCE = 1 << 17
"""Numbers that are decoded at a time: they fit into the processor's cache."""


def find(weights: Located, settings: Mapping[str, Any]) -> Iterator[Found]:
    """The packed matrices of a model whose quant_method is `bitnet`.

    Raises CannotConvert for what llama.cpp does not compute, and where a matrix and its scale do not fit each other.
    """
    if settings.get("quant_method") != "bitnet":
        return
    divides = _divides(settings)
    for name, numbers in weights.items():
        scale = weights.get(f"{name}{_SCALE}")
        if scale is None and numbers.dtype != "U8":
            continue
        _check(numbers, scale)
        if scale is not None:
            rows, width = numbers.shape
            decode = decoder(_decode, _Layout(width, scale.dtype, divides))
            tensor = PackedMatrix("BitNet", (_PER_BYTE * rows, width), numbers, decode, [scale])
            yield Found(name, numbers.path, tensor, (name, scale.name))


def _divides(settings: Mapping[str, Any]) -> bool:
    """Whether the scales divide. The defaults are those of transformers (`BitNetQuantConfig`)."""
    linear = settings.get("linear_class", "bitlinear")
    mode = settings.get("quantization_mode", "offline")
    if linear not in ("bitlinear", "autobitlinear") or mode not in ("offline", "online"):
        raise CannotConvert(f"config.json has a BitNet with the linear class {linear!r:.40} in the mode {mode!r:.40}")
    if mode == "online" and linear == "autobitlinear":
        raise CannotConvert(
            "config.json has a BitNet in the mode online, which makes its weights ternary while it runs; pull the "
            "repository that has them packed"
        )
    if settings.get("use_rms_norm"):
        raise CannotConvert("config.json has a BitNet with a norm in each linear layer, which llama.cpp does not run")
    return bool(linear == "bitlinear")


def _check(numbers: LocatedTensor, scale: LocatedTensor | None) -> None:
    if numbers.dtype != "U8" or len(numbers.shape) != MATRIX:
        problem = "has a scale"
    elif scale is None:
        problem = "has no scale"
    elif scale.dtype not in WIDTHS or prod(scale.shape) != 1:
        problem = f"has scales of the shape {list(scale.shape)} and the type {scale.dtype}"
    else:
        return
    raise CannotConvert(
        f"{numbers.name} has the shape {list(numbers.shape)} of the type {numbers.dtype} and {problem}, unlike a "
        "packed BitNet matrix"
    )


class _Layout(NamedTuple):
    """What a decoder gets."""

    width: int
    """Numbers in a row."""
    scale_dtype: str
    divides: bool


def _decode(layout: _Layout, numbers: memoryview, companions: Sequence[memoryview], rows: range) -> bytes:
    width = layout.width
    packed = np.frombuffer(numbers, np.uint8).reshape(-1, width)
    [scale] = to_floats(layout.scale_dtype, np.frombuffer(companions[0], f"<u{WIDTHS[layout.scale_dtype]}"))
    with np.errstate(all="ignore"):
        factor = np.float32(1) / scale if layout.divides else scale
    decoded = np.empty((len(rows), width), np.float32)
    step, quarter = max(_AT_ONCE // width, 1), len(packed)
    first = rows.start
    while first < rows.stop:
        number, inside = divmod(first, quarter)
        count = min(step, quarter - inside, rows.stop - first)
        # The two bits stay in their place, where the number counts `unit` times: no shift, and no other result.
        unit = 1 << _BITS * number
        part = decoded[first - rows.start : first - rows.start + count]
        part[...] = packed[inside : inside + count] & np.uint8(_LOWEST * unit)
        part -= np.float32(unit)
        part *= factor / np.float32(unit)
        first += count
    return decoded.tobytes()
