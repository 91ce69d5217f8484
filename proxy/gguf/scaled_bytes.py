"""Tensors of one byte a number, each number multiplied by a scale: FP8 and INT8. Pure.

The scales are a tensor of their own: one number for the whole tensor, for each matrix, for each row, or for each block
of rows and columns. A product is rounded once, to F32, as in transformers and in llama.cpp's converter
(`dequant_simple` in conversion/base.py, b11434).
"""

import struct
from array import array
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from math import ceil, nan, prod
from typing import NamedTuple

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_sources import PackedTensor, SourceRange, SourceTensor
from proxy.gguf.transforms import Transform, chain, widen

try:
    from proxy.gguf._kernel import scale_bytes as _scale_bytes
except ImportError:
    _scale_bytes = None  # type: ignore[assignment]

SCALE_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E8M0": 1}
"""Bytes of a scale, by its safetensors dtype."""
_F32 = 4


def _e4m3(bits: int) -> float:
    """The format without infinities (float8_e4m3fn)."""
    exponent, fraction = bits >> 3 & 0xF, bits & 0x7
    is_nan = bits & 0x7F == 0x7F  # noqa: PLR2004 - all bits but the sign
    size = nan if is_nan else (fraction + 8 * (exponent > 0)) * 2.0 ** (max(exponent, 1) - 10)
    return -size if bits & 0x80 else size


def _e5m2(bits: int) -> float:
    """The upper byte of an F16."""
    return float(struct.unpack("<e", bytes((0, bits)))[0])


NUMBERS: Mapping[str, tuple[float, ...]] = {
    "F8_E4M3": tuple(map(_e4m3, range(256))),
    "F8_E5M2": tuple(map(_e5m2, range(256))),
    "I8": tuple(float(bits - (bits & 0x80) * 2) for bits in range(256)),
}
"""The number of each byte, by its safetensors dtype."""
FORMS = {"F8_E4M3": "FP8", "F8_E5M2": "FP8", "I8": "INT8"}


