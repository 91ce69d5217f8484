"""Writing a GGUF's header, against the `gguf` package, and the sizes of tensors."""

import math

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings

from proxy.gguf.header import Field, ValueType, read_header, write_header
from proxy.gguf.tensors import BLOCKS, GgufError, TensorInfo, TensorType, lay_out
from tests.gguf import oracle
from tests.gguf.oracle import Tensor, Value


@pytest.mark.parametrize("alignment", [None, 8, 64])
def test_writes_what_gguf_writes(alignment: int | None) -> None:
    (content,) = oracle.write(oracle.EXAMPLE_METADATA, oracle.EXAMPLE_TENSORS, alignment=alignment)
    infos = [TensorInfo(name, tensor.shape, tensor.type) for name, tensor in oracle.EXAMPLE_TENSORS.items()]
    fields = oracle.fields(oracle.EXAMPLE_METADATA, alignment)
    ours = write_header(fields, lay_out(infos, alignment or 32))
    assert ours == content[: len(ours)]
    assert len(ours) == read_header(content).data_start


@given(oracle.metadatas, oracle.tensor_sets, oracle.alignments)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_writes_and_reads_any_file_of_gguf(
    metadata: dict[str, Value], tensors: dict[str, Tensor], alignment: int | None
) -> None:
    (content,) = oracle.write(metadata, tensors, alignment=alignment)
    header = read_header(content, size=len(content))
    infos = [TensorInfo(name, tensor.shape, tensor.type) for name, tensor in tensors.items()]
    assert header.metadata == oracle.fields(metadata, alignment)
    assert header.tensors == lay_out(infos, alignment or 32)
    assert {key: header.metadata[key].value for key in metadata} == {
        key: value.value for key, value in metadata.items()
    }
    assert write_header(header.metadata, header.tensors) == content[: header.data_start]
    for name, tensor in zip(tensors, header.tensors, strict=True):
        start = header.data_start + tensor.offset
        assert content[start : start + tensor.size] == tensors[name].content


def test_writes_empty_arrays_and_strings() -> None:
    """The `gguf` package does not write empty arrays."""
    fields = {"a": Field.strings([]), "b": Field.array(ValueType.INT32, []), "c": Field.string("")}
    content = write_header(fields, [])
    assert [field.value for field in read_header(content).metadata.values()] == [[], [], ""]


def test_makes_fields_of_every_kind() -> None:
    fields = [
        Field.uint16(1),
        Field.uint32(2),
        Field.int32(-3),
        Field.uint64(2**64 - 1),
        Field.float32(1.5),
        Field.boolean(True),
        Field.string("é"),
        Field.strings(["é", ""]),
        Field.array(ValueType.STRING, ["x"]),
        Field.array(ValueType.BOOL, [True, False]),
        Field.of(ValueType.FLOAT64, math.pi),
    ]
    values: list[object] = [1, 2, -3, 2**64 - 1, 1.5, True, "é", ["é", ""], ["x"], [True, False], math.pi]
    assert [field.value for field in fields] == values
    types = [2, 4, 5, 10, 6, 7, 8, 9, 9, 9, 12]
    assert [field.kind for field in fields] == types


def test_accepts_numbers_of_numpy() -> None:
    assert Field.array(ValueType.FLOAT32, np.array([1, 2], np.float32)) == Field.array(ValueType.FLOAT32, [1.0, 2.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ValueType.UINT8, 256),
        (ValueType.UINT32, -1),
        (ValueType.INT32, 2**31),
        (ValueType.UINT32, 1.5),
        (ValueType.FLOAT32, 1e39),
        (ValueType.UINT32, "5"),
        (ValueType.STRING, 5),
        (ValueType.ARRAY, 5),
        (ValueType.STRING, "\ud800"),
    ],
)
def test_refuses_values_that_do_not_fit(kind: ValueType, value: float | str) -> None:
    with pytest.raises(GgufError):
        Field.of(kind, value)


def test_refuses_nested_arrays() -> None:
    with pytest.raises(GgufError):
        Field.array(ValueType.ARRAY, [[1]])


def test_refuses_to_write_an_unreadable_header() -> None:
    with pytest.raises(GgufError, match="the same name"):
        write_header({}, [TensorInfo("a", (1,), 0), TensorInfo("a", (1,), 0, 32)])
    with pytest.raises(GgufError, match="not a power of two"):
        write_header({"general.alignment": Field.uint32(3)}, [])


# ---- tensors


def test_block_sizes_are_those_of_ggml() -> None:
    theirs = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    # gguf 0.19 still has the layout that ggml dropped in 2024: since then a block is two halves and 32 bytes.
    assert theirs.pop(GGMLQuantizationType.Q8_1) == (32, 40)
    assert {kind: BLOCKS[kind] for kind in theirs} == theirs
    assert set(BLOCKS) - set(theirs) == {TensorType.Q8_1, TensorType.Q2_0}
    names = {kind.name: int(kind) for kind in GGMLQuantizationType} | {"Q2_0": 42}
    assert names == {kind.name: int(kind) for kind in TensorType}
    assert set(BLOCKS) == set(TensorType)


def test_size_counts_whole_rows() -> None:
    assert TensorInfo("a", (64, 3, 2), TensorType.Q4_0).size == 2 * 18 * 6
    with pytest.raises(GgufError, match="'a' has rows of 3"):
        _ = TensorInfo("a", (3, 64), TensorType.Q4_0).size
    with pytest.raises(GgufError, match="'a' has the unknown type 999"):
        _ = TensorInfo("a", (3, 64), 999).size
