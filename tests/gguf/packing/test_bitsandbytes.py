"""Weights of bitsandbytes, compared with bitsandbytes 0.50.2: `make_bnb_records.py` writes `bitsandbytes.json`."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.bitsandbytes import find, wanted
from proxy.gguf.tensor_sources import LocatedTensor, ReadTensor, SourceRange
from proxy.gguf.transforms import interleave
from proxy.gguf.unpacking import READ_MARKS, tensors_to_read
from tests.gguf.packing.rows import check_file, located, row_digests
from tests.gguf.tiny_repositories.packed import WEIGHTS, Codes
from tests.gguf.tiny_repositories.packed_bnb import FOUR_BITS, INT8, FourBit, four_bit
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import made, plan, write
from tests.gguf.writing import tensors_of as stored_tensors
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

EXPECTED = json.loads((Path(__file__).parent / "bitsandbytes.json").read_text())
REPOSITORIES = {**FOUR_BITS, **INT8}
Q = "model.layers.0.self_attn.q_proj.weight"
NF4 = f"{Q}.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize("name", REPOSITORIES)
def test_rows_are_those_of_bitsandbytes(name: str) -> None:
    assert row_digests(REPOSITORIES[name].files()) == EXPECTED[name]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_file_is_that_of_the_rows(name: str) -> None:
    files = REPOSITORIES[name].files()
    check_file(files, "F32", "Q4_K_M")
    form = "INT8" if "int8" in name else "NF4" if "nf4" in name else "FP4"
    assert plan(files, quantization="F32").stored_as == (form,)


def expected_rows(tensors: Mapping[str, StoredTensor], shape: tuple[int, int], form: FourBit) -> Any:
    """Number by number."""
    codes = np.frombuffer(tensors["w"].data, np.uint8)
    codes = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)
    sizes = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
    scales = np.frombuffer(tensors["w.absmax"].data, np.uint8 if form.nested else np.float32)
    if form.nested:
        table = np.frombuffer(tensors["w.nested_quant_map"].data, np.float32)
        nested = np.frombuffer(tensors["w.nested_absmax"].data, np.float32)[np.arange(len(scales)) // form.nested]
        scales = table[scales] * nested + np.float32(0.1234567890123)
    numbers = np.concatenate([sizes, -sizes])[codes]
    return (numbers * scales[np.arange(prod(shape)) // form.block]).reshape(shape)


@pytest.mark.parametrize("nested", [0, 3, 256])
@pytest.mark.parametrize("block", [32, 64, 4096])
@pytest.mark.parametrize("shape", [(7, 10), (48, 96), (12, 256), (1, 64), (130, 34)])
def test_any_rows_where_blocks_cut_rows(shape: tuple[int, int], block: int, nested: int) -> None:
    form = FourBit("fp4", block, nested)
    tensors = dict(four_bit(form, Codes(), "w", shape))
    expected = expected_rows(tensors, shape, form)
    weights, content = located(tensors)
    [found] = find(weights, {})
    assert set(found.replaced) == set(tensors)
    count, width = shape

    def numbers(first: int, stop: int, **after: Any) -> Any:
        start = found.tensor.start
        piece = SourceRange("x", start + first * 4 * width, start + stop * 4 * width, **after)
        made_of = b"".join(part for one in found.tensor.unpack(piece) for part in made(one, {"x": content}, 5 * width))
        return np.frombuffer(made_of, np.float32).reshape(-1, width)

    for first, stop in ((0, count), (0, 1), (count - 1, count), (count // 3, count), (1, count - 1)):
        if first < stop:
            np.testing.assert_array_equal(numbers(first, stop), expected[first:stop])
    if count % 2 == 0:
        halves = expected.reshape(2, count // 2, width).swapaxes(0, 1).reshape(shape)
        np.testing.assert_array_equal(numbers(0, count, transform=interleave(4 * width, count)), halves)


def test_a_plan_reads_one_state_of_each_kind_of_matrix() -> None:
    """There may be tens of thousands of experts."""
    files = FOUR_BITS["qwen3moe_nf4_double"].files()
    read = tensors_to_read(stored_tensors(files))
    names = [one.name.removesuffix(".weight.quant_state.bitsandbytes__nf4").rpartition(".")[2] for one in read]
    assert sorted(names) == sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    assert any(mark in files[WEIGHTS] for mark in READ_MARKS)


def test_a_plan_reads_each_format_of_int8() -> None:
    files = INT8["llama_bnb_int8"].files()
    read = tensors_to_read(stored_tensors(files))
    assert len(read) == len(EXPECTED["llama_bnb_int8"])
    assert any(mark in files[WEIGHTS] for mark in READ_MARKS)


def test_no_other_tensor_is_read() -> None:
    assert not tensors_to_read(stored_tensors(FOUR_BITS["llama_nf4"].tiny.files()))


def test_a_state_that_is_too_large_is_not_read() -> None:
    tensors = dict(four_bit(FourBit(), Codes(), "w", (64, 64)))
    tensors["w.quant_state.bitsandbytes__nf4"] = StoredTensor("U8", (1 << 17,), b" " * (1 << 17))
    weights, _ = located(tensors)
    assert not list(wanted(weights))


def test_a_state_that_was_not_read_is_refused() -> None:
    weights, _ = located(dict(four_bit(FourBit(), Codes(), "w", (64, 64))))
    name = "w.quant_state.bitsandbytes__nf4"
    source = weights[name].source
    unread = LocatedTensor("x", name, stored_tensors(FOUR_BITS["llama_nf4"].files())[WEIGHTS][NF4])
    assert isinstance(source, ReadTensor)
    with pytest.raises(CannotConvert, match=f"{name}, which has the shape of a matrix, was not read"):
        list(find({**weights, name: unread}, {}))


def changed(name: str, tensors: Mapping[str, StoredTensor | None]) -> dict[str, bytes]:
    """The repository with other tensors; None removes one."""
    files = REPOSITORIES[name].files()
    merged = {**unpack_safetensors(files[WEIGHTS]), **tensors}
    kept = {tensor: stored for tensor, stored in merged.items() if stored is not None}
    return files | {WEIGHTS: pack_safetensors(kept)}


def state(**fields: object) -> StoredTensor:
    base = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [256, 256]}
    content = dump(base | fields)
    return StoredTensor("U8", (len(content),), content)


def in_all_layers(name: str, stored: StoredTensor) -> dict[str, StoredTensor]:
    return {name.replace(".0.", f".{layer}."): stored for layer in range(2)}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({Q: None}, f"the weights have {NF4}, but not {Q}"),
        ({f"{Q}.absmax": None}, rf"the weights have {NF4}, but not {Q}\.absmax"),
        (
            {f"{Q}.absmax": StoredTensor("F32", (1,), bytes(4))},
            rf"{Q}\.absmax has 4 bytes of the type F32, but its quant_state wants 4096 bytes of F32",
        ),
        ({f"{Q}.absmax": StoredTensor("U8", (4096,), bytes(4096))}, "4096 bytes of the type U8"),
        (in_all_layers(NF4, StoredTensor("U8", (2,), b"[]")), f"{NF4} cannot be read"),
        (in_all_layers(NF4, StoredTensor("U8", (1,), b"{")), f"{NF4} cannot be read"),
        (in_all_layers(NF4, state(shape=[256, 512])), rf"{Q} has 32768 bytes .* but its quant_state wants 65536 bytes"),
        (in_all_layers(NF4, state(shape=[2, 128, 256])), r"the shape \(2, 128, 256\)"),
        (in_all_layers(NF4, state(shape=[65536, 1])), r"the shape \(65536, 1\)"),
        (in_all_layers(NF4, state(shape=[256.0, 256])), r"the shape \(256.0, 256\)"),
        (in_all_layers(NF4, state(quant_type="af4")), "'af4' in blocks of 64"),
        (in_all_layers(NF4, state(blocksize=48)), "'nf4' in blocks of 48"),
        (
            in_all_layers(NF4, state(nested_blocksize=0, nested_dtype="float32", nested_offset=0)),
            "scales of the type 'float32' in blocks of 0",
        ),
        (
            in_all_layers(NF4, state(nested_blocksize=256, nested_dtype="float16", nested_offset=0)),
            "scales of the type 'float16' in blocks of 256",
        ),
        (
            in_all_layers(NF4, state(nested_blocksize=256, nested_dtype="float32", nested_offset=0)),
            rf"but not {Q}\.nested_absmax",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tensors: dict[str, StoredTensor | None], reason: str) -> None:
    with pytest.raises(CannotConvert, match=reason):
        plan(changed("llama_nf4", tensors), quantization="F32")


def test_a_layer_with_another_state_is_found_when_it_is_read() -> None:
    """Its bytes would make another matrix of the same size."""
    files = changed("llama_nf4", {NF4.replace(".0.", ".1."): state(shape=[512, 128])})
    conversion = plan(files, quantization="F32")
    with pytest.raises(CannotConvert, match=r"nf4 of the shape \[512, 128\] in blocks of 64, unlike nf4 of the shape"):
        write(conversion, files)


def test_a_state_that_is_damaged_is_found_when_it_is_read() -> None:
    files = changed("llama_nf4", {NF4.replace(".0.", ".1."): StoredTensor("U8", (1,), b"{")})
    conversion = plan(files, quantization="F32")
    with pytest.raises(CannotConvert, match="the quant_state of a matrix cannot be read"):
        write(conversion, files)


SCB, FORMAT = (Q.replace("weight", end) for end in ("SCB", "weight_format"))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({Q: None}, f"the weights have {SCB}, but not {Q}"),
        ({Q: StoredTensor("F16", (256, 256), bytes(1 << 17))}, rf"{Q} has the shape .* of the type F16; with {SCB}"),
        ({SCB: StoredTensor("F32", (128,), bytes(512))}, rf"{SCB} has the shape \[128\] .* not F32 for 256 rows"),
        ({SCB: StoredTensor("F16", (256,), bytes(512))}, "of the type F16, not F32"),
        ({FORMAT: StoredTensor("U8", (), b"\2")}, rf"{FORMAT} is 02; only rows \(00\) are known"),
        ({SCB: None}, r"quantized already \('bitsandbytes'\)"),
    ],
)
def test_int8_that_does_not_fit_is_refused(tensors: dict[str, StoredTensor | None], reason: str) -> None:
    with pytest.raises(CannotConvert, match=reason):
        plan(changed("llama_bnb_int8", tensors), quantization="F32")


def test_int8_without_a_format_is_of_rows() -> None:
    """Bitsandbytes wrote none at first, and reads such files as rows (nn/modules.py)."""
    files = changed("llama_bnb_int8", {FORMAT: None})
    assert row_digests(files) == EXPECTED["llama_bnb_int8"]
