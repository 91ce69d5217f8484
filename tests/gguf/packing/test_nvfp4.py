"""NVFP4 that stays NVFP4, compared with llama.cpp's converter and with `gguf`, the Python package of ggml.

`nvfp4.json` has the digests of the converter's tensors; `make_nvfp4.py` recorded them.
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from proxy.gguf.header import read_header
from proxy.gguf.keeping import SCALED, Fallback
from proxy.gguf.model_config import CannotConvert, CannotKeep
from proxy.gguf.packing import nvfp4
from proxy.gguf.tensors import TensorType
from tests.gguf.packing.make_nvfp4 import DIGITS, WITHOUT_FIGURES
from tests.gguf.packing.rows import packed_tensors, rows_of
from tests.gguf.tiny_repositories import REPOSITORIES as TINY
from tests.gguf.tiny_repositories.packed import WEIGHTS, Packed
from tests.gguf.tiny_repositories.packed_compressed import MODELOPT
from tests.gguf.tiny_repositories.packed_nvfp4 import REPOSITORIES, matrix
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan, write
from tests.kit.tiny_conversions import repository, tensors_of
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

EXPECTED = json.loads((Path(__file__).parent / "nvfp4.json").read_text())
K = "model.layers.0.self_attn.k_proj.weight"
Files = Mapping[str, bytes]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("window", [1 << 16, 300])
def test_every_tensor_is_the_converters_bit_for_bit(name: str, window: int) -> None:
    files = REPOSITORIES[name].files()
    made = tensors_of(write(plan(files, quantization="NVFP4"), files, window))
    assert EXPECTED[name] == {
        tensor: f"{TensorType(info.type).name} {'x'.join(map(str, info.shape))} "
        f"{hashlib.sha256(content).hexdigest()[:DIGITS]}"
        for tensor, (info, content) in made.items()
    }


def test_records_have_all() -> None:
    assert EXPECTED.keys() | set(WITHOUT_FIGURES) == REPOSITORIES.keys()


@pytest.mark.parametrize("name", REPOSITORIES)
def test_blocks_times_scale_are_the_rows(name: str) -> None:
    """`gguf` reads the blocks. It multiplies by the scales in another order, so the last bit may differ."""
    files = REPOSITORIES[name].files()
    conversion = plan(files, quantization="NVFP4")
    kept = tensors_of(write(conversion, files))
    unpacked = tensors_of(write(plan(files, quantization="F32"), files))
    count = 0
    for tensor, (info, content) in kept.items():
        if info.type == TensorType.NVFP4:
            scales = np.frombuffer(kept[tensor.removesuffix("weight") + "scale"][1], "<f4")
            blocks = np.frombuffer(content, np.uint8).reshape(len(scales), -1, info.shape[0] // 64 * 36)
            numbers = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.NVFP4) * scales[:, None, None]
            rows = np.frombuffer(unpacked[tensor][1], "<f4").reshape(numbers.shape)
            np.testing.assert_allclose(numbers, rows, rtol=3e-7)
            count += 1
    assert count
    header = read_header(conversion.header)
    assert header.metadata["general.file_type"].value == gguf.LlamaFileType.MOSTLY_NVFP4


@pytest.mark.parametrize("name", ["llama_modelopt", "qwen3moe_compressed"])
def test_nvfp4_is_what_a_fallback_means(name: str) -> None:
    files = REPOSITORIES[name].files()
    kept = plan(files, quantization=Fallback("Q4_K_M"))
    assert write(kept, files) == write(plan(files, quantization="NVFP4"), files)
    assert (kept.quantization, kept.stored_as) == ("NVFP4", ())
    other = plan(files, quantization="Q8_0")
    assert (other.quantization, other.stored_as) == ("Q8_0", ("NVFP4",))
    assert kept.nvfp4 == other.nvfp4 == ("", kept.size, len(other.header))
    assert kept.parameters == other.parameters


def changed(files: Files, tensors: Mapping[str, StoredTensor], **config: object) -> Files:
    settings = json.loads(files["config.json"]) | config
    stored = unpack_safetensors(files[WEIGHTS]) | dict(tensors)
    return {**files, "config.json": dump(settings), WEIGHTS: pack_safetensors(stored)}


def packed(name: str) -> Files:
    return Packed(TINY[name], lambda *what: matrix("", *what), MODELOPT).files()


def of_another_width() -> Files:
    """Rows of 96 numbers are whole blocks of the repository, but not of ggml."""
    files = REPOSITORIES["llama_modelopt"].files()
    tensors = {
        f"model.layers.{layer}.mlp.{name}_proj.weight{end}": StoredTensor(dtype, shape, bytes(size))
        for layer in range(2)
        for name, rows, width in (("gate", 96, 256), ("up", 96, 256), ("down", 256, 96))
        for end, dtype, shape, size in (
            ("", "U8", (rows, width // 2), rows * width // 2),
            ("_scale", "F8_E4M3", (rows, width // 16), rows * width // 16),
        )
    }
    return changed(files, tensors, intermediate_size=96)


def with_a_bias() -> Files:
    """`mlp_bias` gives each matrix of the feed-forward a bias."""
    files = REPOSITORIES["llama_modelopt"].files()
    biases = {
        f"model.layers.{layer}.mlp.{name}_proj.bias": StoredTensor("BF16", (rows,), bytes(2 * rows))
        for layer in range(2)
        for name, rows in (("gate", 512), ("up", 512), ("down", 256))
    }
    return changed(files, biases, mlp_bias=True)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (lambda: packed("qwen2"), r"llama.cpp does not multiply by the scale of blk.0.\w+.weight \(qwen2\)"),
        (lambda: packed("phi3"), r"llama.cpp does not multiply by the scale of blk.0.\w+.weight \(phi3\)"),
        (of_another_width, r"mlp.down_proj.weight has rows of 96 numbers, no multiple of 64"),
        (with_a_bias, r"llama.cpp adds the bias of blk.0.ffn_\w+.weight before it multiplies by the scale"),
        (lambda: repository("llama"), "its matrices are not NVFP4"),
    ],
    ids=["qwen2", "phi3", "width", "bias", "plain"],
)
def test_what_would_not_be_exact_does_not_stay(files: Callable[[], Files], reason: str) -> None:
    """With a tag of its own it is refused; without one it becomes another quantization, and the reason is kept."""
    content = files()
    with pytest.raises(CannotKeep, match=reason):
        plan(content, quantization="NVFP4")
    other = plan(content, quantization=Fallback("Q8_0"))
    assert write(other, content) == write(plan(content, quantization="Q8_0"), content)
    if other.nvfp4 is not None:
        assert re.search(reason, other.nvfp4.problem)
        assert other.nvfp4.size == 0
        assert "NVFP4" in other.stored_as


def test_a_negative_scale_changes_the_signs_of_its_numbers() -> None:
    """The scales of ggml have no sign. The other 48 numbers do not change."""
    codes = bytes((0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE))
    negative, positive = (nvfp4._repack(bytes((sign | 0x41, 0x38, 0x38, 0x38)) + codes * 4) for sign in (0x80, 0))
    assert negative[:4] == positive[:4]
    assert negative[12:] == positive[12:]
    read = [
        gguf.quants.dequantize(np.frombuffer(block, np.uint8), gguf.GGMLQuantizationType.NVFP4)
        for block in (negative, positive)
    ]
    np.testing.assert_array_equal(read[0][:16], -read[1][:16])
    assert read[1][:8].tolist() == [0, 1.125, 2.25, 3.375, 4.5, 6.75, 9, 13.5]


@pytest.mark.parametrize("scale", [0x7F, 0xFF])
def test_a_scale_that_is_no_number_is_refused(scale: int) -> None:
    """As 0 ggml would read it."""
    with pytest.raises(CannotConvert, match="a scale of NVFP4 is no number"):
        nvfp4._repack(bytes((0x38, scale, 0x38, 0x38)) + bytes(32))


@pytest.mark.parametrize(("number", "divides"), [(0.0, True), (float("nan"), False), (float("inf"), False)])
def test_a_scale_of_a_matrix_that_is_no_number_is_refused(number: float, divides: bool) -> None:
    with pytest.raises(CannotConvert, match="a scale of NVFP4 is no number"):
        nvfp4._scale_numbers(struct.pack("<f", number), divides=divides)


@pytest.mark.parametrize("scale", [0, 1, 7, 8, 0x7E])
def test_the_smallest_and_the_largest_scales(scale: int) -> None:
    """Subnormal numbers, and 448."""
    expected = scale * 2.0**-9 if scale < 8 else {8: 2.0**-6, 0x7E: 448.0}[scale]
    block = nvfp4._repack(bytes((scale, 0, 0, 0)) + b"\x22" * 32)
    read = gguf.quants.dequantize(np.frombuffer(block, np.uint8), gguf.GGMLQuantizationType.NVFP4)
    assert read[:16].tolist() == [expected] * 16


def test_a_matrix_that_is_stored_in_fp8_becomes_bf16() -> None:
    """As in llama.cpp's converter: ModelOpt mixes both."""
    files = dict(REPOSITORIES["llama_modelopt"].files())
    stored = unpack_safetensors(files[WEIGHTS])
    del stored[f"{K}_scale_2"]
    stored[K] = StoredTensor("F8_E4M3", (128, 256), bytes(number & 0x77 for number in range(256)) * 128)
    stored[f"{K}_scale"] = StoredTensor("F32", (), struct.pack("<f", 0.1))
    files[WEIGHTS] = pack_safetensors(stored)
    conversion = plan(files, quantization="NVFP4")
    types = {tensor.name: TensorType(tensor.type).name for tensor in conversion.tensors}
    assert types["blk.0.attn_k.weight"] == "BF16"
    assert types["blk.0.attn_q.weight"] == "NVFP4"
    assert "blk.0.attn_k.scale" not in types
    assert conversion.stored_as == ("FP8",)


