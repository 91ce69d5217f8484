"""NVFP4 in ggml's blocks, with the numbers and scales of the repository, bit for bit. Pure.

A block (`block_nvfp4`, ggml-common.h at b10488) has 64 numbers: four scales of 16 numbers each, then 32 bytes, in which
number 0 of 16 shares a byte with number 8, 1 with 9, and so on. The F32 scale of the matrix is a tensor of its own. If
the repository divides by it (compressed-tensors), llama.cpp's converter and we write its reciprocal, rounded to F32.

Scales of a block (UE4M3) have no sign: those of a negative one's numbers are changed instead. llama.cpp's converter
drops the sign. ggml reads a scale that is no number as 0, so it is refused. A zero keeps its sign in the file, but ggml
calculates with none (`kvalues_fp4`), which changes no result.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from proxy.gguf.model_config import CannotConvert, CannotKeep
from proxy.gguf.packing.halves import in_halves
from proxy.gguf.packing.packed import Array, Companion, PackedRows, RowGroups
from proxy.gguf.tensor_sources import BesideRange, LocatedTensor, Repacked, SourceRange
from proxy.gguf.tensors import BLOCKS, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, chain, interleave

_NUMBERS, _BYTES = BLOCKS[TensorType.NVFP4]
"""Numbers and bytes of ggml's block."""
_SCALES = 4
"""Scales of a block, and its first bytes."""
_SIZE = 0x7F
"""The bits of a scale without its sign."""
_NAN = 0x7F
_NO_NUMBER = "a scale of NVFP4 is no number"
_SIGNS = 0x88
"""The signs of the two numbers in a byte."""
_AT_ONCE = 1 << 12
"""Blocks that are repacked at a time: they fit into the processor's cache."""
_MAX_SCALES = 4 * 1024 * 1024
"""Bytes of scales that may be held while their numbers are read."""


class Scales(NamedTuple):
    """The tensors beside the numbers of a matrix."""

    blocks: LocatedTensor
    """E4M3, one for each 16 numbers of a row."""
    matrix: LocatedTensor
    """One F32 number."""
    inputs: LocatedTensor | None
    """One F32 number for what the matrix is multiplied with."""
    divides: bool
    """Whether the reciprocals of the last two are meant."""


class Nvfp4Rows(PackedRows):
    """A matrix of NVFP4, which can become F32, or stay."""

    __slots__ = ("_scales",)

    def __init__(self, shape: tuple[int, int], numbers: LocatedTensor, groups: RowGroups, scales: Scales) -> None:
        companions = [Companion(scales.matrix), Companion(scales.blocks, scales.blocks.shape[1])]
        super().__init__("NVFP4", shape, numbers, companions, groups)
        self._scales = scales

    def repack(self, piece: SourceRange) -> Repacked:
        inputs, divides = self._scales.inputs, self._scales.divides
        return Repacked(
            tuple(self._ranges(piece)),
            _one_number(self._scales.matrix, divides=divides),
            _one_number(inputs, divides=divides) if inputs is not None else None,
        )

    def _ranges(self, piece: SourceRange) -> Iterator[SourceRange]:
        width, source, scales = self.shape[-1], self._numbers.source, self._scales.blocks
        transform = _repacking(width, _resized(self._numbers.name, piece.transform, width))
        row_size, scale_size = width // 2, width // (_NUMBERS // _SCALES)
        row, stop = ((offset - self.start) // (WIDTHS["F32"] * width) for offset in (piece.start, piece.stop))
        together = transform.block // row_size
        step = max(_MAX_SCALES // (scale_size * together), 1) * together
        while row < stop:
            end = min(row + step, stop)
            first, last = (scales.source.start + scale_size * one for one in (row, end))
            start, after = (source.start + row_size * one for one in (row, end))
            yield SourceRange(self._numbers.path, start, after, transform, (BesideRange(scales.path, first, last),))
            row = end


def _resized(name: str, after: Transform | None, width: int) -> tuple[int, int, int] | None:
    """How ggml's blocks are moved where `after` moves F32 numbers: arguments of `interleave`. None without `after`."""
    if width % _NUMBERS:
        raise CannotKeep(f"{name} has rows of {width} numbers, no multiple of {_NUMBERS}")
    if after is None:
        return None
    if after.interleaved is None:
        raise CannotKeep(f"llama.cpp's converter calculates with the numbers of {name}, or changes their order in rows")
    unit, units, parts = after.interleaved
    blocks, rest = divmod(unit, WIDTHS["F32"] * _NUMBERS)
    if rest:
        raise CannotKeep(f"llama.cpp wants {name} in an order that does not fit blocks of {_NUMBERS} numbers")
    return blocks * _BYTES, units, parts


@lru_cache(maxsize=1024)
def _repacking(width: int, moved: tuple[int, int, int] | None) -> Transform:
    """Gets the scales of rows of `width` numbers, then the numbers. Cached: tens of thousands of experts share one."""
    step = Transform(width // 2, width // _NUMBERS * _BYTES, _repack)
    return chain([step, *([interleave(*moved)] if moved else [])]) or step


def _repack(content: bytes) -> bytes:
    whole = np.frombuffer(content, np.uint8)
    # A scale belongs to eight bytes of numbers.
    scales, numbers = np.split(whole, [len(whole) // 9])
    sizes, is_negative, codes = scales & _SIZE, scales > _SIZE, numbers.reshape(-1, 8)
    if (sizes == _NAN).any():
        raise CannotConvert(_NO_NUMBER)
    if is_negative.any():
        codes = codes ^ is_negative[:, None] * np.uint8(_SIGNS)
    blocks = np.empty((len(scales) // _SCALES, _BYTES), np.uint8)
    blocks[:, :_SCALES] = sizes.reshape(-1, _SCALES)
    codes = codes.reshape(len(blocks), -1)
    for first in range(0, len(blocks), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        blocks[some, _SCALES:] = in_halves(codes[some], 8)
    return blocks.tobytes()


def _one_number(tensor: LocatedTensor, *, divides: bool) -> SourceRange:
    source = tensor.source
    return SourceRange(tensor.path, source.start, source.stop, _RECIPROCAL if divides else _UNCHANGED)


def _scale_numbers(content: bytes, *, divides: bool) -> bytes:
    numbers: Array = np.frombuffer(content, "<f4")
    with np.errstate(all="ignore"):
        numbers = np.float32(1) / numbers if divides else numbers
    if not np.isfinite(numbers).all():
        raise CannotConvert(_NO_NUMBER)
    return numbers.tobytes()


_UNCHANGED, _RECIPROCAL = (
    Transform(WIDTHS["F32"], WIDTHS["F32"], partial(_scale_numbers, divides=divides)) for divides in (False, True)
)
