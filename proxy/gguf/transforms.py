"""Transforms of a tensor's bytes on their way into a GGUF, by whole blocks. Pure.

Blocks are independent of each other, so several threads can transform parts of one tensor at once.
"""

import math
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import mul
from typing import Literal

import msgspec

from proxy.gguf.model_config import CannotConvert

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per number, by the safetensors dtype."""
INTEGER_WIDTHS = {"I32": 4, "I64": 8}
MXFP4_BYTES = 16
"""Bytes of the 32 numbers in an MXFP4 block, without its scale."""

_Code = Literal["I", "H"]
_CODES: Mapping[int, _Code] = {4: "I", 2: "H"}
"""Type codes for `array`, by the bytes per number."""


class Transform(msgspec.Struct, frozen=True):
    """Turns each `block` bytes into `output_block` bytes. `change` takes any number of whole blocks, in any thread."""

    block: int
    output_block: int
    change: Callable[[bytes], bytes]
    portions: Callable[[bytes], Iterator[bytes]] | None = None
    """Makes what `change` makes in portions, for blocks whose output is large. `chain` needs to hold only one then."""
    interleaved: tuple[int, int, int] | None = None
    """The arguments of `interleave`, if this is one: it moves bytes and changes none."""

    def size(self, size: int) -> int:
        """The number of output bytes for `size` input bytes, which must be whole blocks."""
        return size // self.block * self.output_block


def interleave(row_size: int, rows: int, parts: int = 2) -> Transform:
    """Interleaves the parts of each block, row by row: row 0 of every part, then row 1 of every part, and so on.

    A block has `rows` rows of `row_size` bytes, in `parts` equal parts.
    """
    size = row_size * rows
    change = partial(_each_block, size, partial(_interleave, row_size, parts))
    return Transform(size, size, change, interleaved=(row_size, rows, parts))


def interleave_start(row_size: int, rows: int, count: int) -> Transform:
    """Interleaves the two halves of the first `count` rows of each block of `rows` rows; the other rows stay."""
    size = row_size * rows
    return Transform(size, size, partial(_each_block, size, partial(_interleave_start, row_size, row_size * count)))


def transpose(rows: int, columns: int, width: int, selected: range | None = None) -> Transform:
    """Transposes each matrix of `rows` by `columns` numbers of `width` bytes.

    The output has only the `selected` columns, each as a row.
    """
    size = rows * columns * width
    selected = range(columns) if selected is None else selected
    change = partial(_transpose, columns, selected, _CODES[width])
    return Transform(size, rows * len(selected) * width, partial(_each_block, size, change))


def repeat(size: int, times: int) -> Transform:
    """Repeats each block of `size` bytes."""
    return Transform(size, size * times, partial(_each_block, size, partial(mul, times)))


def to_f32(dtype: str) -> Transform:
    """F16 or BF16 to F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], _bf16_to_f32 if dtype == "BF16" else _f16_to_f32)


def to_i32(dtype: str, name: str, count: int) -> Transform:
    """I32 or I64 to I32. Raises CannotConvert for a number that is not from 0 up to `count`: it is not in a header."""
    width = INTEGER_WIDTHS[dtype]
    return Transform(width, INTEGER_WIDTHS["I32"], partial(_to_i32, width, name, count))


def widen(dtype: str, content: bytes) -> bytes:
    """F32 for numbers of any dtype of WIDTHS."""
    return content if dtype == "F32" else _bf16_to_f32(content) if dtype == "BF16" else _f16_to_f32(content)


def add(dtype: str, offset: float) -> Transform:
    """Adds an offset to each number, in F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_add, dtype, _rounded("<f", offset)))


def scale(dtype: str, factors: tuple[float, ...], output: str | None = None) -> Transform:
    """Multiplies each number by each factor in turn, rounding to F32 after each step.

    `output` is the dtype of the results: F32, or the input's own, which is the default.
    """
    rounded = tuple(_rounded("<f", factor) for factor in factors)
    output = output or dtype
    return Transform(WIDTHS[dtype], WIDTHS[output], partial(_scale, dtype, output, rounded))


def multiply(dtype: str, factor: float) -> Transform:
    """Multiplies each number by `factor` in 64 bits and rounds once, to F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_multiply, dtype, factor))


def exponential(dtype: str, sign: int) -> Transform:
    """The exponential of each number, times `sign` (1 or -1), in F32. torch's sometimes differs in the last bit."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_exponential, dtype, sign))


def softplus(dtype: str) -> Transform:
    """The logarithm of 1 + exp(x) for each number x, in F32, rounded as torch rounds it."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_softplus, dtype))


def pick_part(size: int, count: int, index: int) -> Transform:
    """Keeps part `index` (from 0) of each `count` parts of `size` bytes."""
    return Transform(count * size, size, partial(_pick_part, size, count, index))


def repack_mxfp4(groups: int, count: int, index: int) -> Transform:
    """Repacks OpenAI's MXFP4 as ggml's, keeping row `index` of each `count` rows. A row has `groups` blocks.

    OpenAI stores scales in a tensor of their own, and neighbouring numbers in one byte. ggml stores the scale in front
    of a block's 16 bytes, and number 0 beside number 16, 1 beside 17, … A call gets the scales, then the blocks.
    """
    input_row, output_row = groups * MXFP4_BYTES, groups * (1 + MXFP4_BYTES)
    return Transform(count * input_row, output_row, partial(_repack_mxfp4, groups, count, index))


def chain(transforms: Sequence[Transform]) -> Transform | None:
    """Applies the transforms in order; None for an empty sequence."""
    if not transforms:
        return None
    first, *others = transforms
    for second in others:
        between = math.lcm(first.output_block, second.block)
        block, output_block = between // first.output_block * first.block, between // second.block * second.output_block
        if first.portions:
            first = portioned(block, output_block, partial(_portions, first.portions, second))
        else:
            first = Transform(block, output_block, partial(_chain, first.change, second.change))
    return first


