"""The tensors of safetensors files, their byte ranges, and the tensors of a GGUF that come of these. Pure."""

from dataclasses import dataclass
from typing import Protocol

from proxy.gguf.tensors import TensorInfo, TensorName, TensorType
from proxy.gguf.transforms import Transform

TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
"""By what a safetensors file calls them."""
MATRIX = 2
"""Of how many dimensions it is."""


class SourceTensor(Protocol):
    """A tensor in a safetensors file: offsets count from the file's start."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SourceRange:
    """The bytes from offset `start` up to `stop` of a file, and what is made of them.

    Those of `beside` come before: each block has an equal share of them, which the transform gets before the block's.
    """

    path: str
    start: int
    stop: int
    transform: Transform | None = None
    beside: "SourceRange | None" = None

    @property
    def size(self) -> int:
        taken = self.stop - self.start
        return taken if self.transform is None else self.transform.size(taken)


@dataclass(frozen=True, slots=True)
class FixedBytes:
    """Bytes that stand in no file: a calculated tensor, or the zeros behind one that is not aligned."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class LocatedTensor:
    """Where a source tensor lies."""

    path: str
    name: str
    source: SourceTensor

    @property
    def rows(self) -> int:
        return self.source.shape[0] if self.source.shape else 0

    @property
    def row(self) -> int:
        """The bytes of one row."""
        return (self.source.stop - self.source.start) // self.rows if self.rows else 0

    def piece(self, first: int = 0, last: int | None = None, row: int | None = None) -> SourceRange:
        """The rows from `first` up to `last`."""
        row = self.row if row is None else row
        start = self.source.start + first * row
        return SourceRange(self.path, start, self.source.stop if last is None else self.source.start + last * row)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the GGUF and what it is made of; `shape` begins with the length of a row."""

    info: TensorInfo
    pieces: tuple[SourceRange | FixedBytes, ...]
    sources: int = 1
    exact: tuple[SourceRange, ...] | None = None
    """The same in F32, of what is calculated and rounded to the tensor's type."""

    @property
    def block(self) -> int | None:
        return TensorName.of(self.info.name).block
