"""Quantizing a GGUF gives the same file as converting and quantizing its safetensors, whole and in two shards."""

from collections.abc import Sequence

import pytest

from proxy.gguf.header import ValueType
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.gguf.tensors import GgufError, TensorType
from tests.gguf import oracle
from tests.gguf.oracle import Tensor, Value
from tests.kit.engines import needs_ggml
from tests.kit.tiny_conversions import converted, read, tensors_of

pytestmark = needs_ggml

CASES = [
    ("llama", "Q4_K_M"),
    ("llama_f32", "Q4_K_M"),
    ("qwen3", "Q4_K_M"),
    ("mixtral", "Q4_K_M"),
    ("llama", "IQ4_XS"),
    ("mixtral", "MXFP4_MOE"),
    ("llama", "F32"),
    ("llama", "BF16"),
]


def requantized_file(parts: Sequence[bytes], quantization: str) -> bytes:
    """The result for the parts of a file. Transforms get about 9999 bytes at a time."""
    requantized = requantize([read(part) for part in parts], quantization)
    result = [requantized.header]
    for part, pieces in zip(parts, requantized.parts, strict=True):
        for piece in pieces:
            if not isinstance(piece, TransformedRange):
                result.append(bytes(piece.size))
                continue
            if piece.transform is None:
                result.append(part[piece.start : piece.stop])
                continue
            step = max(9999 // piece.transform.block, 1) * piece.transform.block
            starts = range(piece.start, piece.stop, step)
            result += [piece.transform.change(part[start : min(start + step, piece.stop)]) for start in starts]
    return b"".join(result)


def shards(content: bytes, most: int) -> list[bytes]:
    """The same tensors in parts of at most `most` tensors, written by the `gguf` package."""
    tensors = {
        name: Tensor(info.shape, TensorType(info.type), data) for name, (info, data) in tensors_of(content).items()
    }
    metadata = {
        key: Value(field.kind, field.value) if isinstance(field.value, int | float | str) else _array(field.value)
        for key, field in read(content).metadata.items()
        if key != "general.architecture" and field.value != []
    }
    return oracle.write(metadata, tensors, most_tensors=most)


def _array(values: list[object]) -> Value:
    types = {str: ValueType.STRING, bool: ValueType.BOOL, int: ValueType.INT32, float: ValueType.FLOAT32}
    return Value(ValueType.ARRAY, values, types[type(values[0])])


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_a_whole_file_becomes_the_same_as_its_source(name: str, quantization: str) -> None:
    assert requantized_file([converted(name)], quantization) == converted(name, quantization)


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0", "F16"])
def test_two_shards_become_the_same_as_their_source(quantization: str) -> None:
    """Except for the order of the metadata. The `split.` keys are gone."""
    parts = shards(converted("llama"), len(read(converted("llama")).tensors) // 2 + 1)
    assert len(parts) == 2
    content, expected = requantized_file(parts, quantization), converted("llama", quantization)
    header, expected_header = read(content), read(expected)
    values = {key: field.value for key, field in header.metadata.items()}
    assert not [key for key in values if key.startswith("split.")]
    assert values == {key: field.value for key, field in expected_header.metadata.items()}
    assert header.tensors == expected_header.tensors
    assert content[header.data_start :] == expected[expected_header.data_start :]


def test_the_pieces_have_the_size_of_the_file() -> None:
    content = converted("llama", "Q4_K_M")
    requantized = requantize([read(converted("llama"))], "Q4_K_M")
    assert requantized.header == content[: len(requantized.header)]
    sizes = [
        piece.size
        if not isinstance(piece, TransformedRange)
        else (piece.transform.size(piece.stop - piece.start) if piece.transform else piece.stop - piece.start)
        for part in requantized.parts
        for piece in part
    ]
    assert len(requantized.header) + sum(sizes) == len(content)


def test_tensors_of_the_right_type_are_copied() -> None:
    requantized = requantize([read(converted("llama"))], "BF16")
    assert all(
        piece.transform is None for part in requantized.parts for piece in part if isinstance(piece, TransformedRange)
    )


def test_quantized_numbers_are_refused_by_name() -> None:
    with pytest.raises(CannotConvert, match=r"^\S+ is Q8_0 already, which is not quantized a second time$"):
        requantize([read(converted("llama", "Q8_0"))], "Q4_K_M")


def test_shards_of_two_models_are_refused() -> None:
    half = len(read(converted("llama")).tensors) // 2 + 1
    first, _ = shards(converted("llama"), half)
    with pytest.raises(GgufError):
        requantize([read(first), read(first)], "Q4_K_M")