def test_input_scales_may_be_missing() -> None:
    """Of all experts but one: llama.cpp's converter writes 1 for those without."""
    files = dict(REPOSITORIES["qwen3moe_modelopt"].files())
    stored = unpack_safetensors(files[WEIGHTS])
    up = "model.layers.0.mlp.experts.{}.up_proj.input_scale"
    for expert in range(1, 4):
        del stored[up.format(expert)]
    files[WEIGHTS] = pack_safetensors(stored)
    made = tensors_of(write(plan(files, quantization="NVFP4"), files))
    assert made["blk.0.ffn_up_exps.input_scale"][1] == stored[up.format(0)].data + struct.pack("<3f", 1, 1, 1)


def test_long_matrices_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few scales are held at a time; heads that are permuted stay whole."""
    files = REPOSITORIES["llama_modelopt"].files()
    whole = write(plan(files, quantization="NVFP4"), files)
    monkeypatch.setattr(nvfp4, "_MAX_SCALES", 16 * 200)
    cut = plan(files, quantization="NVFP4")
    assert len(cut.pieces) > len(plan(files, quantization="Q8_0").pieces)
    assert write(cut, files) == whole


def test_rows_can_still_be_unpacked() -> None:
    files = REPOSITORIES["llama_modelopt"].files()
    tensor = packed_tensors(files)[K]
    whole = rows_of(tensor, files)
    np.testing.assert_array_equal(rows_of(tensor, files, 3, 8), whole[3:8])


def test_each_architecture_has_a_tiny_repository() -> None:
    kept = {plan(one.files(), quantization="NVFP4").architecture for one in REPOSITORIES.values()}
    assert kept == SCALED.keys()
