"""Large GGUFs come in parts (`llama-gguf-split`), which each Ollama takes in another way: how to join them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.gguf.header import Field, GgufHeader, write_header
from proxy.gguf.tensors import GgufError, TensorInfo, lay_out, padding, shown

NUMBER = "split.no"
COUNT = "split.count"
TENSORS = "split.tensors.count"

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(?i:gguf)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class SplitName:
    """What a part's name says. `number` counts from 1, while `split.no` inside the file counts from 0."""

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
    """The bytes from offset `start` up to `stop` of a part's file; `shard` is the part's place, from 0."""

    shard: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Padding:
    """So many zero bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Merged:
    """A whole file: its header's bytes, then the pieces in order."""

    header: bytes
    pieces: tuple[ShardRange | Padding, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.size for piece in self.pieces)


def merge(headers: Sequence[GgufHeader]) -> Merged:
    """The file that the parts with these headers, in order, were made of. Raises GgufError where they do not fit."""
    alignment, tensors = check_parts(headers), tensors_of(headers)
    pieces: list[ShardRange | Padding] = []
    for shard, header in enumerate(headers):
        pieces += _pieces(shard, header, alignment)
    # Ollama and llama.cpp refuse a layout with gaps or out of order: "has offset …, expected".
    return Merged(write_header(whole_metadata(headers[0]), lay_out(tensors, alignment)), tuple(pieces))


def check_parts(headers: Sequence[GgufHeader]) -> int:
    """The alignment of the parts, in bytes. Raises GgufError where they do not fit each other."""
    _check_numbers(headers)
    alignment = _common_alignment(headers)
    _check_tensors(headers, tensors_of(headers))
    return alignment


def tensors_of(headers: Sequence[GgufHeader]) -> list[TensorInfo]:
    return [tensor for header in headers for tensor in header.tensors]


def whole_metadata(first: GgufHeader) -> dict[str, Field]:
    """What a whole file says, out of its first part. llama-gguf-split leaves `split.count` as 0."""
    return {key: field for key, field in first.metadata.items() if not key.startswith("split.")}


def _check_numbers(headers: Sequence[GgufHeader]) -> None:
    if not headers:
        raise GgufError("there are no parts to join")
    for place, header in enumerate(headers):
        number, count = header.get(NUMBER, int), header.get(COUNT, int)
        if number != place:
            raise GgufError(f"part {place + 1} of {len(headers)} has the {NUMBER} {number} instead of {place}")
        # llama.cpp looks for both counts in the first part only.
        if count != len(headers) and (count is not None or place == 0):
            raise GgufError(f"part {place + 1} says that there are {count} parts, not {len(headers)}")


def _common_alignment(headers: Sequence[GgufHeader]) -> int:
    """Writers disagree where a part without metadata begins its data if the first has an alignment of its own."""
    first = headers[0].alignment
    for place, header in enumerate(headers):
        if header.alignment != first:
            raise GgufError(f"part {place + 1} is aligned to {header.alignment} bytes, the first to {first}")
    return first


def _check_tensors(headers: Sequence[GgufHeader], tensors: Sequence[TensorInfo]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise GgufError(f"two parts have the tensor {shown(tensor.name)}")
        names.add(tensor.name)
    for place, header in enumerate(headers):
        expected = header.get(TENSORS, int)
        if expected != len(tensors) and (expected is not None or place == 0):
            raise GgufError(f"the parts have {len(tensors)} tensors, but part {place + 1} speaks of {expected}")


def _pieces(shard: int, header: GgufHeader, alignment: int) -> list[ShardRange | Padding]:
    """One piece where the tensors lie as they shall, with what lies between them; else one for each run that does."""
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
        # A part's file need not have the bytes behind its last tensor.
        run.append(Padding(gap))
    return run
