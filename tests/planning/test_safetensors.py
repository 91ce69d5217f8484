"""The header of a safetensors file: read, or refused before Ollama crashes."""

import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.planning.safetensors import MAX_HEADER_BYTES, SafetensorsHeader, header_size, read_header
from tests.planning.shapes import with_length

GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("F32"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def read(fields: object, data: int = 24) -> SafetensorsHeader:
    content = with_length(json.dumps(fields).encode())
    return read_header("acme/model/model.safetensors", content, len(content) + data)


def test_what_the_library_writes_is_read() -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "a": np.zeros((2, 3), np.float16),
        "b": np.zeros(5, np.float32),
        "c": np.zeros((), np.int64),
    }
    content = safetensors.numpy.save(arrays, {"format": "pt"})
    size = header_size("x", content[:8], len(content))
    header = read_header("x", content[:size], len(content))
    assert header.size == size
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()} == {
        "a": ("F16", (2, 3)),
        "b": ("F32", (5,)),
        "c": ("I64", ()),
    }
    assert header.tensors["a"].elements == 6
    assert max(tensor.stop for tensor in header.tensors.values()) == len(content)
    assert min(tensor.start for tensor in header.tensors.values()) == size


@pytest.mark.parametrize(
    ("first", "size", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n"[:8], 130, "is a Git LFS pointer, not the file itself"),
        (b"<!doctyp", 5000, "does not begin with the length of a header, it is an HTML page"),
        (b"<HTML><h", 5000, "does not begin with the length of a header, it is an HTML page"),
        (b"", 0, "does not begin with the length of a header, it is empty; ask"),
        (b"\x10\0\0", 3, "does not begin with the length"),
        ((93).to_bytes(8, "little"), 100, "does not begin with the length"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 10**12, "does not begin with the length"),
        (b"\xff" * 8, 10**12, "does not begin with the length"),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused(first: bytes, size: int, message: str) -> None:
    """Ollama would crash."""
    with pytest.raises(Refusal, match=f"^acme/x .*{message}"):
        header_size("acme/x", first, size)


@pytest.mark.parametrize("length", [2, 92, 100])
def test_a_header_may_fill_its_file(length: int) -> None:
    assert header_size("x", length.to_bytes(8, "little"), 108) == 8 + length


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "does not begin with {"),
        (b"{", "not JSON"),
        (b"[]", "does not begin with {"),
        (b" {}", "does not begin with {"),
        (b"\xef\xbb\xbf{}", "does not begin with {"),
        (b"{\xff}", "not JSON"),
        (b'{"a": ' + b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "'a': Expected `object`, got `array`"),
        (b'{"\\ud800": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}', "not JSON"),
        (
            b'{"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 1' + b"0" * 5000 + b"]}}",
            "'a': Integer value out of range",
        ),
    ],
)
def test_a_header_that_is_no_json_object_is_refused_by_name(text: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=f"^acme/x has a broken header .*{message}.*upload it again"):
        read_header("acme/x", with_length(text), 10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": ...},
        {"shape": ...},
        {"dtype": ...},
        {"dtype": 5},
        {"dtype": "F32\x1b[2J"},
        {"shape": 5},
        {"shape": [2.0, 3]},
        {"shape": [-2, -3]},
        {"shape": [True, 6]},
        {"shape": ["6"]},
        {"shape": [10**30]},
        {"shape": [1] * 17 + [6]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 24, 48]},
        {"data_offsets": ["0", "24"]},
        {"data_offsets": [24, 0]},
        {"data_offsets": [-24, 0]},
        {"data_offsets": None},
    ],
)
def test_a_wrongly_described_tensor_is_refused(change: dict[str, Any]) -> None:
    """Ollama would crash."""
    tensor = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
    with pytest.raises(Refusal, match="broken header"):
        read({"a": tensor})


@pytest.mark.parametrize("name", ["a\n", "\x1b[2J", "a\u202eb"])
def test_a_name_that_would_play_with_a_terminal_is_refused(name: str) -> None:
    with pytest.raises(Refusal, match="broken header") as refusal:
        read({name: GOOD})
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("tensor", "data", "message"),
    [
        (GOOD, 25, r"has \d+ bytes, but its header describes \d+; ask the repository.s owner"),
        (GOOD, 23, "but its header describes"),
        ({**GOOD, "shape": [2, 4]}, 24, r"gives a the shape \[2, 4\] of F32, which does not fit its 24 bytes"),
        ({**GOOD, "dtype": "F16"}, 24, "does not fit its 24 bytes"),
        ({**GOOD, "dtype": "F4", "shape": [7, 7]}, 24, "does not fit its 24 bytes"),
        ({**GOOD, "dtype": "X9", "shape": [10**9, 10**9]}, 24, "does not fit its 24 bytes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tensor: dict[str, Any], data: int, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        read({"a": tensor}, data)


def test_a_type_of_tomorrow_is_read_and_judged_later() -> None:
    assert read({"a": {**GOOD, "dtype": "F5_X"}}).tensors["a"].dtype == "F5_X"


def test_gaps_and_metadata_and_no_tensors_are_taken() -> None:
    """Ollama checks neither, and repaired files have gaps."""
    header = read({"__metadata__": {"format": "pt"}, "b": {**GOOD, "data_offsets": [8, 32]}}, 32)
    assert list(header.tensors) == ["b"]
    assert not read({}, 0).tensors


@given(fields=JSON | st.dictionaries(st.text(max_size=3), st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)), max_size=3))
def test_any_json_in_the_place_of_a_header_is_read_or_refused(fields: Any) -> None:
    try:
        header = read(fields)
    except Refusal as refusal:
        str(refusal).encode()
    else:
        assert all(tensor.elements <= 24 * 8 for tensor in header.tensors.values())


@given(content=st.binary(max_size=60))
def test_any_bytes_in_the_place_of_a_header_are_refused_or_read(content: bytes) -> None:
    try:
        size = header_size("x", content[:8], len(content))
        read_header("x", content[:size], len(content))
    except Refusal:
        pass


def test_a_shape_of_a_million_numbers_is_refused_at_once() -> None:
    start = time.process_time()
    with pytest.raises(Refusal) as refusal:
        read({"a": {**GOOD, "shape": [10**9] * 500_000}})
    assert time.process_time() - start < 5
    assert len(str(refusal.value)) < 500
