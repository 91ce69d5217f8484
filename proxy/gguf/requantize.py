"""A GGUF of F32, F16 or BF16, whole or in parts, in another file type: its new header and its pieces. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.gguf.cast import casting
from proxy.gguf.header import Field, GgufHeader, write_header
from proxy.gguf.split import Padding, check_parts, tensors_of, whole_metadata
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from proxy.gguf.transforms import Transform

QUANTIZATION_VERSION = 2
"""What `general.quantization_version` says (GGML_QNT_VERSION of ggml.h)."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The bytes from offset `start` up to `stop` of a part's file, and what is made of them."""

    start: int
    stop: int
    transform: Transform | None


@dataclass(frozen=True, slots=True)
class Requantized:
    """A whole file: its header's bytes, then the pieces, which are given for each part."""

    header: bytes
    parts: tuple[tuple[Changed | Padding, ...], ...]


def requantize(headers: Sequence[GgufHeader], quantization: str) -> Requantized:
    """`headers` are those of the file's parts, in order.

    Raises CannotConvert for numbers that are quantized already, NoEngine where this machine has nothing that makes the
    types, GgufError where the parts do not fit each other.
    """
    if len(headers) > 1:
        check_parts(headers)
    first, alignment, tensors = headers[0], headers[0].alignment, tensors_of(headers)
    types = quantized_types(quantization, ModelFacts.of(first.metadata), tensors, as_ollama=True)
    metadata = whole_metadata(first)
    metadata["general.file_type"] = Field.uint32(FILE_TYPES[quantization].number)
    metadata["general.quantization_version"] = Field.uint32(QUANTIZATION_VERSION)
    made = lay_out((replace(tensor, type=types[tensor.name]) for tensor in tensors), alignment)
    parts = tuple(tuple(_pieces(header, types, alignment)) for header in headers)
    return Requantized(write_header(metadata, made), parts)


def _pieces(header: GgufHeader, types: Mapping[str, TensorType], alignment: int) -> Iterator[Changed | Padding]:
    for tensor in header.tensors:
        kind = types[tensor.name]
        start = header.data_start + tensor.offset
        yield Changed(start, start + tensor.size, None if tensor.type == kind else casting(tensor, kind))
        if gap := padding(TensorInfo(tensor.name, tensor.shape, kind).size, alignment):
            yield Padding(gap)
