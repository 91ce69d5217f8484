"""How F32 rows are made from the bytes of packed tensors, a few rows at a time. Pure."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_sources import BesideRange, LocatedTensor, PackedTensor, SourceRange
from proxy.gguf.transforms import Transform, chain, portioned

Located = Mapping[str, LocatedTensor]
"""All tensors of a repository, by name."""
Array = NDArray[Any]

_F32 = 4
_LARGE = 1 << 22
"""Bytes of a group of rows that is not decoded at once, if its rows need not be."""
_PORTION = 1 << 19
"""Numbers of a transposed matrix that are decoded at a time."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """A packed tensor, and what it takes the place of."""

    name: str
    """What families expect, such as `model.layers.0.mlp.up_proj.weight`."""
    path: str
    """The file that it counts as being in."""
    tensor: PackedTensor
    replaced: tuple[str, ...]
    """The names of the tensors that it is made from."""


class Companion(msgspec.Struct, frozen=True, gc=False):
    """A tensor that belongs to the numbers of another, such as their scales."""

    tensor: LocatedTensor
    group_size: int = 0
    """Its bytes for a group of rows. 0: a decoder gets all of its bytes each time."""


class RowSlice(NamedTuple):
    """Some rows of a tensor whose groups of rows share scales."""

    rows: int
    skipped: int
    """Rows at the beginning of the first group that are not among them."""

    def groups(self, rows: int) -> Array:
        """The group of each row, if each has so many rows; the first is 0."""
        return (self.skipped + np.arange(self.rows)) // rows


DecodeRows = Callable[[RowSlice, memoryview, Sequence[memoryview]], bytes]
"""Makes F32 rows from their numbers and the bytes of each companion, from the first of their groups to the last."""
DecodeMatrix = Callable[[memoryview, Sequence[memoryview], range], bytes]
"""Makes the F32 rows that the range has from all numbers and all bytes of each companion."""


@lru_cache(maxsize=1024)
def decoder(decode: Callable[..., bytes], layout: Hashable) -> Callable[..., bytes]:
    """`decode` with its first argument. Cached: tens of thousands of experts share one, so that a plan stays small."""
    return partial(decode, layout)


class RowGroups(NamedTuple):
    """The groups of rows of a tensor that share their companions' bytes: `rows` consecutive rows each."""

    decode: DecodeRows
    rows: int
    matrix_rows: int
    """A group ends at the last of so many rows, also if it has fewer rows than others."""
    are_alike: bool = True
    """Whether a row is decoded alike at each place in its group."""

    def number(self, row: int) -> int:
        """The number of the group that a row is in."""
        matrix, inside = divmod(row, self.matrix_rows)
        return matrix * -(-self.matrix_rows // self.rows) + inside // self.rows

    def skipped(self, row: int) -> int:
        """The rows before it in its group."""
        return row % self.matrix_rows % self.rows

    def split(self, first: int, stop: int, *, one_by_one: bool = False) -> Iterator[tuple[int, int]]:
        """The rows from `first` up to `stop` in pieces: as many whole groups as there are, and parts of a group."""
        for start, end in self.matrices(first, stop):
            row = start
            while row < end:
                inside = self.skipped(row)
                is_one = one_by_one or inside or end - row < self.rows
                after = min(end, row + self.rows - inside) if is_one else end - (end - row) % self.rows
                yield row, after
                row = after

    def matrices(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The rows from `first` up to `stop` in pieces that end where groups end in any case."""
        while first < stop:
            end = min(stop, first - first % self.matrix_rows + self.matrix_rows)
            yield first, end
            first = end


class PackedRows(PackedTensor):
    """A tensor whose rows follow each other in `numbers`, each in equally many bytes. A decoder can be pickled."""

    __slots__ = ("_companions", "_numbers", "_rows")

    def __init__(
        self,
        form: str,
        shape: tuple[int, ...],
        numbers: LocatedTensor,
        companions: Sequence[Companion],
        groups: RowGroups,
    ) -> None:
        """Raises CannotConvert if the numbers do not fill the rows."""
        rows, size = prod(shape[:-1]), numbers.size
        if not rows or size % rows:
            raise CannotConvert(f"{numbers.name} has {size} bytes for {rows} rows, which do not fit each other")
        super().__init__(form, shape, numbers.source.start)
        self._numbers, self._companions = numbers, tuple(one.tensor for one in companions)
        sizes = tuple((one.group_size, one.tensor.size) for one in companions)
        self._rows = _shared(_Rows(groups, size // rows, shape[-1], sizes))

    def unpack(self, piece: SourceRange) -> Iterator[SourceRange]:
        row_size = _F32 * self.shape[-1]
        first, stop = (piece.start - self.start) // row_size, (piece.stop - self.start) // row_size
        path, start = self._numbers.path, self._numbers.source.start
        cuts = _cuts(self._rows, first, stop, piece.transform)
        if cuts is None:
            raise CannotConvert(
                f"a tensor of the shape {list(self.shape)} has scales for each {self._rows.groups.rows} rows, which do "
                "not fit the order in which llama.cpp wants its rows"
            )
        for cut in cuts:
            pairs = zip(self._companions, cut.beside, strict=True)
            beside = [one.beside(part.start, part.stop, size=1, is_whole=part.is_whole) for one, part in pairs]
            yield SourceRange(path, start + cut.start, start + cut.stop, cut.transform, tuple(beside))


class PackedMatrix(PackedTensor):
    """A matrix of `shape` that is stored transposed, so that each of its rows needs all `numbers`."""

    __slots__ = ("_companions", "_decode", "_numbers")

    def __init__(
        self,
        form: str,
        shape: tuple[int, int],
        numbers: LocatedTensor,
        decode: DecodeMatrix,
        companions: Sequence[LocatedTensor] = (),
    ) -> None:
        super().__init__(form, shape, numbers.source.start)
        self._numbers, self._decode, self._companions = numbers, decode, tuple(companions)

    def unpack(self, piece: SourceRange) -> Iterator[SourceRange]:
        width, source = self.shape[-1], self._numbers.source
        first, stop = ((offset - self.start) // (_F32 * width) for offset in (piece.start, piece.stop))
        sizes = tuple(one.size for one in self._companions)
        portions = partial(_decode_matrix, self._decode, sizes, range(first, stop), max(_PORTION // width, 1))
        size = self._numbers.size
        step = portioned(size, piece.stop - piece.start, portions)
        transform = chain([step] if piece.transform is None else [step, piece.transform])
        if transform is None or transform.block != size:
            raise CannotConvert(
                f"{self._numbers.name} is stored transposed, which does not fit the order in which llama.cpp wants "
                "its rows"
            )
        beside = [BesideRange(one.path, one.source.start, one.source.stop, is_whole=True) for one in self._companions]
        yield SourceRange(self._numbers.path, source.start, source.stop, transform, tuple(beside))


class _Rows(msgspec.Struct, frozen=True, gc=False):
    """What tensors that are cut alike have in common."""

    groups: RowGroups
    size: int
    """Bytes of the numbers of a row."""
    width: int
    companions: tuple[tuple[int, int], ...]
    """For each companion `group_size`, and all its bytes."""


@lru_cache(maxsize=1024)
def _shared(rows: _Rows) -> _Rows:
    """One object for equal ones: tens of thousands of experts share a few."""
    return rows


@lru_cache(maxsize=1024)
def _cuts(rows: _Rows, first: int, stop: int, after: Transform | None) -> list[SourceRange] | None:
    """The ranges that make the rows from `first` up to `stop`; None if `after` needs other blocks.

    They name no file, and count from the start of each tensor. Cached: tens of thousands of experts share a few.
    """
    groups = rows.groups
    is_large = groups.are_alike and groups.rows * rows.size > _LARGE
    split = partial(groups.split, one_by_one=is_large)
    # The step after this one may need blocks that end in the middle of a group.
    for pieces, is_one_block in ((split, False), (groups.matrices, True)):
        cuts = [_cut_piece(rows, range(*piece), after, is_one_block=is_one_block) for piece in pieces(first, stop)]
        if all((one.stop - one.start) % one.transform.block == 0 for one in cuts if one.transform):
            return cuts
    return None


def _cut_piece(rows: _Rows, piece: range, after: Transform | None, *, is_one_block: bool) -> SourceRange:
    groups = rows.groups
    group, last = groups.number(piece.start), groups.number(piece.stop - 1)
    is_within_group = group == last and not is_one_block and groups.are_alike
    is_one_block = is_one_block or (group == last and not groups.are_alike)
    is_whole = is_within_group or is_one_block
    beside = [
        BesideRange("", group * size, min((last + 1) * size, total) if size else total, is_whole or not size)
        for size, total in rows.companions
    ]
    layout = _Layout(
        len(piece) if is_one_block else 1 if is_within_group else groups.rows,
        groups.skipped(piece.start) if is_one_block else 0,
        rows.size,
        tuple(
            one.stop - one.start if one.is_whole else -size
            for one, (size, _) in zip(beside, rows.companions, strict=True)
        ),
    )
    transform = _transform(groups.decode, layout, rows.width, after)
    return SourceRange("", piece.start * rows.size, piece.stop * rows.size, transform, tuple(beside))


@lru_cache(maxsize=1024)
def _transform(decode: DecodeRows, layout: "_Layout", width: int, after: Transform | None) -> Transform | None:
    """Cached, because ranges of many rows share a few."""
    size, output = layout.rows * layout.row_size, _F32 * layout.rows * width
    step = Transform(size, output, partial(_decode_rows, decode, layout))
    return chain([step] if after is None else [step, after])


class _Layout(NamedTuple):
    """What a transform gets: the bytes of each companion, then rows of numbers."""

    rows: int
    """Rows of a block."""
    skipped: int
    row_size: int
    """Bytes of the numbers of a row."""
    sizes: tuple[int, ...]
    """The bytes of each companion; below 0: as many for each block."""


def _decode_rows(decode: DecodeRows, layout: _Layout, content: bytes) -> bytes:
    fixed = sum(size for size in layout.sizes if size > 0)
    shares = sum(-size for size in layout.sizes if size < 0)
    blocks = (len(content) - fixed) // (layout.rows * layout.row_size + shares)
    companions, numbers = _cut(content, [size if size > 0 else -size * blocks for size in layout.sizes])
    return decode(RowSlice(blocks * layout.rows, layout.skipped), numbers, companions)


def _decode_matrix(
    decode: DecodeMatrix, sizes: Sequence[int], rows: range, step: int, content: bytes
) -> Iterator[bytes]:
    companions, numbers = _cut(content, sizes)
    for first in range(0, len(rows), step):
        yield decode(numbers, companions, rows[first : first + step])


def transposed(matrix: Array) -> Array:
    """A copy without gaps. The rows are copied to one place first: a stride of a power of two thrashes the cache."""
    return np.ascontiguousarray(matrix.copy().T)


def _cut(content: bytes, sizes: Sequence[int]) -> tuple[list[memoryview], memoryview]:
    """The bytes of each companion, and the rest."""
    view, start, companions = memoryview(content), 0, []
    for size in sizes:
        companions.append(view[start : start + size])
        start += size
    return companions, view[start:]
