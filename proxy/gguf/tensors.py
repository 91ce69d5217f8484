"""Tensors in a GGUF: their names, types, sizes and layout. Pure."""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from math import prod
from typing import NamedTuple

DEFAULT_ALIGNMENT = 32
BLOCK = "blk."

_brief = reprlib.Repr()
_brief.maxstring = 100


class GgufError(ValueError):
    """The GGUF cannot be used; the text gives the reason."""


def shown(value: object) -> str:
    """A short `repr` for error texts: names in a hostile file may have any length and any characters."""
    return _brief.repr(value)


class TensorType(IntEnum):
    """How ggml stores a tensor's numbers. ggml has dropped the types whose values are missing here."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


BLOCKS: Mapping[int, tuple[int, int]] = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20),
    TensorType.Q5_0: (32, 22),
    TensorType.Q5_1: (32, 24),
    TensorType.Q8_0: (32, 34),
    TensorType.Q8_1: (32, 36),
    TensorType.Q2_K: (256, 84),
    TensorType.Q3_K: (256, 110),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.Q8_K: (256, 292),
    TensorType.IQ2_XXS: (256, 66),
    TensorType.IQ2_XS: (256, 74),
    TensorType.IQ3_XXS: (256, 98),
    TensorType.IQ1_S: (256, 50),
    TensorType.IQ4_NL: (32, 18),
    TensorType.IQ3_S: (256, 110),
    TensorType.IQ2_S: (256, 82),
    TensorType.IQ4_XS: (256, 136),
    TensorType.I8: (1, 1),
    TensorType.I16: (1, 2),
    TensorType.I32: (1, 4),
    TensorType.I64: (1, 8),
    TensorType.F64: (1, 8),
    TensorType.IQ1_M: (256, 56),
    TensorType.BF16: (1, 2),
    TensorType.TQ1_0: (256, 54),
    TensorType.TQ2_0: (256, 66),
    TensorType.MXFP4: (32, 17),
    TensorType.NVFP4: (64, 36),
    TensorType.Q1_0: (128, 18),
    TensorType.Q2_0: (64, 18),
}
"""Numbers per block and bytes per block."""


class TensorName(NamedTuple):
    """llama.cpp's name of a tensor: the number of its block, if it is in one, and the rest of the name."""

    block: int | None
    rest: str

    @classmethod
    def of(cls, name: str) -> "TensorName":
        if not name.startswith(BLOCK):
            return cls(None, name)
        _, block, rest = name.split(".", 2)
        return cls(int(block), rest)

    @property
    def full(self) -> str:
        return self.rest if self.block is None else f"{BLOCK}{self.block}.{self.rest}"

    @property
    def stem(self) -> str:
        name, dot, end = self.rest.rpartition(".")
        return name if dot else end

    @property
    def end(self) -> str:
        """Usually `weight` or `bias`; empty if the name has no such part."""
        _, dot, end = self.rest.rpartition(".")
        return end if dot else ""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` begins with the length of a row; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int = 0

    @property
    def numbers(self) -> int:
        """The count of its numbers."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes. Raises GgufError if the type is unknown, or if rows do not fill whole blocks."""
        if self.type not in BLOCKS:
            raise GgufError(f"the tensor {shown(self.name)} has the unknown type {self.type}")
        block_numbers, block_bytes = BLOCKS[self.type]
        row = prod(self.shape[:1])
        if row % block_numbers:
            name = TensorType(self.type).name
            raise GgufError(f"the tensor {shown(self.name)} has rows of {row}, no multiple of {name}'s {block_numbers}")
        return self.numbers // block_numbers * block_bytes


def lay_out(tensors: Iterable[TensorInfo], alignment: int = DEFAULT_ALIGNMENT) -> tuple[TensorInfo, ...]:
    """Places the tensors one after another, aligned: the only layout that llama.cpp loads."""
    placed, offset = [], 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=offset))
        offset += tensor.size + padding(tensor.size, alignment)
    return tuple(placed)


def padding(size: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    return -size % alignment
