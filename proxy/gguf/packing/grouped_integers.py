"""Integers of a few bits in 32-bit words, from which a zero point is taken before a scale multiplies them. Pure.

The matrices are stored transposed: a word belongs to one input and several outputs (AWQ), or to several inputs and one
output (GPTQ). Each input is in a group, which has a scale and a zero point for each output.
"""

from collections.abc import Callable, Iterator
from math import gcd, lcm

import numpy as np

from proxy.gguf.packing.packed import Array

WORD_BITS = 32
LINE = 16
"""Words of a cache line of 64 bytes."""
WIDE = 8
"""Bits of an integer whose difference to a zero point needs 16 bits."""
_AT_ONCE = 1 << 16
"""Numbers that are decoded at a time: they stay in the processor's cache, in all their forms."""
_LONGEST_RUN = 1 << 11
_SHORTEST_RUN = 16
"""Inputs of a group that follow each other; numpy is slow at broadcasting to fewer."""
_SPREADING: dict[int, tuple[str, tuple[tuple[int, int], ...]]] = {
    2: ("<u4", ((1 << 12, 0x000F000F), (1 << 6, 0x03030303))),
    3: ("<u8", ((1 << 20, 0x00000FFF00000FFF), (1 << 10, 0x003F003F003F003F), (1 << 5, 0x0707070707070707))),
    4: ("<u2", ((1 << 4, 0x0F0F),)),
}
"""By the bits of an integer: the type for as many integers as whole bytes have, and the steps that move each integer
into a byte of its own: what is added after a multiplication, and what is kept. numpy multiplies faster than it shifts."""


def unpack_columns(words: Array, bits: int) -> Array:
    """The integers of each column, one below the other: the lowest bits of a word come first.

    An integer of 3 bits may begin in one word and end in the next. The words are a multiple of 3 then, as in auto-gptq
    0.7.1 (nn_modules/qlinear/qlinear_cuda.py) and in gptqmodel 7.7.0 (nn_modules/qlinear/__init__.py).
    """
    length = lcm(bits, WORD_BITS) // WORD_BITS
    blocks = words.reshape(-1, length, words.shape[1])
    count = length * WORD_BITS // bits
    codes = np.empty((len(blocks), count, words.shape[1]), np.uint8)
    for index in range(count):
        word, shift = divmod(index * bits, WORD_BITS)
        part = blocks[:, word] >> shift
        if shift + bits > WORD_BITS:
            part |= blocks[:, word + 1] << (WORD_BITS - shift)
        codes[:, index] = part & ((1 << bits) - 1)
    return codes.reshape(-1, words.shape[1])


def unpack_rows(words: Array, bits: int) -> Array:
    """The integers of each row, as unpack_columns has them for a column. The rows have no gaps between them."""
    content = words.view(np.uint8)
    if bits == WIDE:
        return content
    kind, steps = _SPREADING[bits]
    if bits == 3:  # noqa: PLR2004 - eight integers are in three bytes
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

    `groups` has the group of each input, and a group has a row of F32 `scales` and of `zeros`, from signed_zeros.
    """
    products = np.empty((words.shape[1], len(groups)), np.float32)
    run = gcd(run_length(groups), _LONGEST_RUN)
    if run < _SHORTEST_RUN:
        _scale_each(words, bits, groups, (zeros, scales), products)
        return products

    def unpack(outputs: slice, inputs: slice) -> Array:
        return signed(unpack_rows(transposed(words[_words_of(inputs, bits), outputs]), bits), bits)

    first = groups[::run]
    scale_runs(unpack, (transposed(zeros[first]), transposed(scales[first])), products, 2 * LINE)
    return products


def scale_runs(
    unpack: Callable[[slice, slice], Array], factors: tuple[Array, Array], products: Array, unit: int
) -> None:
    """Fills the rows of `products`. Each so many numbers of a row share a zero point and a scale: a row of `factors`.

    `unpack` gets outputs, beginning at a multiple of `unit`, and inputs, beginning at a multiple of WORD_BITS. It gives
    signed integers: a row for each output, perhaps with more of them than inputs.
    """
    zeros, scales = factors
    run = products.shape[1] // scales.shape[1]
    by_run = products.reshape(len(products), -1, run)
    for outputs, inputs in _tiles(products.shape, unit, lcm(run, WORD_BITS)):
        runs = slice(inputs.start // run, inputs.stop // run)
        part = by_run[outputs, runs]
        codes = unpack(outputs, inputs)[:, : inputs.stop - inputs.start].reshape(part.shape)
        np.multiply(codes - zeros[outputs, runs, None], scales[outputs, runs, None], out=part)


def transposed(matrix: Array) -> Array:
    """A copy without gaps. The rows are copied to one place first: a stride of a power of two thrashes the cache."""
    return np.ascontiguousarray(matrix.copy().T)


def signed(codes: Array, bits: int) -> Array:
    """In the type in which a difference to a zero point is exact; perhaps the same bytes."""
    return codes.astype(np.int16) if bits == WIDE else codes.view(np.int8)


def _scale_each(words: Array, bits: int, groups: Array, factors: tuple[Array, Array], products: Array) -> None:
    """Where neighbouring inputs are in any groups: an input gets its products for several outputs, then they move."""
    for outputs, inputs in _tiles(products.shape, 4 * LINE, WORD_BITS):
        own = groups[inputs]
        zeros, scales = (one[:, outputs].take(own, axis=0) for one in factors)
        codes = unpack_columns(words[_words_of(inputs, bits), outputs].copy(), bits)[: len(own)]
        products[outputs, inputs] = ((signed(codes, bits) - zeros) * scales).T


def _words_of(inputs: slice, bits: int) -> slice:
    return slice(inputs.start * bits // WORD_BITS, -(-inputs.stop * bits // WORD_BITS))


def _tiles(shape: tuple[int, ...], height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a matrix that stay in the cache: about as many times `height` rows and `width` columns as fit."""
    columns = min(max(_AT_ONCE // height // width, 1) * width, shape[1])
    rows = max(_AT_ONCE // columns // height, 1) * height
    for row in range(0, shape[0], rows):
        for column in range(0, shape[1], columns):
            yield slice(row, min(row + rows, shape[0])), slice(column, min(column + columns, shape[1]))