class Grid(NamedTuple):
    """Which numbers of a tensor share a scale: those of a group of `rows` rows, and there of `columns` columns."""

    rows: int
    columns: int
    width: int
    """Numbers in a row of the tensor."""
    matrix_rows: int
    """A group ends at the last of so many rows, also if it has fewer rows than others."""

    @property
    def scales(self) -> int:
        """Scales of a group."""
        return ceil(self.width / self.columns)

    def group(self, row: int) -> int:
        """The number of the group that a row is in."""
        matrix, inside = divmod(row, self.matrix_rows)
        return matrix * ceil(self.matrix_rows / self.rows) + inside // self.rows

    def groups(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The rows from `first` up to `stop` in pieces: as many whole groups as there are, and parts of a group."""
        for start, end in self.matrices(first, stop):
            row = start
            while row < end:
                inside = row % self.matrix_rows % self.rows
                is_part = inside or end - row < self.rows
                after = min(end, row + self.rows - inside) if is_part else end - (end - row) % self.rows
                yield row, after
                row = after

    def matrices(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The rows from `first` up to `stop` in pieces that end where groups end in any case."""
        while first < stop:
            end = min(stop, first - first % self.matrix_rows + self.matrix_rows)
            yield first, end
            first = end


class ScaledBytes(PackedTensor):
    """The numbers are in `source`, a tensor of the file at `path`; their scales may be in another file."""

    def __init__(self, path: str, source: SourceTensor, scale_path: str, scales: SourceTensor, grid: Grid) -> None:
        super().__init__(FORMS[source.dtype], source.shape, source.start)
        self._path, self._source = path, source
        self._scale_path, self._scales = scale_path, scales
        self._grid = grid

    def unpack(self, piece: SourceRange) -> Iterator[SourceRange]:
        row_size = _F32 * self._grid.width
        first, stop = ((offset - self.start) // row_size for offset in (piece.start, piece.stop))
        # The step after this one may need blocks that end in the middle of a group.
        for pieces, is_one_block in ((self._grid.groups, False), (self._grid.matrices, True)):
            ranges = [self._range(*rows, piece.transform, is_one_block=is_one_block) for rows in pieces(first, stop)]
            if all((one.stop - one.start) % one.transform.block == 0 for one in ranges if one.transform):
                yield from ranges
                return
        raise CannotConvert(
            f"a tensor of the shape {list(self.shape)} has scales for each {self._grid.rows} rows, which do not fit "
            "the order in which llama.cpp wants its rows"
        )

    def _range(self, first: int, stop: int, after: Transform | None, *, is_one_block: bool) -> SourceRange:
        grid, count = self._grid, stop - first
        scale_size = SCALE_BYTES[self._scales.dtype] * grid.scales
        group, last = grid.group(first), grid.group(stop - 1)
        beside_start = self._scales.start + group * scale_size
        beside = SourceRange(self._scale_path, beside_start, self._scales.start + (last + 1) * scale_size)
        is_whole = group == last and not is_one_block
        rows = count if is_one_block else 1 if is_whole else grid.rows
        fixed = beside.size if is_one_block or is_whole else 0
        skipped = first % grid.matrix_rows % grid.rows if is_one_block else 0
        layout = _Layout(self._source.dtype, self._scales.dtype, grid, fixed, skipped)
        step = Transform(rows * grid.width, _F32 * rows * grid.width, partial(_products, layout), is_whole)
        start = self._source.start
        transform = chain([step] if after is None else [step, after])
        return SourceRange(self._path, start + first * grid.width, start + stop * grid.width, transform, beside)


def find_grid(name: str, shape: tuple[int, ...], scales: SourceTensor, block: tuple[int, int] | None) -> Grid:
    """`block`: the rows and columns that share a scale. Raises CannotConvert if the scales do not fit the shape."""
    if len(shape) > 1 and scales.dtype in SCALE_BYTES:
        *stack, rows, width = shape
        all_rows = prod(shape[:-1])
        counts = list(scales.shape)
        while counts and counts[-1] == 1:
            counts.pop()
        if prod(counts) == 1:
            return Grid(all_rows, width, width, all_rows)
        if counts == [*stack, rows]:
            return Grid(1, width, width, all_rows)
        if counts == stack:
            return Grid(rows, width, width, all_rows)
        if block and list(scales.shape) == [*stack, ceil(rows / block[0]), ceil(width / block[1])]:
            return Grid(*block, width, rows if rows % block[0] else all_rows)
    raise CannotConvert(
        f"{name} has the shape {list(shape)}, and its scales ({scales.dtype}) have {list(scales.shape)}: they do not "
        "fit each other"
    )


class _Layout(NamedTuple):
    """What a transform gets: scales, then rows of numbers."""

    dtype: str
    scale_dtype: str
    grid: Grid
    fixed: int
    """Bytes of the scales; 0 where each group of rows comes with its own."""
    skipped: int
    """Rows at the beginning of the first group that are not there."""


def _products(layout: _Layout, content: bytes) -> bytes:
    grid, share = layout.grid, SCALE_BYTES[layout.scale_dtype] * layout.grid.scales
    size = layout.fixed or len(content) // (share + grid.rows * grid.width) * share
    scales, numbers = _as_f32(layout.scale_dtype, content[:size]), content[size:]
    return (
        _scale_in_python(layout, numbers, array("f", scales))
        if _scale_bytes is None
        else _scale_bytes(_table(layout.dtype), numbers, scales, grid.width, grid.rows, grid.columns, layout.skipped)
    )


def _as_f32(dtype: str, content: bytes) -> bytes:
    if dtype != "F8_E8M0":
        return widen(dtype, content)
    return array("f", [2.0 ** (bits - 127) if bits < 0xFF else nan for bits in content]).tobytes()  # noqa: PLR2004


@lru_cache
def _table(dtype: str) -> bytes:
    return array("f", NUMBERS[dtype]).tobytes()


def _scale_in_python(layout: _Layout, content: bytes, scales: "array[float]") -> bytes:
    """One byte of all products at a time, by tables."""
    grid, skipped = layout.grid, layout.skipped
    products = bytearray(_F32 * len(content))
    row, rows = 0, len(content) // grid.width
    while row < rows:
        group = (skipped + row) // grid.rows
        # Neighbouring rows are one piece if each has only one scale.
        count = min((group + 1) * grid.rows - skipped, rows) - row if grid.scales == 1 else 1
        for index in range(grid.scales):
            start = row * grid.width + index * grid.columns
            stop = min(start + count * grid.columns, (row + count) * grid.width)
            for place, table in enumerate(_product_tables(layout.dtype, scales[group * grid.scales + index])):
                products[_F32 * start + place : _F32 * stop : _F32] = content[start:stop].translate(table)
        row += count
    return bytes(products)


@lru_cache(maxsize=1024)
def _product_tables(dtype: str, scale: float) -> tuple[bytes, ...]:
    """For each of the four bytes of a product: its value for each byte of the tensor."""
    products = array("f", [number * scale for number in NUMBERS[dtype]]).tobytes()
    return tuple(products[place::_F32] for place in range(_F32))
