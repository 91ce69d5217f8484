"""Weights that are stored in FP8 or INT8, compared with llama.cpp's converter (b11434) and torch 2.15.

`scaled_bytes.json` has the digest of each tensor that the converter writes with `--outtype f32` from the folders that
`python -m tests.gguf.tiny_repositories FOLDER` writes. For DeepSeek V4 it writes Q8_0 in any case: `tensor_force_quant`
was replaced, so that it wrote F32. Its experts and routers stay in MXFP4 and BF16, as in expected/deepseek4.json.
"""

import hashlib
import json
import random
from array import array
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.scaled_bytes import NUMBERS, find_grid, scale_numbers, scaled_bytes
from proxy.gguf.tensor_sources import LocatedTensor, SourceRange
from proxy.gguf.transforms import interleave, transpose
from proxy.planning.safetensors import Tensor
from tests.gguf.packing.rows import tensor_digests
from tests.gguf.tiny_repositories.packed import BLOCK, REPOSITORIES, WEIGHTS
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import made, plan, write
from tests.kit.dtypes import to_bytes, to_floats
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

EXPECTED = json.loads((Path(__file__).parent / "scaled_bytes.json").read_text())
_DEEPSEEK4_KEEPS = ("_exps.weight", "ffn_gate_inp.weight")


@pytest.mark.parametrize("name", REPOSITORIES)
def test_tensors_match_llama_cpp(name: str) -> None:
    files = REPOSITORIES[name].files()
    conversion = plan(files, quantization="F32")
    digests = tensor_digests(write(conversion, files, 1 << 14))
    is_deepseek4 = name == "deepseek4_fp8"
    kept = _DEEPSEEK4_KEEPS if is_deepseek4 else ()
    assert {tensor: digest for tensor, digest in digests.items() if not tensor.endswith(kept)} == EXPECTED[name]
    assert conversion.stored_as == (("INT8",) if "int8" in name else ("FP8", "MXFP4") if is_deepseek4 else ("FP8",))


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("F8_E4M3", "0c5d81084420441d5c98db2c276b865fc29738d60fba9c32b55aa8214762b794"),
        ("F8_E5M2", "f3e7031368f3245d56c8114ed15a46144bf609430c117e10fc3e0f5114d773b3"),
    ],
)
def test_each_number_is_that_of_torch(dtype: str, digest: str) -> None:
    """`torch.arange(256, dtype=torch.uint8).view(torch.float8_…).float()`, NaN as 0."""
    numbers = array("f", [0.0 if number != number else number for number in NUMBERS[dtype]])  # noqa: PLR0124
    assert hashlib.sha256(numbers.tobytes()).hexdigest() == digest


def test_scales_of_deepseek_v4_have_another_name() -> None:
    """As in DeepSeek-V4-Flash-Base, which has F32 scales."""
    name = "llama_fp8_blocks"
    files = REPOSITORIES[name].files()
    tensors = unpack_safetensors(files[WEIGHTS])
    renamed = {key.replace(".weight_scale_inv", ".scale"): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    files[WEIGHTS] = pack_safetensors(renamed)
    assert tensor_digests(write(plan(files, quantization="F32"), files)) == EXPECTED[name]


def layouts() -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, int] | None]]:
    """The shape, that of the scales, and the block."""
    generator = random.Random(3)
    for stack in ((), (3,)):
        for rows, columns in ((12, 8), (7, 10), (1, 4), (24, 6)):
            shape = (*stack, rows, columns)
            yield shape, (), None
            yield shape, (*stack, rows, 1), None
            yield shape, (*stack, 1, 1), None
            for _ in range(3):
                block = generator.randint(2, 5), generator.randint(2, 4)
                yield shape, (*stack, ceil(rows / block[0]), ceil(columns / block[1])), block


@pytest.mark.parametrize("scale_dtype", ["F32", "BF16", "F16"])
def test_any_rows_are_the_products(scale_dtype: str) -> None:
    for shape, scale_shape, block in layouts():
        check_products(shape, scale_shape, block, scale_dtype)


