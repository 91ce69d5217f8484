"""What a tensor's bytes go through on their way into a GGUF: changes of whole blocks. Pure.

Blocks do not depend on each other, so that several threads can change the parts of one tensor at once.
"""

import math
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import mul
from typing import Literal

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
"""The bytes of a number."""
MXFP4_BYTES = 16
"""Those of the 32 numbers of a block, without their scale."""

_Code = Literal["I", "H"]
_CODES: Mapping[int, _Code] = {4: "I", 2: "H"}
"""Of arrays, by the bytes of a number."""


@dataclass(frozen=True, slots=True)
class Transform:
    """Makes `made` bytes of each `block` bytes. `change` takes any number of whole blocks, in any thread."""

    block: int
    made: int
    change: Callable[[bytes], bytes]

    def size(self, size: int) -> int:
        """How many bytes are made of `size` bytes, which are whole blocks."""
        return size // self.block * self.made


def interleaved(row: int, rows: int, parts: int = 2) -> Transform:
    """Rows of `row` bytes, `rows` in a block of `parts`: row 0 of the first part, row 0 of the second, …, row 1, …"""
    size = row * rows
    return Transform(size, size, partial(_each_block, size, partial(_interleave, row, parts)))


def transposed(
    rows: int, columns: int, width: int, first: int = 0, taken: int | None = None, every: int = 1
) -> Transform:
    """Matrices of `rows` by `columns` numbers of `width` bytes, one behind the other, each transposed.

    Of the columns only one of each `every` from `first` on is taken, out of as many as `taken` says.
    """
    size = rows * columns * width
    kept = range(first, columns if taken is None else first + taken, every)
    change = partial(_transpose, columns, kept, _CODES[width])
    return Transform(size, rows * len(kept) * width, partial(_each_block, size, change))


def repeated(size: int, times: int) -> Transform:
    """Each block of `size` bytes so many times."""
    return Transform(size, size * times, partial(_each_block, size, partial(mul, times)))


def widened(dtype: str) -> Transform:
    """F16 and BF16 as F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], _from_bf16 if dtype == "BF16" else _from_f16)


def add_one(dtype: str) -> Transform:
    """One more than each number, in F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_increase, dtype))


def scaled(dtype: str, factors: tuple[float, ...], made: str | None = None) -> Transform:
    """Each number multiplied with one factor after the other, all of 32 bits; `made` is F32 or the same type again."""
    rounded = tuple(_rounded("<f", factor) for factor in factors)
    made = made or dtype
    return Transform(WIDTHS[dtype], WIDTHS[made], partial(_scale, dtype, made, rounded))


def multiplied(dtype: str, factor: float) -> Transform:
    """Each number times `factor`, in F32."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_multiply, dtype, factor))


def neg_exp(dtype: str) -> Transform:
    """The negative exponential of each number, in F32. torch's is off by the last bit now and then."""
    return Transform(WIDTHS[dtype], WIDTHS["F32"], partial(_exponential, dtype))


def picked(size: int, count: int, at: int) -> Transform:
    """The part `at` of each `count` parts of `size` bytes, the first being 0."""
    return Transform(count * size, size, partial(_pick, size, count, at))


def packed(groups: int, count: int, at: int) -> Transform:
    """Blocks of MXFP4 as ggml has them: the scale and 16 bytes, with number 0 beside number 16, 1 beside 17, …

    OpenAI's have neighbours in one byte, and their scales apart: a call gets a scale for each 16 bytes, before these.
    A row has `groups` of them; of each `count` rows it is the row `at` that is made.
    """
    return Transform(count * groups * MXFP4_BYTES, groups * (1 + MXFP4_BYTES), partial(_repack, groups, count, at))


def chained(transforms: Sequence[Transform]) -> Transform | None:
    """One after the other; None for none."""
    if not transforms:
        return None
    first, *others = transforms
    for second in others:
        between = math.lcm(first.made, second.block)
        first = Transform(
            between // first.made * first.block,
            between // second.block * second.made,
            partial(_chain, first.change, second.change),
        )
    return first


def _chain(first: Callable[[bytes], bytes], second: Callable[[bytes], bytes], content: bytes) -> bytes:
    return second(first(content))


def _each_block(size: int, change: Callable[[bytes], bytes], content: bytes) -> bytes:
    return b"".join(change(content[at : at + size]) for at in range(0, len(content), size))


