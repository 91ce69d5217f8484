"""Quantizes a GGUF of F32, F16 or BF16, whole or in parts: its new header and its pieces. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.gguf.cast import cast_transform
from proxy.gguf.header import Field, GgufHeader, write_header
from proxy.gguf.split import Padding, check_parts, tensors_of, whole_metadata
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from proxy.gguf.transforms import Transform

QUANTIZATION_VERSION = 2
"""The value of `general.quantization_version` (GGML_QNT_VERSION of ggml.h)."""


@dataclass(frozen=True, slots=True)
class TransformedRange:
    """The bytes from offset `start` up to `stop` of a part's file, and their transform."""

    start: int
    stop: int
    transform: Transform | None


@dataclass(frozen=True, slots=True)
class RequantizedGguf:
    """A whole file: the bytes of its header, then the pieces, listed for each part."""

    header: bytes
    parts: tuple[tuple[TransformedRange | Padding, ...], ...]


def requantize(headers: Sequence[GgufHeader], quantization: str) -> RequantizedGguf:
    """`headers` are those of the file's parts, in order.

    Raises CannotConvert for numbers that are quantized already, NoEngine if no engine of this machine makes a type, and
    GgufError if the parts do not fit together.
    """
    if len(headers) > 1:
        check_parts(headers)
    first, alignment, tensors = headers[0], headers[0].alignment, tensors_of(headers)
    types = quantized_types(quantization, ModelFacts.of(first.metadata), tensors, as_ollama=True)
    metadata = whole_metadata(first)
    metadata["general.file_type"] = Field.uint32(FILE_TYPES[quantization].number)
    metadata["general.quantization_version"] = Field.uint32(QUANTIZATION_VERSION)
    infos = lay_out((replace(tensor, type=types[tensor.name]) for tensor in tensors), alignment)
    parts = tuple(tuple(_pieces(header, types, alignment)) for header in headers)
    return RequantizedGguf(write_header(metadata, infos), parts)


def _pieces(
    header: GgufHeader, types: Mapping[str, TensorType], alignment: int
) -> Iterator[TransformedRange | Padding]:
    for tensor in header.tensors:
        kind = types[tensor.name]
        start = header.data_start + tensor.offset
        transform = None if tensor.type == kind else cast_transform(tensor, kind)
        yield TransformedRange(start, start + tensor.size, transform)
        if gap := padding(TensorInfo(tensor.name, tensor.shape, kind).size, alignment):
            yield Padding(gap)