def check_products(
    shape: tuple[int, ...], scale_shape: tuple[int, ...], block: tuple[int, int] | None, scale_dtype: str
) -> None:
    generator = np.random.default_rng(5)
    codes = generator.integers(0, 256, shape, np.uint8)
    scales = to_bytes(scale_dtype, generator.standard_normal(prod(scale_shape)).astype(np.float32))
    wide = to_floats(scale_dtype, scales).reshape(scale_shape)
    if block:
        wide = wide.repeat(block[0], -2).repeat(block[1], -1)[..., : shape[-2], : shape[-1]]
    expected = (codes.view(np.int8).astype(np.float32) * wide).reshape(-1, shape[-1])
    files = {"x": b"..." + scales + codes.tobytes() + b"."}
    source = Tensor("I8", shape, 3 + len(scales), 3 + len(scales) + codes.size)
    scale_source = Tensor(scale_dtype, scale_shape, 3, 3 + len(scales))
    tensor = scaled_bytes(
        LocatedTensor("x", "w", source),
        LocatedTensor("x", "w_scale", scale_source),
        find_grid("w", shape, scale_source, block),
    )

    def numbers(first: int, stop: int, **after: object) -> object:
        row = 4 * shape[-1]
        piece = SourceRange("x", tensor.start + first * row, tensor.start + stop * row, **after)  # type: ignore[arg-type]
        content = b"".join(part for one in tensor.unpack(piece) for part in made(one, files, 3 * shape[-1]))
        return np.frombuffer(content, np.float32).reshape(-1, shape[-1])

    count = len(expected)
    for first, stop in ((0, count), (0, 1), (count - 1, count), (count // 3, count), (1, count - 1)):
        if first < stop:
            np.testing.assert_array_equal(numbers(first, stop), expected[first:stop])
    if len(shape) == len(BLOCK) and count % 2 == 0:
        halves = expected.reshape(2, count // 2, -1).swapaxes(0, 1).reshape(count, -1)
        np.testing.assert_array_equal(numbers(0, count, transform=interleave(4 * shape[-1], count)), halves)


def test_a_step_for_whole_matrices_gets_each_matrix_with_its_own_scales() -> None:
    """The last group of a matrix has fewer rows; that of the next matrix does not go on with it."""
    shape, block = (3, 7, 8), (4, 4)
    codes = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    scales = np.arange(1, 13, dtype=np.float32).reshape(3, 2, 2)
    wide = scales.repeat(4, 1).repeat(4, 2)[:, :7]
    expected = (codes.view(np.int8).astype(np.float32) * wide).swapaxes(1, 2)
    files = {"x": scales.tobytes() + codes.tobytes()}
    source, scale_source = Tensor("I8", shape, 48, 48 + codes.size), Tensor("F32", (3, 2, 2), 0, 48)
    tensor = scaled_bytes(
        LocatedTensor("x", "w", source),
        LocatedTensor("x", "w_scale", scale_source),
        find_grid("w", shape, scale_source, block),
    )
    piece = SourceRange("x", tensor.start, tensor.stop, transpose(7, 8, 4))
    content = b"".join(part for one in tensor.unpack(piece) for part in made(one, files))
    np.testing.assert_array_equal(np.frombuffer(content, np.float32).reshape(3, 8, 7), expected)
    two_matrices = SourceRange("x", tensor.start, tensor.start + 2 * 4 * 56, interleave(4 * 8, 14))
    with pytest.raises(CannotConvert, match="scales for each 4 rows, which do not fit the order"):
        list(tensor.unpack(two_matrices))


def test_scales_that_are_powers_of_two() -> None:
    """F8_E8M0 is what newer DeepSeek models have; 127 is 1."""
    assert list(scale_numbers("F8_E8M0", memoryview(bytes((127, 128, 0))))) == [1, 2, 2.0**-127]


def changed(
    name: str, tensors: dict[str, StoredTensor | None], config: dict[str, object] | None = None
) -> dict[str, bytes]:
    """The repository with other tensors; None removes one."""
    files = REPOSITORIES[name].files()
    merged = {**unpack_safetensors(files[WEIGHTS]), **tensors}
    settings = json.loads(files["config.json"])
    if config is not None:
        settings["quantization_config"] = config
    kept = {tensor: stored for tensor, stored in merged.items() if stored is not None}
    return files | {WEIGHTS: pack_safetensors(kept), "config.json": dump(settings)}


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        ({f"{Q}_scale_inv": None}, None, r"quantized already \('fp8'\)"),
        (
            {f"{Q}_scale_inv": StoredTensor("F32", (2, 2), bytes(16))},
            None,
            rf"{Q} has the shape .* \(F32\) have \[2, 2\]: they do",
        ),
        ({f"{Q}_scale_inv": StoredTensor("I32", (), bytes(4))}, None, r"its scales \(I32\) have \[\]"),
        ({}, {"quant_method": "fp8"}, "they do not fit each other"),
        ({}, {"weight_block_size": [0, 128]}, r"a quantization_config with blocks of \[0, 128\]"),
        (
            {},
            {"transform_config": {"config_groups": {"R1": {}}}},
            "with a transform_config, which llama.cpp does not run",
        ),
        ({}, {"config_groups": {"a": {"weights": None}, "b": 1}}, "they do not fit each other"),
        ({}, {"weight_block_size": "128"}, "a quantization_config with blocks of '128'"),
        ({f"{Q}_zero_point": StoredTensor("I8", (1,), bytes(1))}, None, "quantized already"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: dict[str, StoredTensor | None], config: dict[str, object] | None, reason: str
) -> None:
    with pytest.raises(CannotConvert, match=reason):
        plan(changed("llama_fp8_blocks", tensors, config), quantization="F32")


def test_numbers_without_scales_are_refused_by_name() -> None:
    """Without a quantization_config too: the weights decide."""
    files = changed("llama_fp8_tensors", {f"{Q}_scale": None}, {})
    with pytest.raises(CannotConvert, match=rf"'{Q}' is of the type F8_E4M3, not one of F32"):
        plan(files, quantization="F32")


def test_scales_may_be_in_another_file() -> None:
    files = REPOSITORIES["llama_fp8_blocks"].files()
    tensors = unpack_safetensors(files.pop(WEIGHTS))
    scales = {name: stored for name, stored in tensors.items() if name.endswith("_scale_inv")}
    files["model-1.safetensors"] = pack_safetensors(scales)
    files["model-2.safetensors"] = pack_safetensors(
        {name: stored for name, stored in tensors.items() if name not in scales}
    )
    conversion = plan(files, quantization="F32")
    assert tensor_digests(write(conversion, files)) == EXPECTED["llama_fp8_blocks"]
