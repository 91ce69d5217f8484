"""Integers of a few bits in 32-bit words, from which a zero point is taken before a scale multiplies them. Pure.

The matrices are stored transposed: a word belongs to one input and several outputs (AWQ), or to several inputs and one
output (GPTQ). Each input is in a group, which has a scale and a zero point for each output.
"""

from collections.abc import Sequence
from math import gcd

import numpy as np

from proxy.gguf.packing.packed import Array

WORD_BITS = 32
STRADDLING = 3
"""Bits of an integer that may begin in one word and end in the next."""
WIDE = 8
"""Bits of an integer whose difference to a zero point needs 16 bits."""
_AT_ONCE = 1 << 18
"""Numbers that are calculated at a time before they are transposed."""
_TILE = 256
"""Inputs whose numbers are transposed at a time: rows that are a power of two apart share few lines of the cache."""
_SHORTEST_RUN = 16
"""Inputs of a group that follow each other; numpy is slow at broadcasting to fewer."""
_SPREADING: dict[int, tuple[str, tuple[tuple[int, int], ...]]] = {
    2: ("<u4", ((1 << 12, 0x000F000F), (1 << 6, 0x03030303))),
    3: ("<u8", ((1 << 20, 0x00000FFF00000FFF), (1 << 10, 0x003F003F003F003F), (1 << 5, 0x0707070707070707))),
    4: ("<u2", ((1 << 4, 0x0F0F),)),
}
"""By the bits of an integer: the type for as many integers as whole bytes have, and the steps that move each integer
into a byte of its own: a multiplication, whose product is added, and what is kept. numpy multiplies faster than it
shifts."""


def unpack_columns(words: Array, bits: int, order: Sequence[int] | None = None) -> Array:
    """The integers of each column, one below the other; `order` has the place of each integer of a word among them.

    The lowest bits of a word come first, unless there is an order.
    """
    planes = _unpack_planes(words, bits)
    codes = np.empty((planes.shape[1], len(planes), words.shape[1]), np.uint8)
    for plane, place in zip(planes, order or range(len(planes)), strict=True):
        codes[:, place] = plane
    return codes.reshape(-1, words.shape[1])


def _unpack_planes(words: Array, bits: int) -> Array:
    """The first integer of each word, the second of each word, and so on; of three words where they have 3 bits."""
    if bits == STRADDLING:
        return _unpack_threes(words)
    count, each = WORD_BITS // bits, 8 // bits
    planes = np.empty((count, *words.shape), np.uint8)
    for index in range(0, count, each):
        planes[index] = words >> (bits * index)  # the lowest byte
        for place in range(1, each):
            np.right_shift(planes[index], bits * place, out=planes[index + place])
    if bits < WIDE:
        planes &= (1 << bits) - 1
    return planes


def _unpack_threes(words: Array) -> Array:
    """32 integers of 3 bits in 3 words, where some begin in one word and end in the next.

    So in auto-gptq 0.7.1 (nn_modules/qlinear/qlinear_cuda.py) and gptqmodel 7.7.0 (nn_modules/qlinear/__init__.py).
    """
    blocks = words.reshape(-1, STRADDLING, words.shape[1]).swapaxes(0, 1).copy()
    planes = np.empty((WORD_BITS, *blocks.shape[1:]), np.uint8)
    for index in range(WORD_BITS):
        word, shift = divmod(index * STRADDLING, WORD_BITS)
        part = blocks[word] >> shift
        if shift + STRADDLING > WORD_BITS:
            part |= blocks[word + 1] << (WORD_BITS - shift)
        planes[index] = part
    planes &= (1 << STRADDLING) - 1
    return planes


def unpack_rows(words: Array, bits: int) -> Array:
    """The integers of each row, as unpack_columns has them for a column. The rows have no gaps between them."""
    content = words.view(np.uint8)
    if bits == WIDE:
        return content
    kind, steps = _SPREADING[bits]
    if bits == STRADDLING:
        triples = content.reshape(len(content), -1, bits)
        spread = triples[:, :, 0].astype(kind)
        for place in (1, 2):
            spread |= triples[:, :, place].astype(kind) << (8 * place)
    else:
        spread = content.astype(kind)
    moved = np.empty_like(spread)
    for factor, mask in steps:
        np.multiply(spread, factor, out=moved)
        spread |= moved
        spread &= mask
    return spread.view(np.uint8)


def run_length(groups: Array) -> int:
    """The largest number of inputs so that each so many, from the first on, are in one group. At least 1."""
    changes = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    return gcd(int(np.gcd.reduce(changes)) if len(changes) else 0, len(groups))


def scale_columns(words: Array, bits: int, groups: Array, zeros: Array, scales: Array) -> Array:
    """The F32 products: a row for each column of `words`.

    `groups` has the group of each input, and a group has a row of F32 `scales` and of `zeros`, from `signed`.
    """
    run = run_length(groups)
    if run < _SHORTEST_RUN:
        return _scale_each(words, bits, groups, zeros, scales)
    codes = signed(unpack_rows(transposed(words), bits)[:, : len(groups)], bits)
    first = groups[::run]
    return scale_runs(codes, transposed(zeros[first]), transposed(scales[first]))


def scale_runs(codes: Array, zeros: Array, scales: Array) -> Array:
    """The F32 products for rows of signed integers, which change.

    A row of zeros and of scales has one for each so many integers.
    """
    runs = codes.reshape(*scales.shape, -1)
    runs -= zeros[:, :, None]
    return np.multiply(runs, scales[:, :, None]).reshape(codes.shape)


def transposed(matrix: Array) -> Array:
    """A copy without gaps. The rows are copied to one place first: a stride of a power of two thrashes the cache."""
    return np.ascontiguousarray(matrix.copy().T)


def signed(codes: Array, bits: int) -> Array:
    """In the type in which a difference to a zero point is exact; perhaps the same bytes."""
    return codes.astype(np.int16) if bits == WIDE else codes.view(np.int8)


def _scale_each(words: Array, bits: int, groups: Array, zeros: Array, scales: Array) -> Array:
    """Where neighbouring inputs are in any groups: an input gets its products for all outputs, then they move."""
    products = np.empty((words.shape[1], len(groups)), np.float32)
    step = max(_AT_ONCE // words.shape[1] // WORD_BITS, 1) * WORD_BITS
    for first in range(0, len(groups), step):
        own = groups[first : first + step]
        span = slice(first * bits // WORD_BITS, -(-(first + len(own)) * bits // WORD_BITS))
        differences = signed(unpack_columns(words[span].copy(), bits)[: len(own)], bits)
        differences -= zeros.take(own, axis=0)
        by_input = differences * scales.take(own, axis=0)
        for start in range(0, len(own), _TILE):
            tile = by_input[start : start + _TILE]
            products[:, first + start : first + start + len(tile)] = tile.T
    return products
