"""Packed integers of compressed-tensors, compared with compressed-tensors and with llama.cpp's converter (b11434).

`compressed.json` has the digests; `make_compressed.py` recorded them.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.packing.rows import packed_tensors, row_digests, rows_of, tensor_digests
from tests.gguf.tiny_repositories.packed import WEIGHTS, Packed
from tests.gguf.tiny_repositories.packed_compressed import INT4_GROUPS, MATRICES, REPOSITORIES, Integers, Matrix
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan, write
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

RECORDED = json.loads((Path(__file__).parent / "compressed.json").read_text())
EXPECTED: dict[str, dict[str, str]] = RECORDED["matrices"]
ALL: dict[str, Matrix | Packed] = {**MATRICES, **{name: one for name, one in REPOSITORIES.items() if "int" in name}}


@pytest.mark.parametrize("name", ALL)
def test_matrices_are_those_of_compressed_tensors(name: str) -> None:
    """In F32; and rounded to BF16 they are what it makes of the scales as they are stored (`rounded`)."""
    files = ALL[name].files()
    for window in (1 << 16, 100):
        assert row_digests(files, window) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in RECORDED["llama.cpp"] if "int" in name])
def test_files_are_those_of_llama_cpp(name: str) -> None:
    files = REPOSITORIES[name].files()
    conversion = plan(files, quantization="F32")
    assert tensor_digests(write(conversion, files, 1 << 14)) == RECORDED["llama.cpp"][name]


@pytest.mark.parametrize("name", MATRICES)
def test_any_rows(name: str) -> None:
    files = MATRICES[name].files()
    [tensor] = packed_tensors(files).values()
    whole = rows_of(tensor, files)
    count = len(whole)
    for first, stop in ((0, 1), (1, 2), (count - 1, count), (3, count - 2), (1, count)):
        np.testing.assert_array_equal(rows_of(tensor, files, first, stop), whole[first:stop])


def test_forms() -> None:
    conversion = plan(REPOSITORIES["qwen3moe_int8_int4"].files(), quantization="Q4_K_M")
    assert conversion.stored_as == ("INT4", "INT8")


def test_columns_that_are_not_ordered() -> None:
    """-1 in g_idx: the groups follow each other."""
    files = MATRICES["int4_ordered"].files()
    tensors = unpack_safetensors(files[WEIGHTS])
    order = StoredTensor("I32", (128,), np.full(128, -1, np.int32).tobytes())
    unordered = files | {WEIGHTS: pack_safetensors({**tensors, "layer.weight_g_idx": order})}
    del tensors["layer.weight_g_idx"]
    without = files | {WEIGHTS: pack_safetensors(tensors)}
    [first], [second] = ([rows_of(one, each) for one in packed_tensors(each).values()] for each in (unordered, without))
    np.testing.assert_array_equal(first, second)


def test_a_decoder_can_be_sent_to_another_process() -> None:
    files = MATRICES["int4_zeros"].files()
    [tensor] = packed_tensors(files).values()
    np.testing.assert_array_equal(rows_of(pickle.loads(pickle.dumps(tensor)), files), rows_of(tensor, files))


W = "layer.weight"
I4 = INT4_GROUPS.weights()


def changed(how: Integers, tensors: dict[str, StoredTensor | None]) -> dict[str, bytes]:
    """A matrix with other tensors; None removes one."""
    files = Matrix((16, 64), how).files()
    merged = {**unpack_safetensors(files[WEIGHTS]), **tensors}
    return files | {WEIGHTS: pack_safetensors({name: stored for name, stored in merged.items() if stored is not None})}


def zeros(dtype: str, *shape: int) -> StoredTensor:
    return StoredTensor(dtype, shape, bytes(int(np.prod(shape)) * {"I64": 8, "I32": 4, "BF16": 2}.get(dtype, 1)))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({f"{W}_scale": None}, f"packed integers without {W}_scale"),
        ({f"{W}_shape": None}, f"packed integers without {W}_shape"),
        ({f"{W}_shape": zeros("I64", 3)}, rf"{W} is stored as packed integers .*weight_shape \[3\]"),
        ({f"{W}_scale": zeros("BF16", 16, 3)}, r"weight_scale \[16, 3\] \(BF16\) and the quantization_config"),
        ({f"{W}_scale": zeros("I8", 16, 2)}, r"weight_scale \[16, 2\] \(I8\)"),
        ({f"{W}_zero_point": zeros("I32", 16, 2)}, r"weight_zero_point \[16, 2\] \(I32\)"),
        ({f"{W}_g_idx": zeros("I32", 63)}, r"weight_g_idx \[63\]"),
        ({f"{W}_packed": zeros("I32", 2, 8, 8)}, r"weight_packed \[2, 8, 8\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, StoredTensor | None], reason: str) -> None:
    with pytest.raises(CannotConvert, match=reason):
        packed_tensors(changed(INT4_GROUPS, tensors))


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([], "does not say of how many bits"),
        ([{**I4, "type": "float"}], "does not say of how many bits"),
        ([{**I4, "num_bits": 9}], "does not say of how many bits"),
        ([{**I4, "strategy": "token"}], "does not say of how many bits"),
        ([{**I4, "group_size": 16}], "do not fit each other"),
        ([{**I4, "num_bits": 8}], "do not fit each other"),
        ([{**I4, "symmetric": False}], "do not fit each other"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(weights: list[dict[str, Any]], reason: str) -> None:
    groups = {str(number): {"targets": ["Linear"], "weights": one} for number, one in enumerate(weights)}
    with pytest.raises(CannotConvert, match=reason):
        packed_tensors(changed(INT4_GROUPS, {}), {"config_groups": groups})


def test_the_shape_may_have_32_bits() -> None:
    files = changed(INT4_GROUPS, {})
    narrow = changed(INT4_GROUPS, {f"{W}_shape": StoredTensor("I32", (2,), np.array([16, 64], np.int32).tobytes())})
    [expected], [rows] = ([rows_of(one, each) for one in packed_tensors(each).values()] for each in (files, narrow))
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(("dtype", "number"), [("I64", np.int64), ("I32", np.int32)])
def test_the_first_rows_show_another_shape(dtype: str, number: type[np.signedinteger[Any]]) -> None:
    """The shape is a tensor: it is known when its bytes are there."""
    sizes = np.array([16, 63], number)
    files = changed(INT4_GROUPS, {f"{W}_shape": StoredTensor(dtype, (2,), sizes.tobytes())})
    [tensor] = packed_tensors(files).values()
    with pytest.raises(CannotConvert, match=r"weight_shape is \[16, 63\], .* numbers for the shape \[16, 64\]"):
        rows_of(tensor, files)


def test_an_order_of_groups_that_do_not_exist() -> None:
    order = StoredTensor("I32", (64,), np.full(64, 2, np.int32).tobytes())
    files = changed(INT4_GROUPS, {f"{W}_g_idx": order})
    [tensor] = packed_tensors(files).values()
    with pytest.raises(CannotConvert, match="weight_g_idx has groups that its weight_scale does not have"):
        rows_of(tensor, files)


@pytest.mark.parametrize(
    ("four_bits", "eight_bits", "chosen"),
    [
        (["layer"], ["Linear"], "INT4"),
        (["Linear"], ["re:lay.r$"], "INT8"),
        (["re:layer"], ["layer"], "INT8"),
        (["Linear"], ["re:(a*)*b"], "INT4"),
        (["Linear"], ["re:["], "INT4"),
    ],
)
def test_the_more_specific_target_decides(four_bits: list[str], eight_bits: list[str], chosen: str) -> None:
    """Where the shapes fit both: rows of eight bits, and of twice as many numbers of four bits."""
    groups = {
        "a": {"targets": four_bits, "weights": Integers(4).weights()},
        "b": {"targets": eight_bits, "weights": Integers(8).weights()},
    }
    [tensor] = packed_tensors(Matrix((16, 64), Integers(8)).files(), {"config_groups": groups}).values()
    assert tensor.form == chosen


def test_targets_that_do_not_decide() -> None:
    groups = {
        "a": {"targets": ["Linear"], "weights": Integers(4).weights()},
        "b": {"targets": ["Linear"], "weights": Integers(8).weights()},
    }
    with pytest.raises(CannotConvert, match="cannot read for certain"):
        packed_tensors(Matrix((16, 64), Integers(8)).files(), {"config_groups": groups})


def test_a_repository_without_the_config_is_refused_by_name() -> None:
    files = REPOSITORIES["llama_int4_zeros"].files()
    config = json.loads(files["config.json"])
    del config["quantization_config"]
    with pytest.raises(CannotConvert, match="_proj.weight_packed has packed integers, but config.json does not say"):
        plan(files | {"config.json": dump(config)}, quantization="F32")
