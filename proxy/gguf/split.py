"""Merges the parts of a split GGUF (`llama-gguf-split`): Ollama versions differ in how they take parts. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.gguf.foreign import without_misleading_name
from proxy.gguf.header import Field, GgufHeader, write_header
from proxy.gguf.tensors import GgufError, TensorInfo, lay_out, padding, shown

NUMBER = "split.no"
COUNT = "split.count"
TENSORS = "split.tensors.count"

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(?i:gguf)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class SplitName:
    """The fields of a part's file name. `number` counts from 1, but `split.no` inside the file counts from 0."""

    prefix: str
    number: int
    count: int

    @classmethod
    def parse(cls, name: str) -> "SplitName | None":
        """None for the name of a whole file."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        prefix, number, count = match[1], int(match[2]), int(match[3])
        return cls(prefix, number, count) if 1 <= number <= count else None


@dataclass(frozen=True, slots=True)
class ShardRange:
    """The bytes from offset `start` up to `stop` of a part's file; `shard` is the part's number, from 0."""

    shard: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Padding:
    """`size` zero bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class MergedGguf:
    """A whole file: the bytes of its header, then the pieces in order."""

    header: bytes
    pieces: tuple[ShardRange | Padding, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.size for piece in self.pieces)


def merge(headers: Sequence[GgufHeader]) -> MergedGguf:
    """The file that was split into parts with these headers. Raises GgufError if the parts do not fit together."""
    alignment, tensors = check_parts(headers), tensors_of(headers)
    pieces: list[ShardRange | Padding] = []
    for shard, header in enumerate(headers):
        pieces += _pieces(shard, header, alignment)
    # Ollama and llama.cpp refuse gaps and tensors out of order: "has offset …, expected".
    return MergedGguf(write_header(whole_metadata(headers[0]), lay_out(tensors, alignment)), tuple(pieces))


def check_parts(headers: Sequence[GgufHeader]) -> int:
    """The alignment of the parts, in bytes. Raises GgufError if the parts do not fit together."""
    _check_numbers(headers)
    alignment = _common_alignment(headers)
    _check_tensors(headers, tensors_of(headers))
    return alignment


def tensors_of(headers: Sequence[GgufHeader]) -> list[TensorInfo]:
    return [tensor for header in headers for tensor in header.tensors]


def whole_metadata(first: GgufHeader) -> dict[str, Field]:
    """The metadata of the whole file, from its first part. llama-gguf-split instead keeps `split.count` as 0."""
    metadata = without_misleading_name(first.metadata)
    return {key: field for key, field in metadata.items() if not key.startswith("split.")}


def _check_numbers(headers: Sequence[GgufHeader]) -> None:
    if not headers:
        raise GgufError("there are no parts to join")
    for index, header in enumerate(headers):
        number, count = header.get(NUMBER, int), header.get(COUNT, int)
        if number != index:
            raise GgufError(f"part {index + 1} of {len(headers)} has the {NUMBER} {number} instead of {index}")
        # llama.cpp reads both counts from the first part only.
        if count != len(headers) and (count is not None or index == 0):
            raise GgufError(f"part {index + 1} has the {COUNT} {count} instead of {len(headers)}")


def _common_alignment(headers: Sequence[GgufHeader]) -> int:
    """Parts must agree: writers differ in where a later part's data starts if the first part sets an alignment."""
    first = headers[0].alignment
    for number, header in enumerate(headers, 1):
        if header.alignment != first:
            raise GgufError(f"part {number} is aligned to {header.alignment} bytes, the first to {first}")
    return first


def _check_tensors(headers: Sequence[GgufHeader], tensors: Sequence[TensorInfo]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise GgufError(f"two parts have the tensor {shown(tensor.name)}")
        names.add(tensor.name)
    for number, header in enumerate(headers, 1):
        expected = header.get(TENSORS, int)
        if expected != len(tensors) and (expected is not None or number == 1):
            raise GgufError(f"part {number} has the {TENSORS} {expected} instead of {len(tensors)}")


def _pieces(shard: int, header: GgufHeader, alignment: int) -> list[ShardRange | Padding]:
    """One piece for each run of tensors without extra gaps, padding included. A regular part is one run."""
    pieces: list[ShardRange | Padding] = []
    start = stop = gap = 0
    for tensor in header.tensors:
        begin = header.data_start + tensor.offset
        if begin != stop + gap:
            pieces += _run(shard, start, stop, gap)
            start = begin
        stop = begin + tensor.size
        gap = padding(tensor.size, alignment)
    return pieces + _run(shard, start, stop, gap)


def _run(shard: int, start: int, stop: int, gap: int) -> list[ShardRange | Padding]:
    run: list[ShardRange | Padding] = []
    if start < stop:
        run.append(ShardRange(shard, start, stop))
    if gap:
        # A part's file may end without the padding after its last tensor.
        run.append(Padding(gap))
    return run
