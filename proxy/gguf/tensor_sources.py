"""Tensors of safetensors files, their byte ranges, and the GGUF tensors that are built from them. Pure.

A mixture of experts has hundreds of thousands of tensors and ranges. As msgspec's structs, they are made, hashed and
pickled in a fraction of the time that dataclasses need.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

import msgspec

from proxy.gguf.tensors import TensorInfo, TensorName, TensorType
from proxy.gguf.transforms import WIDTHS, Transform, chain

TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
"""ggml's type for each safetensors dtype."""
MATRIX = 2
"""The number of dimensions of a matrix."""


class SourceTensor(Protocol):
    """A tensor in a safetensors file. Offsets count from the start of the file."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ReadTensor:
    """A small tensor whose bytes the plan has read."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    content: bytes


class BesideRange(msgspec.Struct, frozen=True, gc=False):
    """The bytes from offset `start` up to `stop` of a file, a second input for the transform of a range.

    They are split evenly among the blocks of the range; with `is_whole`, each call of the transform gets all of them.
    """

    path: str
    start: int
    stop: int
    is_whole: bool = False


class SourceRange(msgspec.Struct, frozen=True, gc=False):
    """The bytes from offset `start` up to `stop` of a file, and their transform.

    The ranges `beside` are read first. A call of the transform gets its bytes of each of them, then its blocks.
    """

    path: str
    start: int
    stop: int
    transform: Transform | None = None
    beside: tuple[BesideRange, ...] = ()
    packed: "PackedTensor | None" = None
    """If set, the offsets count the F32 numbers that are calculated from this tensor."""

    @property
    def size(self) -> int:
        length = self.stop - self.start
        return length if self.transform is None else self.transform.size(length)

    def then(self, steps: Sequence[Transform]) -> "SourceRange":
        """The same range with more steps after its transform."""
        if not steps:
            return self
        first = () if self.transform is None else (self.transform,)
        return SourceRange(self.path, self.start, self.stop, chain([*first, *steps]), self.beside, self.packed)


@dataclass(frozen=True, slots=True)
class FixedBytes:
    """Bytes that are in no file: a calculated tensor, or padding."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


class Repacked(NamedTuple):
    """Rows of a packed tensor in a type of ggml, whose numbers and scales are those of the repository, bit for bit."""

    ranges: tuple[SourceRange, ...]
    scale: SourceRange
    """One F32 number, with which all of them are multiplied."""
    input_scale: SourceRange | None
    """One F32 number, for what the rows are multiplied with."""


class Mxfp4Pieces(NamedTuple):
    """Rows of MXFP4, in pieces that need few scales at once."""

    kept: tuple[SourceRange, ...]
    """In ggml's blocks, with the numbers and scales of the repository, bit for bit."""
    f32: tuple[SourceRange, ...]
    """The F32 numbers that they stand for."""


class PackedTensor(ABC):
    """A tensor that is stored quantized. A family's rules see the F32 numbers that it stands for."""

    __slots__ = ("form", "shape", "start", "stop")
    dtype = "F32"

    def __init__(self, form: str, shape: tuple[int, ...], start: int) -> None:
        """`form` names how it is stored. `start` is its offset in the file: tensors are made in this order."""
        self.form = form
        self.shape = shape
        self.start = start
        self.stop = start + WIDTHS[self.dtype] * prod(shape)

    @abstractmethod
    def unpack(self, piece: SourceRange) -> Iterator[SourceRange]:
        """The ranges of the file that make `piece`, which is whole rows. Raises CannotConvert."""

    def repack(self, piece: SourceRange) -> Repacked | None:  # noqa: ARG002 - for those that can
        """`piece`, which is whole rows, in NVFP4; None if it is stored in another way. Raises CannotKeep."""
        return None

    def in_mxfp4(self) -> Mxfp4Pieces | None:
        """All of it; None if it is stored in another way."""
        return None


def unpacked(piece: SourceRange | FixedBytes) -> Iterator[SourceRange | FixedBytes]:
    """The ranges of the file that make a piece. Raises CannotConvert."""
    if isinstance(piece, SourceRange) and piece.packed is not None:
        yield from piece.packed.unpack(piece)
    else:
        yield piece


class LocatedTensor(msgspec.Struct, frozen=True, gc=False):
    """A source tensor with its file and name."""

    path: str
    name: str
    source: SourceTensor

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def size(self) -> int:
        """In bytes."""
        return self.source.stop - self.source.start

    @property
    def row_count(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def row_size(self) -> int:
        """Bytes per row."""
        return self.size // self.row_count if self.row_count else 0

    def rows(self, first: int = 0, stop: int | None = None, *, size: int | None = None) -> SourceRange:
        """The rows from `first` up to `stop`, each `size` bytes long; by default all rows."""
        size = self.row_size if size is None else size
        start = self.source.start + first * size
        end = self.source.stop if stop is None else self.source.start + stop * size
        return SourceRange(self.path, start, end, packed=self.source if isinstance(self.source, PackedTensor) else None)

    def beside(self, first: int, stop: int, *, size: int, is_whole: bool = False) -> BesideRange:
        """The rows from `first` up to `stop`, each `size` bytes long, beside another range."""
        start = self.source.start
        return BesideRange(self.path, start + first * size, start + stop * size, is_whole)


class MatchedTensor(LocatedTensor, frozen=True, gc=False):
    """A source tensor with the parts of its name that its new names keep.

    `numbers` are the numbers in the name, such as the layer; `suffix` is `.weight` or `.bias`.
    """

    numbers: tuple[int, ...]
    suffix: str

    def new_name(self, pattern: str) -> str:
        return pattern.format(*self.numbers) + self.suffix


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the GGUF and the pieces that make up its data; `info.shape` begins with the length of a row."""

    info: TensorInfo
    pieces: tuple[SourceRange | FixedBytes, ...]
    in_source_order: bool = True
    """False where the tensor has several ranges, or shares a range with another: then ranges are not read in order."""
    f32_pieces: tuple[SourceRange, ...] | None = None
    """The pieces of a calculated or a quantized tensor in F32: what a quantizer gets."""

    @property
    def block(self) -> int | None:
        return TensorName.of(self.info.name).block

    @property
    def is_in_order(self) -> bool:
        """Whether its ranges are read in the order of the file. Scales are read before their tensor."""
        return self.in_source_order and not any(isinstance(one, SourceRange) and one.packed for one in self.pieces)
