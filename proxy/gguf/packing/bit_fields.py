"""Codes of a few bits that follow each other in bytes, the lowest bit first, and the F32 numbers that they mean. Pure.

Several codes are the index of a table that has their numbers side by side.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np

from proxy.gguf.packing.packed import Array

_AT_ONCE = 1 << 17
"""Bytes that are unpacked at a time: their F32 numbers stay in the processor's cache."""
_MAX_TABLE = 1 << 19
"""Bytes: a larger table leaves no room in the cache for the numbers that it is read for."""
_ITEMS = {4: np.complex128, 2: np.float64, 1: np.float32}
"""A type of the size of so many F32 numbers."""


def pieces(rows: int, row_size: int) -> Iterator[slice]:
    """So many rows of `row_size` bytes in slices that are unpacked at a time."""
    step = max(_AT_ONCE // row_size, 1)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def f32_of(numbers: Iterable[float]) -> bytes:
    """What `write_numbers` wants: bytes, because 0 and -0 are equal as numbers."""
    return np.array(tuple(numbers), np.float32).tobytes()


def write_numbers(numbers: bytes, unit: int, packed: Array, output: Array) -> None:
    """Writes the number of each code to `output`, contiguous F32 rows; `numbers` has an F32 for each code.

    A code begins at the first bit of each `unit` bytes; bits that hold no whole code are not used, and neither are the
    codes after the columns of `output`. `packed` has rows of bytes.
    """
    bits = _bits(numbers)
    places = 8 * unit // bits
    together = next(count for count in _ITEMS if places % count == 0 and 4 * count << count * bits <= _MAX_TABLE)
    indexes = _indexes(together * bits, unit, packed)
    whole, columns = indexes.shape[1] * together, output.shape[1]
    target = output if whole == columns else np.empty((len(output), whole), np.float32)
    np.take(_table(numbers, together), indexes, out=target.view(_ITEMS[together]), mode="wrap")
    if target is not output:
        output[:] = target[:, :columns]


@cache
def _table(numbers: bytes, together: int) -> Array:
    bits = _bits(numbers)
    codes = np.arange(1 << together * bits)[:, None] >> np.arange(0, together * bits, bits) & (1 << bits) - 1
    items: Array = np.frombuffer(numbers, np.float32)[codes].view(_ITEMS[together])
    return items.ravel()


def _bits(numbers: bytes) -> int:
    """The bits of a code."""
    return (len(numbers) // 4 - 1).bit_length()


def _indexes(bits: int, unit: int, packed: Array) -> Array:
    """The unsigned numbers of `bits` bits in each row."""
    if bits in {8, 16}:
        return packed.view(f"<u{bits // 8}")
    rows, size = packed.shape
    # An index is read as four bytes, which may go beyond its unit.
    content = np.zeros(rows * -(-size // unit) * unit + 4, np.uint8)
    content[:-4].reshape(rows, -1)[:, :size] = packed
    places = 8 * unit // bits
    indexes = np.empty(((len(content) - 4) // unit, places), np.uint16)
    for place in range(places):
        first, shift = divmod(place * bits, 8)
        words: Array = np.ndarray(len(indexes), "<u4", content, first, (unit,))
        np.copyto(indexes[:, place], words >> shift, casting="unsafe")
    indexes &= (1 << bits) - 1
    return indexes.reshape(rows, -1)
