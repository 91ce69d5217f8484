"""A GGUF in another file type is the one that comes of the safetensors directly, whole and in two shards."""

from collections.abc import Sequence
from functools import lru_cache

import pytest

from proxy.gguf import engine_ggml
from proxy.gguf.config import CannotConvert
from proxy.gguf.header import GgufHeader, ValueType, read_header
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.gguf.tensors import GgufError, TensorType
from tests.gguf import oracle
from tests.gguf.oracle import Tensor, Value
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan, write

pytestmark = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")

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


@lru_cache(maxsize=8)
def plain(name: str) -> bytes:
    files = REPOSITORIES[name].files()
    return write(plan(files), files)


@lru_cache(maxsize=8)
def direct(name: str, quantization: str) -> bytes:
    files = REPOSITORIES[name].files()
    return write(plan(files, quantization=quantization), files)


def read(content: bytes) -> GgufHeader:
    return read_header(content, size=len(content))


def made(contents: Sequence[bytes], quantization: str) -> bytes:
    """What becomes of a file's parts, about 9999 bytes at a time."""
    requantized = requantize([read(content) for content in contents], quantization)
    whole = [requantized.header]
    for content, pieces in zip(contents, requantized.parts, strict=True):
        for piece in pieces:
            if not isinstance(piece, TransformedRange):
                whole.append(bytes(piece.size))
                continue
            if piece.transform is None:
                whole.append(content[piece.start : piece.stop])
                continue
            step = max(9999 // piece.transform.block, 1) * piece.transform.block
            starts = range(piece.start, piece.stop, step)
            whole += [piece.transform.change(content[start : min(start + step, piece.stop)]) for start in starts]
    return b"".join(whole)


def shards(content: bytes, most: int) -> list[bytes]:
    """The same tensors in parts of `most`, which the `gguf` package writes."""
    header = read(content)
    start = header.data_start
    tensors = {
        tensor.name: Tensor(
            tensor.shape,
            TensorType(tensor.type),
            content[start + tensor.offset : start + tensor.offset + tensor.size],
        )
        for tensor in header.tensors
    }
    metadata = {
        key: Value(field.kind, field.value) if isinstance(field.value, int | float | str) else _array(field.value)
        for key, field in header.metadata.items()
        if key != "general.architecture" and field.value != []
    }
    return oracle.write(metadata, tensors, most_tensors=most)


def _array(values: list[object]) -> Value:
    kinds = {str: ValueType.STRING, bool: ValueType.BOOL, int: ValueType.INT32, float: ValueType.FLOAT32}
    return Value(ValueType.ARRAY, values, kinds[type(values[0])])


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_a_whole_file_becomes_what_its_source_becomes(name: str, quantization: str) -> None:
    assert made([plain(name)], quantization) == direct(name, quantization)


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0", "F16"])
def test_two_shards_become_what_their_source_becomes(quantization: str) -> None:
    """But for the order of the metadata, and without what says that there were shards."""
    parts = shards(plain("llama"), len(read(plain("llama")).tensors) // 2 + 1)
    assert len(parts) == 2
    content, expected = made(parts, quantization), direct("llama", quantization)
    header, wanted = read(content), read(expected)
    values = {key: field.value for key, field in header.metadata.items()}
    assert not [key for key in values if key.startswith("split.")]
    assert values == {key: field.value for key, field in wanted.metadata.items()}
    assert header.tensors == wanted.tensors
    assert content[header.data_start :] == expected[wanted.data_start :]


def test_the_header_says_the_size() -> None:
    content = direct("llama", "Q4_K_M")
    requantized = requantize([read(plain("llama"))], "Q4_K_M")
    assert requantized.header == content[: len(requantized.header)]
    sizes = [
        piece.size
        if not isinstance(piece, TransformedRange)
        else (piece.transform.size(piece.stop - piece.start) if piece.transform else piece.stop - piece.start)
        for part in requantized.parts
        for piece in part
    ]
    assert len(requantized.header) + sum(sizes) == len(content)


def test_what_has_the_type_already_is_copied() -> None:
    requantized = requantize([read(plain("llama"))], "BF16")
    assert all(
        piece.transform is None for part in requantized.parts for piece in part if isinstance(piece, TransformedRange)
    )


def test_quantized_numbers_are_refused_by_name() -> None:
    with pytest.raises(CannotConvert, match=r"^\S+ is Q8_0 already, which is not quantized a second time$"):
        requantize([read(direct("llama", "Q8_0"))], "Q4_K_M")


def test_shards_of_two_models_are_refused() -> None:
    half = len(read(plain("llama")).tensors) // 2 + 1
    first, _ = shards(plain("llama"), half)
    with pytest.raises(GgufError):
        requantize([read(first), read(first)], "Q4_K_M")