def _interleave(row: int, parts: int, block: bytes) -> bytes:
    size, whole = len(block) // parts, len(block)
    return b"".join(block[start : start + row] for at in range(0, size, row) for start in range(at, whole, size))


def _transpose(columns: int, kept: range, code: _Code, matrix: bytes) -> bytes:
    numbers = memoryview(matrix).cast(code)
    return b"".join(numbers[column::columns].tobytes() for column in kept)


def _pick(size: int, count: int, at: int, content: bytes) -> bytes:
    code = _CODES.get(size)
    if code is not None:
        return array(code, content)[at::count].tobytes()
    return b"".join(content[start : start + size] for start in range(at * size, len(content), count * size))


def _repack(groups: int, count: int, at: int, content: bytes) -> bytes:
    split = len(content) // (1 + MXFP4_BYTES)
    scales = _pick(groups, count, at, content[:split])
    halves = memoryview(_pick(groups * MXFP4_BYTES, count, at, content[split:])).cast("Q")
    size = MXFP4_BYTES // 2 * len(scales)
    first, last = (int.from_bytes(halves[half::2].tobytes(), "little") for half in (0, 1))
    low = int.from_bytes(b"\x0f" * size, "little")
    made = bytearray((1 + MXFP4_BYTES) * len(scales))
    made[:: 1 + MXFP4_BYTES] = scales
    for odd, numbers in enumerate((first & low | (last & low) << 4, first >> 4 & low | last & low << 4)):
        part = numbers.to_bytes(size, "little")
        for place in range(MXFP4_BYTES // 2):
            made[1 + 2 * place + odd :: 1 + MXFP4_BYTES] = part[place :: MXFP4_BYTES // 2]
    return bytes(made)


def _from_bf16(content: bytes) -> bytes:
    wide = bytearray(2 * len(content))  # a BF16 is the upper half of an F32
    wide[2::4], wide[3::4] = content[0::2], content[1::2]
    return bytes(wide)


def _from_f16(content: bytes) -> bytes:
    count = len(content) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", content))


def _increase(dtype: str, content: bytes) -> bytes:
    return _each(dtype, content, lambda number: number + 1)


def _multiply(dtype: str, factor: float, content: bytes) -> bytes:
    return _each(dtype, content, lambda number: number * factor)


def _exponential(dtype: str, content: bytes) -> bytes:
    # Beyond 88 the exponential leaves the range of F32.
    return _each(dtype, content, lambda number: -math.exp(number) if number < 88 else -math.inf)  # noqa: PLR2004


def _each(dtype: str, content: bytes, change: Callable[[float], float]) -> bytes:
    wide = content if dtype == "F32" else _from_bf16(content) if dtype == "BF16" else _from_f16(content)
    count = len(wide) // 4
    return struct.pack(f"<{count}f", *map(change, struct.unpack(f"<{count}f", wide)))


def _scale(dtype: str, made: str, factors: tuple[float, ...], content: bytes) -> bytes:
    if dtype == "F32":
        numbers = _multiplied(struct.unpack(f"<{len(content) // 4}f", content), factors)
        return struct.pack(f"<{len(numbers)}f", *numbers)
    products = _products(dtype, made, factors)
    return array(_CODES[WIDTHS[made]], [products[number] for number in array("H", content)]).tobytes()


def _multiplied(numbers: Sequence[float], factors: tuple[float, ...]) -> Sequence[float]:
    for factor in factors:
        numbers = [_rounded("<f", number * factor) for number in numbers]
    return numbers


@lru_cache(maxsize=32)
def _products(dtype: str, made: str, factors: tuple[float, ...]) -> Sequence[int]:
    """What each of the numbers that 16 bits can hold becomes, calculated in F32: its bits."""
    every = array("H", range(1 << 16)).tobytes()
    wide = _from_bf16(every) if dtype == "BF16" else _from_f16(every)
    numbers = _multiplied(struct.unpack("<65536f", wide), factors)
    if made == "F16":
        return array("H", struct.pack("<65536e", *(_rounded("<e", number) for number in numbers)))
    whole = array("I", struct.pack("<65536f", *numbers))
    return whole if made == "F32" else [_upper_half(bits) for bits in whole]


def _upper_half(bits: int) -> int:
    """Of an F32, rounded to the nearest BF16, and to the even one of two."""
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def _rounded(code: str, number: float) -> float:
    try:
        return float(struct.unpack(code, struct.pack(code, number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)
