"""Casts of tensors, and whole quantized files; `tests/real` checks them with a real Ollama."""

import os
import platform
import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from proxy.gguf.cast import cast, cast_transform
from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_sources import SourceRange, Target
from proxy.gguf.tensor_types import FILE_TYPES, ModelFacts, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.gguf.transforms import chain, interleave, transpose
from tests.gguf.make_quantized import REFUSED, data_digest, figures
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import HIDDEN
from tests.gguf.tiny_repositories.schemes import KEPT
from tests.gguf.writing import plan, write
from tests.kit.dtypes import numbers_of_all_magnitudes, to_floats
from tests.kit.engines import needs_ggml, reference
from tests.kit.tiny_conversions import converted, read, repository, tensors_of

_ROUND = 16
# llama-quantize refuses their MXFP4; `packing/test_microscaling.py` compares them with their unquantized twins.
CASES = [
    (name, file_type)
    for number, name in enumerate(sorted(REPOSITORIES.keys() - KEPT.keys()))
    for file_type in tuple(FILE_TYPES)[number % _ROUND :: _ROUND]
]
_SLOW = [case for case in CASES if case[1] in ("IQ3_S", "IQ3_M")]
ONLY_PLANNED = set() if os.environ.get("QUANTIZED_FIGURES") == "all" else set(_SLOW) - set(_SLOW[::4])
"""ggml needs seconds to search for these types."""


@needs_ggml
@pytest.mark.parametrize(("name", "file_type"), CASES)
def test_a_file_is_that_of_llama_quantize(name: str, file_type: str) -> None:
    """llama-quantize gets the unquantized file. The tensors that Ollama makes more precise are cast as it does."""
    expected = figures()[name][file_type]
    if expected.startswith(REFUSED):
        with pytest.raises(CannotConvert):
            plan(repository(name), quantization=file_type)
        return
    conversion = plan(repository(name), quantization=file_type)
    header, before = read_header(conversion.header, size=conversion.size), read(converted(name))
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in before.tensors]
    values = {key: field.value for key, field in header.metadata.items()}
    assert values["general.quantization_version"] == 2
    assert values.pop("general.file_type") == FILE_TYPES[file_type].number
    assert values == {key: field.value for key, field in before.metadata.items() if key != "general.file_type"}
    facts = ModelFacts.of(before.metadata)
    types = quantized_types(file_type, facts, before.tensors, as_ollama=True)
    assert {tensor.name: tensor.type for tensor in header.tensors} == types
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {
        tensor.name: tensor.shape for tensor in before.tensors
    }
    if (name, file_type) in ONLY_PLANNED:
        return
    content = write(conversion, repository(name), window=9999)
    assert conversion.size == len(content)
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("ggml makes other bits where the compiler fuses a multiplication with an addition")
    tensors, sources = tensors_of(content), tensors_of(converted(name))

    def as_theirs(key: str, kind: TensorType) -> bytes:
        if kind == types[key]:
            return tensors[key][1]
        source, data = sources[key]
        return cast_transform(source, kind).change(data)

    theirs = quantized_types(file_type, facts, before.tensors)
    assert data_digest(as_theirs(key, kind) for key, kind in theirs.items()) == expected.split()[2]


def test_a_quantization_to_the_own_type_copies_bytes() -> None:
    """As a conversion without a quantization does."""
    quantized, source = plan(repository("qwen3"), quantization="BF16"), plan(repository("qwen3"))
    assert quantized.header == source.header
    changes = [
        [piece.transform is None for piece in conversion.pieces if isinstance(piece, SourceRange)]
        for conversion in (quantized, source)
    ]
    assert changes[0] == changes[1]
    assert any(changes[0])


def test_sizes_are_estimated_from_unquantized_tensors() -> None:
    conversion, source = plan(repository("llama"), quantization="Q4_K_M"), plan(repository("llama"))
    assert conversion.sources == source.sources
    assert {replace(tensor, offset=0) for tensor in conversion.sources} == {
        replace(tensor, offset=0) for tensor in source.tensors
    }
    assert conversion.facts == source.facts == ModelFacts.of(read_header(source.header).metadata)


def matrix(*shape: int, kind: TensorType = TensorType.BF16) -> Target:
    info = TensorInfo("blk.1.ffn_up.weight", shape, kind)
    return Target(info, (SourceRange("model.safetensors", 0, info.size),))


def test_a_cast_to_the_own_type_is_the_same_tensor() -> None:
    same = matrix(HIDDEN, 3)
    assert cast(same, TensorType.BF16) is same
    halves = cast(same, TensorType.F16)
    assert (halves.info.type, halves.info.shape) == (TensorType.F16, same.info.shape)
    assert [piece.size for piece in halves.pieces] == [halves.info.size]


def test_quantized_numbers_are_refused() -> None:
    again = partial(cast_transform, matrix(HIDDEN, 3, kind=TensorType.Q8_0).info)
    with pytest.raises(CannotConvert, match=r"blk\.1\.ffn_up\.weight is Q8_0 already"):
        again(TensorType.Q4_K)


def test_a_refusal_names_the_tensor() -> None:
    info = TensorInfo("blk.1.ffn_up.weight", (HIDDEN, 2), TensorType.F32)
    for kind in (TensorType.F16, TensorType.BF16, TensorType.Q8_0):
        change = cast_transform(info, kind)
        with pytest.raises(CannotConvert, match=rf"^blk\.1\.ffn_up\.weight cannot become {kind.name}: "):
            change.change(struct.pack("<32f", *[3.4e38] * 32))


def test_a_cast_follows_other_transforms() -> None:
    matrix = np.frombuffer(numbers_of_all_magnitudes("BF16", 24 * 64), "<u2").reshape(24, 64)
    permuted = matrix.reshape(3, 2, 4, 64).swapaxes(1, 2)
    heads = matrix[:, :32].reshape(3, 8, 32).swapaxes(1, 2)  # three heads of 8 rows become heads of 32 rows of 8
    for change, content, expected in (
        (interleave(128, 8), matrix.tobytes(), permuted.tobytes()),
        (transpose(8, 32, 2), matrix[:, :32].tobytes(), heads.tobytes()),
    ):
        both = chain([change, cast_transform(TensorInfo("x", (64, 24), TensorType.BF16), TensorType.Q8_0)])
        assert both is not None
        starts = range(0, len(content), both.block)
        blocks = b"".join(both.change(content[start : start + both.block]) for start in starts)
        assert blocks == reference(to_floats("BF16", expected), TensorType.Q8_0)
