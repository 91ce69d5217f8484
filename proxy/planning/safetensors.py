"""The header of a safetensors file: the type, the shape and the place of each tensor. Pure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Annotated

import msgspec

from proxy.errors import Refusal
from proxy.planning.file_kinds import check_pointer, substitute
from proxy.planning.json_files import UPLOAD_AGAIN

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
MAX_DIMENSIONS = 16
ELEMENT_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Field(msgspec.Struct, gc=False):
    """What a header says of a tensor."""

    dtype: str
    shape: Annotated[tuple[_Number, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Number, _Number]


# A model may have 200,000 tensors. This takes a fifth of the time of json and of checks in Python.
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_field = msgspec.json.Decoder(_Field).decode


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """`start` and `stop` are offsets into the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    content: bytes
    """The first bytes of the file: the length of the header, and the header."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name. Parsed at each call: the parsed headers of a hundred files would need too much memory."""
        return dict(_tensors(self.content))

    @property
    def size(self) -> int:
        """The offset of the data."""
        return len(self.content)


def header_size(where: str, first: bytes, file_size: int) -> int:
    """The size of the header in bytes, from the first eight bytes. Raises Refusal if it is not a safetensors file."""
    check_pointer(where, first)
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if len(first) < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, file_size - LENGTH_BYTES):
        what = substitute(first)
        instead = f", it is {what}" if what else ""
        raise Refusal(
            f"{where} is not a safetensors file: it does not begin with the length of a header{instead}; {UPLOAD_AGAIN}"
        )
    return LENGTH_BYTES + length


def read_header(where: str, content: bytes, file_size: int) -> SafetensorsHeader:
    """`content` is the whole header. Raises Refusal if it is broken, or does not fit the file's size."""
    try:
        tensors = dict(_tensors(content))
    except ValueError as error:
        raise Refusal(f"{where} has a broken header ({error}); {UPLOAD_AGAIN}") from error
    _check_sizes(where, tensors, len(content), file_size)
    return SafetensorsHeader(content)


def _tensors(content: bytes) -> Iterator[tuple[str, Tensor]]:
    if content[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise ValueError("it does not begin with {")
    try:
        fields = _read_fields(content[LENGTH_BYTES:].decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    fields.pop("__metadata__", None)
    base = len(content)
    for name, raw in fields.items():
        try:
            field = _read_field(raw)
        except ValueError as error:
            raise ValueError(f"{name!r:.100}: {error}") from error
        start, stop = field.data_offsets
        if not name.isprintable() or not field.dtype.isidentifier() or stop < start:
            raise ValueError(f"{name!r:.100} is of the type {field.dtype!r:.100}, from {start} to {stop}")
        yield name, Tensor(intern(field.dtype), field.shape, base + start, base + stop)


def _check_sizes(where: str, tensors: Mapping[str, Tensor], base: int, file_size: int) -> None:
    for name, tensor in tensors.items():
        bits = ELEMENT_BITS.get(tensor.dtype)
        size = tensor.stop - tensor.start
        # A number of an unknown type has at least one bit.
        if tensor.elements > size * 8 if bits is None else tensor.elements * bits != size * 8:
            raise Refusal(
                f"{where} gives {name} the shape {list(tensor.shape)} of {tensor.dtype}, which does not fit its {size} "
                f"bytes; {UPLOAD_AGAIN}"
            )
    end = max((tensor.stop for tensor in tensors.values()), default=base)
    if end != file_size:
        raise Refusal(f"{where} has {file_size} bytes, but its header describes {end}; {UPLOAD_AGAIN}")
