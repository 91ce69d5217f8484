"""Merging a split GGUF: the result is the file that was split."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gguf.header import Field, GgufHeader, ValueType, read_header, write_header
from proxy.gguf.split import Padding, ShardRange, SplitName, merge
from proxy.gguf.tensors import GgufError, TensorInfo, TensorType, lay_out
from tests.gguf import oracle
from tests.gguf.oracle import Tensor, Value
from tests.gguf.splitting import joined, split, with_offsets

METADATA = {"general.name": Value(ValueType.STRING, "Zoë"), "splitting.hairs": Value(ValueType.BOOL, value=True)}
TENSORS = {
    f"blk.{number}.w": Tensor((size,), TensorType.I8, bytes([number + 1]) * size)
    for number, size in enumerate([5, 32, 64, 7, 33])
}
(WHOLE,) = oracle.write(METADATA, TENSORS)


def headers(parts: Mapping[str, bytes]) -> list[GgufHeader]:
    return [read_header(part, size=len(part)) for part in parts.values()]


def changed(header: GgufHeader, **fields: Field | None) -> GgufHeader:
    """The header with other metadata. Two underscores in a name stand for a dot; None removes a key."""
    changes = {key.replace("__", "."): field for key, field in fields.items()}
    merged = header.metadata | changes
    return replace(header, metadata={key: field for key, field in merged.items() if field is not None})


# ---- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-00001-of-00003.gguf", SplitName("model", 1, 3)),
        ("Q4_K_M/Big Model-Q4_K_M-00003-of-00003.GGUF", SplitName("Q4_K_M/Big Model-Q4_K_M", 3, 3)),
        ("-00001-of-00001.gguf", SplitName("", 1, 1)),
        ("a-00001-of-00002-00001-of-00003.gguf", SplitName("a-00001-of-00002", 1, 3)),
        ("a-99999-of-99999.gguf", SplitName("a", 99999, 99999)),
        ("a\n-00001-of-00002.gguf", SplitName("a\n", 1, 2)),
        ("model.gguf", None),
        ("model-00000-of-00003.gguf", None),
        ("model-00004-of-00003.gguf", None),
        ("model-0001-of-0003.gguf", None),
        ("model-000001-of-000003.gguf", None),
        ("model-00001-OF-00003.gguf", None),
        ("model-00001-of-00003.gguf\n", None),
        ("model-00001-of-00003.safetensors", None),
        ("model-0000٣-of-00003.gguf", None),
        ("00001-of-00003.gguf", None),
        ("", None),
    ],
)
def test_names(name: str, expected: SplitName | None) -> None:
    assert SplitName.parse(name) == expected


# ---- merging


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("no_tensor_first", [False, True])
def test_a_merged_split_is_the_file_that_was_split(shards: int, no_tensor_first: bool) -> None:
    parts = split(WHOLE, shards + no_tensor_first, no_tensor_first=no_tensor_first)
    merged = merge(headers(parts))
    assert joined(merged, list(parts.values())) == WHOLE
    assert merged.size == len(WHOLE)


def test_keeps_the_alignment_of_the_file() -> None:
    (whole,) = oracle.write(METADATA, TENSORS, alignment=64)
    parts = split(whole, 1)
    assert joined(merge(headers(parts)), list(parts.values())) == whole


def test_each_part_is_one_piece() -> None:
    parts = split(WHOLE, 3)
    merged = merge(headers(parts))
    starts = [header.data_start for header in headers(parts)]
    assert merged.pieces == (
        ShardRange(0, starts[0], starts[0] + 5),
        Padding(27),
        ShardRange(1, starts[1], starts[1] + 96),
        ShardRange(2, starts[2], starts[2] + 32 + 33),
        Padding(31),
    )


def test_the_last_padding_may_be_missing_in_a_file() -> None:
    parts = [part.rstrip(b"\0") for part in split(WHOLE, 3).values()]
    merged = merge([read_header(part, size=len(part)) for part in parts])
    assert joined(merged, parts) == WHOLE


@pytest.mark.parametrize("small_first", [False, True])
@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_merges_what_gguf_splits(most: int, small_first: bool) -> None:
    parts = oracle.write(METADATA, TENSORS, most_tensors=most, small_first=small_first)
    assert len(parts) > 1
    merged = merge([read_header(part, size=len(part)) for part in parts])
    assert joined(merged, parts) == WHOLE


@given(
    oracle.metadatas, oracle.tensor_sets, st.sampled_from([None, 32]), st.integers(1, 4), st.booleans(), st.booleans()
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_merges_any_split(
    metadata: dict[str, Value],
    tensors: dict[str, Tensor],
    alignment: int | None,
    count: int,
    by_gguf: bool,
    no_tensor_first: bool,
) -> None:
    (whole,) = oracle.write(metadata, tensors, alignment=alignment)
    if by_gguf and len(tensors) > count:
        parts = oracle.write(metadata, tensors, alignment=alignment, most_tensors=count, small_first=no_tensor_first)
    else:
        parts = list(split(whole, count + no_tensor_first, no_tensor_first=no_tensor_first).values())
    content = joined(merge([read_header(part, size=len(part)) for part in parts]), parts)
    assert content == whole
    assert oracle.read_tensors(content) == {
        name: (tensor.shape, tensor.type, tensor.content) for name, tensor in tensors.items()
    }


def test_tensors_out_of_order_are_put_in_order() -> None:
    """Ollama and llama.cpp refuse offsets that are not consecutive."""
    parts = list(split(WHOLE, 2).values())
    first, second = (read_header(part) for part in parts)
    assert [tensor.size for tensor in second.tensors] == [64, 7, 33]
    data = parts[1][second.data_start :]
    # In the file: the third tensor, a gap, the first and the second.
    reordered = data[96:160] + b"x" * 32 + data[:64] + data[64:96]
    parts[1] = with_offsets(parts[1], [96, 160, 0])[: second.data_start] + reordered
    merged = merge([first, read_header(parts[1], size=len(parts[1]))])
    assert joined(merged, parts) == WHOLE
    start = second.data_start
    assert merged.pieces[-4:] == (
        ShardRange(1, start + 96, start + 96 + 64 + 7),
        Padding(25),
        ShardRange(1, start, start + 33),
        Padding(31),
    )


def test_offsets_of_the_result_are_consecutive() -> None:
    parts = split(WHOLE, 3)
    content = joined(merge(headers(parts)), list(parts.values()))
    tensors = read_header(content, size=len(content)).tensors
    assert [tensor.name for tensor in tensors] == list(TENSORS)
    assert all(later.offset == tensor.offset + -(-tensor.size // 32) * 32 for tensor, later in pairwise(tensors))


def test_empty_tensors_keep_their_place() -> None:
    infos = lay_out(
        [TensorInfo("a", (0,), 24), TensorInfo("b", (5,), 24), TensorInfo("c", (0,), 24), TensorInfo("d", (2,), 24)]
    )
    whole = write_header({}, infos) + b"bbbbb".ljust(32, b"\0") + b"dd".ljust(32, b"\0")
    for shards in (1, 2, 4):
        parts = split(whole, shards)
        assert joined(merge(headers(parts)), list(parts.values())) == whole


def test_only_the_first_parts_metadata_counts() -> None:
    first, second = headers(split(WHOLE, 2))
    merged = read_header(merge([first, changed(second, extra=Field.uint32(1))]).header)
    assert merged.metadata == oracle.fields(METADATA)


@pytest.mark.parametrize("kind", [ValueType.UINT8, ValueType.INT16, ValueType.UINT32, ValueType.INT64])
def test_the_counts_may_have_any_integer_type(kind: ValueType) -> None:
    parts = [
        changed(
            header,
            split__no=Field.of(kind, number),
            split__count=Field.of(kind, 3),
            split__tensors__count=Field.of(kind, 5),
        )
        for number, header in enumerate(headers(split(WHOLE, 3)))
    ]
    assert merge(parts).size == len(WHOLE)


def test_later_parts_need_only_their_number() -> None:
    first, second = headers(split(WHOLE, 2))
    assert merge([first, changed(second, split__count=None, split__tensors__count=None)]).size == len(WHOLE)


# ---- refusals


FIRST, SECOND = headers(split(WHOLE, 2))
ALIGNED = split(oracle.write({}, TENSORS, alignment=64)[0], 2)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "no parts"),
        ([SECOND, FIRST], "part 1 of 2 has the split.no 1 instead of 0"),
        ([FIRST, FIRST], "part 2 of 2 has the split.no 0 instead of 1"),
        ([FIRST], "part 1 has the split.count 2 instead of 1"),
        (
            [FIRST, SECOND, changed(SECOND, split__no=Field.uint16(2))],
            "part 1 has the split.count 2 instead of 3",
        ),
        ([FIRST, changed(SECOND, split__count=Field.uint16(3))], "part 2 has the split.count 3 instead of 2"),
        ([read_header(WHOLE)], "has the split.no None"),
        ([changed(FIRST, split__count=None), SECOND], "part 1 has the split.count None instead of 2"),
        ([FIRST, changed(SECOND, split__no=None)], "part 2 of 2 has the split.no None"),
        ([FIRST, changed(SECOND, split__no=Field.string("1"))], "split.no is of the kind string"),
        ([FIRST, changed(SECOND, split__no=Field.boolean(True))], "split.no is of the kind bool"),
        (
            [changed(FIRST, split__tensors__count=Field.int32(4)), SECOND],
            "part 1 has the split.tensors.count 4 instead of 5",
        ),
        (
            [changed(FIRST, split__tensors__count=None), SECOND],
            "part 1 has the split.tensors.count None instead of 5",
        ),
        (
            [FIRST, replace(SECOND, tensors=SECOND.tensors[1:])],
            "part 1 has the split.tensors.count 5 instead of 4",
        ),
        (
            [FIRST, changed(SECOND, split__tensors__count=Field.int32(4))],
            "part 2 has the split.tensors.count 4 instead of 5",
        ),
        ([FIRST, replace(SECOND, tensors=(*FIRST.tensors, SECOND.tensors[0]))], "two parts have the tensor 'blk.0.w'"),
        (headers(ALIGNED), "part 2 is aligned to 32 bytes, the first to 64"),
    ],
)
def test_refuses_parts_that_do_not_fit_together(parts: list[GgufHeader], reason: str) -> None:
    with pytest.raises(GgufError, match=reason):
        merge(parts)
