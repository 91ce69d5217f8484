"""Numbers of four bits (E2M1) in small blocks with scales of eight bits: NVFP4 and MXFP4. Pure.

NVFP4 has a scale of E4M3 for each 16 numbers, and one of F32 for the whole matrix. compressed-tensors
(`nvfp4-pack-quantized`) names them `weight_packed`, `weight_scale` and `weight_global_scale`, and divides by the last;
ModelOpt names them `weight`, `weight_scale` and `weight_scale_2`, and multiplies. First the scales are combined and
rounded to F32, then the products (compressed-tensors 0.20.1: `_dequantize` in lifecycle/forward_helpers.py; ModelOpt
0.47.0: `NVFP4QTensor.dequantize`).

MXFP4 has a power of two (E8M0) for each 32 numbers. compressed-tensors (`mxfp4-pack-quantized`) names the tensors as
above, OpenAI `_blocks` and `_scales`, DeepSeek V4 `weight` (I8) and `scale`. Each product is exact. 255 stands for NaN,
as in the standard; transformers 5.24 (`convert_moe_packed_tensors`) makes infinities of it.

The lower half of a byte comes first. All but ModelOpt know a negative zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.coded_rows import Codes, ColumnGroups, codes_of, decode
from proxy.gguf.packing.nvfp4 import Nvfp4Rows, Scales
from proxy.gguf.packing.packed import Array, Companion, Found, Located, PackedRows, RowGroups, RowSlice, decoder
from proxy.gguf.packing.scaled_bytes import NUMBERS, scale_numbers
from proxy.gguf.tensor_sources import MATRIX, LocatedTensor, Mxfp4Pieces, SourceRange
from proxy.gguf.transforms import WIDTHS, repack_mxfp4

_SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1 = codes_of(4, (*_SIZES, *(-size for size in _SIZES)))
_E2M1_OF_MODELOPT = codes_of(4, (*_SIZES, 0.0, *(-size for size in _SIZES[1:])))

_NVFP4, _MXFP4 = 16, 32
"""Numbers of a block."""
_POWERS_OF_TWO = ("U8", "F8_E8M0")
_PACKED, _PLAIN = ".weight_packed", ".weight"
_SCALE_OF_DEEPSEEK = ".scale"
_MAX_SCALES = 4 * 1024 * 1024
"""Bytes of scales that may be held while their numbers are read."""
_INPUT_SCALE = "input_global_scale"
"""The end of its name in compressed-tensors."""


class Part(NamedTuple):
    """Which rows of a tensor are decoded: row `place` (from 0) of each `every` rows."""

    every: int = 1
    place: int = 0


class Mxfp4Rows(PackedRows):
    """Rows of MXFP4, which can become F32, or stay. `shape` counts the rows of the `part`."""

    __slots__ = ("_part", "_scales")

    def __init__(self, shape: tuple[int, ...], numbers: LocatedTensor, scales: LocatedTensor, part: Part) -> None:
        blocks = shape[-1] // _MXFP4
        groups = RowGroups(decoder(_mxfp4, part), 1, shape[-2])
        super().__init__("MXFP4", shape, numbers, [Companion(scales, blocks * part.every)], groups)
        self._scales, self._part = scales, part

    def in_mxfp4(self) -> Mxfp4Pieces:
        every, blocks = self._part.every, self.shape[-1] // _MXFP4
        rows, step = prod(self.shape[:-1]), max(_MAX_SCALES // (blocks * every), 1)
        spans = [(first, min(first + step, rows)) for first in range(0, rows, step)]
        transform, start, size = repack_mxfp4(blocks, *self._part), self._numbers.source.start, self._rows.size
        kept = tuple(
            SourceRange(
                self._numbers.path,
                start + first * size,
                start + stop * size,
                transform,
                (self._scales.beside(first * every, stop * every, size=blocks),),
            )
            for first, stop in spans
        )
        whole = LocatedTensor(self._numbers.path, self._numbers.name, self)
        width = WIDTHS[self.dtype] * self.shape[-1]
        return Mxfp4Pieces(kept, tuple(whole.rows(first, stop, size=width) for first, stop in spans))


class _GlobalScale(NamedTuple):
    divides: bool
    codes: Codes


def find(weights: Located, _: Mapping[str, Any]) -> Iterator[Found]:
    """The matrices of NVFP4 and MXFP4 but those of GPT-OSS. Raises CannotConvert where their tensors do not fit."""
    for name, numbers in weights.items():
        if numbers.dtype == "I8" and name.endswith(_PLAIN):
            scales = weights.get(name.removesuffix(_PLAIN) + _SCALE_OF_DEEPSEEK)
            if scales is not None and scales.dtype == "F8_E8M0":
                yield _mxfp4_of(name, numbers, scales, weights)
        if numbers.dtype != "U8":
            continue
        if name.endswith(_PACKED):
            yield _compressed(name.removesuffix("_packed"), weights)
        elif name.endswith(_PLAIN) and (scales := weights.get(f"{name}_scale")) and scales.dtype == "F8_E4M3":
            yield _nvfp4_of(name, [numbers, scales], f"{name}_scale_2", weights)


def mxfp4_rows(numbers: LocatedTensor, scales: LocatedTensor, part: Part) -> Mxfp4Rows:
    """Row `part.place` of each `part.every` rows of blocks, where `scales` has one number for each block.

    The blocks may be a dimension of their own (GPT-OSS). Raises CannotConvert if the scales do not fit the rows.
    """
    *stack, rows, blocks = scales.shape
    if (
        scales.dtype not in _POWERS_OF_TWO
        or rows % part.every
        or prod(numbers.shape) != prod(scales.shape) * _MXFP4 // 2
    ):
        raise _unfit("MXFP4", [numbers, scales])
    return Mxfp4Rows((*stack, rows // part.every, blocks * _MXFP4), numbers, scales, part)


def _compressed(name: str, weights: Located) -> Found:
    numbers, scales = weights[f"{name}_packed"], weights.get(f"{name}_scale")
    if scales is None or f"{name}_zero_point" in weights:
        raise CannotConvert(f"{name}_packed has numbers of four bits with other tensors than a scale, or without it")
    if scales.dtype not in _POWERS_OF_TWO:
        return _nvfp4_of(name, [numbers, scales], f"{name}_global_scale", weights)
    return _mxfp4_of(name, numbers, scales, weights)


def _mxfp4_of(name: str, numbers: LocatedTensor, scales: LocatedTensor, weights: Located) -> Found:
    if numbers.shape[:-1] != scales.shape[:-1] or len(scales.shape) != MATRIX:
        raise _unfit("MXFP4", [numbers, scales])
    return _found(name, [numbers, scales], mxfp4_rows(numbers, scales, Part()), weights)


def _nvfp4_of(name: str, tensors: Sequence[LocatedTensor], global_name: str, weights: Located) -> Found:
    numbers, scales = tensors
    if (one := weights.get(global_name)) is None:
        raise CannotConvert(f"the weights have {numbers.name} without {global_name}")
    width = 2 * numbers.shape[-1]
    fits = len(numbers.shape) == MATRIX and scales.shape == (numbers.shape[0], width // _NVFP4) and width % _NVFP4 == 0
    if not fits or scales.dtype != "F8_E4M3" or not _is_one_number(one):
        raise _unfit("NVFP4", [*tensors, one])
    is_modelopt = numbers.name.endswith(_PLAIN)
    scale = _GlobalScale(not is_modelopt, _E2M1_OF_MODELOPT if is_modelopt else _E2M1)
    groups = RowGroups(decoder(_nvfp4, scale), 1, numbers.shape[0])
    inputs = weights.get(name.removesuffix("weight") + ("input_scale" if is_modelopt else _INPUT_SCALE))
    beside = Scales(scales, one, inputs if inputs is None or _is_one_number(inputs) else None, not is_modelopt)
    tensor = Nvfp4Rows((numbers.shape[0], width), numbers, groups, beside)
    return _found(name, [*tensors, one], tensor, weights)


def _is_one_number(tensor: LocatedTensor) -> bool:
    return tensor.dtype == "F32" and prod(tensor.shape) == 1


def _found(name: str, tensors: Sequence[LocatedTensor], tensor: PackedRows, weights: Located) -> Found:
    of_activations = name.removesuffix("weight") + _INPUT_SCALE
    replaced = [one.name for one in tensors] + [of_activations] * (of_activations in weights)
    return Found(name, tensors[0].path, tensor, tuple(replaced))


def _unfit(form: str, tensors: Sequence[LocatedTensor]) -> CannotConvert:
    shown = ", ".join(f"{one.name} {list(one.shape)} ({one.dtype})" for one in tensors)
    return CannotConvert(f"tensors of {form} do not fit each other: {shown}")


def _nvfp4(one: _GlobalScale, rows: RowSlice, packed: memoryview, companions: Sequence[memoryview]) -> bytes:
    global_scale, scales = np.frombuffer(companions[0], "<f4"), np.frombuffer(companions[1], np.uint8)
    factors = np.array(NUMBERS["F8_E4M3"], np.float32)
    with np.errstate(all="ignore"):
        factors = factors / global_scale if one.divides else factors * global_scale
    return _scaled(one.codes, np.frombuffer(packed, np.uint8).reshape(rows.rows, -1), factors[scales], _NVFP4)


def _mxfp4(part: Part, rows: RowSlice, packed: memoryview, companions: Sequence[memoryview]) -> bytes:
    numbers, scales = (
        content.reshape(rows.rows, part.every, -1)[:, part.place]
        for content in (np.frombuffer(packed, np.uint8), scale_numbers("F8_E8M0", companions[0]))
    )
    return _scaled(_E2M1, numbers, scales, _MXFP4)


def _scaled(codes: Codes, packed: Array, scales: Array, columns: int) -> bytes:
    return decode(codes, packed, 2 * packed.shape[1], ColumnGroups(scales.reshape(len(packed), -1), None, columns))