def portioned(block: int, output_block: int, portions: Callable[[bytes], Iterator[bytes]]) -> Transform:
    """Makes the output in portions (`Transform.portions`)."""
    return Transform(block, output_block, partial(_joined, portions), portions)


def _chain(first: Callable[[bytes], bytes], second: Callable[[bytes], bytes], content: bytes) -> bytes:
    return second(first(content))


def _portions(first: Callable[[bytes], Iterator[bytes]], second: Transform, content: bytes) -> Iterator[bytes]:
    held = b""
    for portion in first(content):
        held += portion
        whole = len(held) - len(held) % second.block
        if whole:
            yield second.change(held[:whole])
            held = held[whole:]


def _joined(portions: Callable[[bytes], Iterable[bytes]], content: bytes) -> bytes:
    return b"".join(portions(content))


def _each_block(size: int, change: Callable[[bytes], bytes], content: bytes) -> bytes:
    return b"".join(change(content[start : start + size]) for start in range(0, len(content), size))


def _interleave(row_size: int, parts: int, block: bytes) -> bytes:
    part_size = len(block) // parts
    return b"".join(
        block[start : start + row_size]
        for offset in range(0, part_size, row_size)
        for start in range(offset, len(block), part_size)
    )


def _interleave_start(row_size: int, size: int, block: bytes) -> bytes:
    return _interleave(row_size, 2, block[:size]) + block[size:]


def _transpose(columns: int, selected: range, code: _Code, matrix: bytes) -> bytes:
    numbers = memoryview(matrix).cast(code)
    return b"".join(numbers[column::columns].tobytes() for column in selected)


def _pick_part(size: int, count: int, index: int, content: bytes) -> bytes:
    code = _CODES.get(size)
    if code is not None:
        return array(code, content)[index::count].tobytes()
    return b"".join(content[start : start + size] for start in range(index * size, len(content), count * size))


def _repack_mxfp4(groups: int, count: int, index: int, content: bytes) -> bytes:
    # This needs numpy, whose import takes 0.1 s.
    from proxy.gguf.packing.halves import repack_mxfp4

    return repack_mxfp4(groups, count, index, content)


def _bf16_to_f32(content: bytes) -> bytes:
    wide = bytearray(2 * len(content))  # a BF16 is the upper half of an F32
    wide[2::4], wide[3::4] = content[0::2], content[1::2]
    return bytes(wide)


def _f16_to_f32(content: bytes) -> bytes:
    count = len(content) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", content))


def _to_i32(width: int, name: str, count: int, content: bytes) -> bytes:
    numbers = array("i" if width == INTEGER_WIDTHS["I32"] else "q", content)
    if wrong := next((one for one in (min(numbers), max(numbers)) if not 0 <= one < count), None):
        raise CannotConvert(f"{name} has the number {wrong}, not one from 0 to {count - 1}")
    return array("i", numbers).tobytes()


def _add(dtype: str, offset: float, content: bytes) -> bytes:
    return _each_number(dtype, content, lambda number: number + offset)


def _multiply(dtype: str, factor: float, content: bytes) -> bytes:
    return _each_number(dtype, content, lambda number: number * factor)


def _exponential(dtype: str, sign: int, content: bytes) -> bytes:
    # Above 88 the exponential is beyond the range of F32.
    return _each_number(dtype, content, lambda number: sign * (math.exp(number) if number < 88 else math.inf))  # noqa: PLR2004


def _softplus(dtype: str, content: bytes) -> bytes:
    # This needs numpy, whose import takes 0.1 s.
    from proxy.gguf.packing.softplus import softplus_of

    return softplus_of(widen(dtype, content))


def _each_number(dtype: str, content: bytes, change: Callable[[float], float]) -> bytes:
    wide = widen(dtype, content)
    count = len(wide) // 4
    return struct.pack(f"<{count}f", *map(change, struct.unpack(f"<{count}f", wide)))


def _scale(dtype: str, output: str, factors: tuple[float, ...], content: bytes) -> bytes:
    if dtype == "F32":
        numbers = _products(struct.unpack(f"<{len(content) // 4}f", content), factors)
        return struct.pack(f"<{len(numbers)}f", *numbers)
    table = _product_bits(dtype, output, factors)
    return array(_CODES[WIDTHS[output]], [table[bits] for bits in array("H", content)]).tobytes()


def _products(numbers: Sequence[float], factors: tuple[float, ...]) -> Sequence[float]:
    for factor in factors:
        numbers = [_rounded("<f", number * factor) for number in numbers]
    return numbers


@lru_cache(maxsize=32)
def _product_bits(dtype: str, output: str, factors: tuple[float, ...]) -> Sequence[int]:
    """The bits of the product, calculated in F32, for each of the 65,536 numbers of a 16-bit dtype."""
    content = array("H", range(1 << 16)).tobytes()
    wide = _bf16_to_f32(content) if dtype == "BF16" else _f16_to_f32(content)
    numbers = _products(struct.unpack("<65536f", wide), factors)
    if output == "F16":
        return array("H", struct.pack("<65536e", *(_rounded("<e", number) for number in numbers)))
    f32_bits = array("I", struct.pack("<65536f", *numbers))
    return f32_bits if output == "F32" else [_f32_to_bf16_bits(bits) for bits in f32_bits]


def _f32_to_bf16_bits(bits: int) -> int:
    """Rounds to the nearest BF16, ties to even."""
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def _rounded(code: str, number: float) -> float:
    """`number` rounded to the format of a struct code."""
    try:
        return float(struct.unpack(code, struct.pack(code, number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)
