"""Rows of codes of a few bits, and the F32 numbers that they stand for. Pure.

A number is (number of the code - zero point) * scale. The difference and the product are each rounded to F32. The C
kernel calculates them where it is there, else numpy, with the same bits.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from proxy.gguf.packing.packed import Array

_MAX_UNIT = 8
"""Bytes."""


def _find_kernel() -> Callable[..., bytes] | None:
    """None without the kernel, or with one of another version of the code."""
    try:
        from proxy.gguf import _kernel
    except ImportError:
        return None
    return getattr(_kernel, "decode", None)


_decode_in_c = _find_kernel()


class Codes(NamedTuple):
    """How codes lie in rows of bytes, the lowest bit first, and what they mean."""

    bits: int
    """Of a code, at most 8."""
    unit: int
    """Bytes after which a code begins at the first bit again, at most 8. Bits that hold no whole code are not used."""
    shifts: bytes
    """If there are any, a row is words of 32 bits, which have a code for each of so many rows, at these bits."""
    numbers: bytes
    """The F32 number of each code. Bytes, because 0 and -0 are equal as numbers."""


def codes_of(bits: int, numbers: Iterable[float], *, unit: int = 0, shifts: bytes = b"") -> Codes:
    """Codes with these numbers. Without a `unit` they follow each other without gaps."""
    dense = 1 if 8 % bits == 0 else bits
    return Codes(bits, unit or dense, shifts, np.array(tuple(numbers), np.float32).tobytes())


class ColumnGroups(NamedTuple):
    """What the columns of each row share."""

    scales: Array
    """F32 [rows, groups]."""
    zeros: Array | None
    """The zero points, of the same type and shape."""
    columns: int
    """Consecutive columns of a group."""
    order: Array | None = None
    """I32: the group of each column, where they are in any order."""


def decode(codes: Codes, packed: Array, width: int, groups: ColumnGroups) -> bytes:
    """The F32 numbers [rows, width] of `packed`, which is rows of bytes. Raises ValueError where they do not fit."""
    scales, zeros, columns, order = groups
    aligned = ColumnGroups(_aligned(scales), _aligned(zeros), columns, _aligned(order, np.int32))
    if _decode_in_c is None:
        return _decode(codes, packed, width, aligned).tobytes()
    content = np.ascontiguousarray(packed)
    return _decode_in_c(content, content.shape[1], width, codes, aligned)


def read_codes(codes: Codes, packed: Array) -> Array:
    """The codes themselves [rows, codes], unsigned integers of 8 bits."""
    rows, size = packed.shape
    mask = (1 << codes.bits) - 1
    if codes.shifts:
        shifts = np.frombuffer(codes.shifts, np.uint8)
        words = np.ascontiguousarray(packed).view("<u4")[:, None] >> shifts[:, None]
        return (words & mask).astype(np.uint8).reshape(rows * len(shifts), -1)
    units = -(-size // codes.unit)
    filled = np.zeros((rows, units * codes.unit), np.uint8)
    filled[:, :size] = packed
    wide = np.zeros((rows, units, _MAX_UNIT), np.uint8)
    wide[..., : codes.unit] = filled.reshape(rows, units, -1)
    places = np.arange(0, 8 * codes.unit - codes.bits + 1, codes.bits).astype(np.uint64)
    read: Array = wide.view("<u8") >> places & np.uint64(mask)
    return read.astype(np.uint8).reshape(rows, -1)


def _decode(codes: Codes, packed: Array, width: int, groups: ColumnGroups) -> Array:
    read = read_codes(codes, packed)[:, :width]
    numbers: Array = np.frombuffer(codes.numbers, np.float32)[read]
    order = np.arange(width) // groups.columns if groups.order is None else groups.order
    with np.errstate(all="ignore"):
        if groups.zeros is not None:
            numbers -= groups.zeros[:, order]
        numbers *= groups.scales[:, order]
    return numbers


def _aligned(numbers: Array | None, kind: type = np.float32) -> Any:
    return None if numbers is None else np.require(numbers, kind, ("C", "A"))
