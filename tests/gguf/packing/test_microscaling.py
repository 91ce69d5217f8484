"""NVFP4 and MXFP4, compared with compressed-tensors, ModelOpt and transformers.

`compressed.json` has the digests; `make_compressed.py` recorded them.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing import microscaling
from proxy.gguf.packing.microscaling import Part
from proxy.gguf.packing.packed import Array, RowSlice
from tests.gguf.packing.rows import packed_tensors, row_digests, rows_of, tensor_digests
from tests.gguf.packing.test_packed_integers import EXPECTED, zeros
from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.packed_compressed import REPOSITORIES
from tests.gguf.tiny_repositories.schemes import KEPT
from tests.gguf.writing import plan, write
from tests.kit.tiny_conversions import repository, tensors_of
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

FP4 = {name: one for name, one in REPOSITORIES.items() if "fp4" in name}


@pytest.mark.parametrize("name", FP4)
def test_matrices_are_those_of_their_authors(name: str) -> None:
    files = FP4[name].files()
    for window in (1 << 16, 100):
        assert row_digests(files, window) == EXPECTED[name]


@pytest.mark.parametrize("name", FP4)
def test_a_whole_repository(name: str) -> None:
    """Scales of activations are left out."""
    conversion = plan(FP4[name].files(), quantization="Q8_0")
    assert conversion.stored_as == (("MXFP4",) if "mxfp4" in name else ("NVFP4",))
    assert len(write(conversion, FP4[name].files())) == conversion.size


@pytest.mark.parametrize("quantization", ["F32", "BF16", "Q8_0", "Q4_K_M"])
def test_gpt_oss_in_other_types(quantization: str) -> None:
    """Its experts are transformers', in F32."""
    files = dict(repository("gpt_oss"))
    conversion = plan(files, quantization=quantization)
    assert conversion.stored_as == ("MXFP4",)
    content = write(conversion, files, 1 << 14)
    assert len(content) == conversion.size
    made = tensor_digests(content)
    if quantization == "F32":
        assert {name: made[name] for name in EXPECTED["gpt_oss"]} == EXPECTED["gpt_oss"]


@pytest.mark.parametrize("quantization", ["BF16", "Q8_0"])
@pytest.mark.parametrize("twins", [("gpt_oss", "gpt_oss_v5"), ("deepseek4", "deepseek4_bf16")])
def test_kept_experts_are_what_their_unquantized_twins_become(twins: tuple[str, str], quantization: str) -> None:
    """The twins have the same numbers in BF16, which loses none; those of GPT-OSS are transposed."""
    packed, plain = (
        {
            name: one
            for name, (_, one) in tensors_of(
                write(plan(repository(twin), quantization=quantization), repository(twin))
            ).items()
            if "_exps.weight" in name
        }
        for twin in twins
    )
    assert packed == plain


@pytest.mark.parametrize("name", KEPT)
def test_kept_experts_keep_their_blocks(name: str) -> None:
    """Without a tag and with its own, bit for bit."""
    files = repository(name)
    kept, asked = plan(files), plan(files, quantization="MXFP4_MOE")
    for conversion in (kept, asked):
        experts = [tensor for tensor in conversion.tensors if "_exps.weight" in tensor.name]
        assert {tensor.type for tensor in experts} == {39}
    of_kept, of_asked = (tensors_of(write(one, files)) for one in (kept, asked))
    for tensor, (_, content) in of_kept.items():
        if "_exps.weight" in tensor:
            assert of_asked[tensor][1] == content


def mxfp4_rows(packed: memoryview, scales: bytes, part: Part, rows: int) -> Array:
    made = microscaling._mxfp4(part, RowSlice(rows, 0), packed, [memoryview(scales)])
    return np.frombuffer(made, np.float32).reshape(rows, -1)


def test_scales_that_are_no_numbers() -> None:
    """255 is NaN; 0 is the smallest, whose products F32 has exactly."""
    packed = memoryview(bytes(range(16)) * 3)
    rows = mxfp4_rows(packed, bytes((0, 254, 255)), Part(), 3)
    assert rows[0, 2] == 2.0**-128
    assert rows[1, 2] == 2.0**126
    assert np.isnan(rows[2]).all()


def test_every_second_row() -> None:
    generator = np.random.default_rng(3)
    packed = memoryview(generator.integers(0, 256, (6, 32), np.uint8).tobytes())
    scales = generator.integers(100, 140, (6, 2), np.uint8).tobytes()
    whole = mxfp4_rows(packed, scales, Part(), 6)
    for index in range(2):
        half = mxfp4_rows(packed, scales, Part(2, index), 3)
        np.testing.assert_array_equal(half, whole[index::2])


@pytest.mark.parametrize("name", FP4)
def test_any_rows(name: str) -> None:
    files = FP4[name].files()
    tensor = pickle.loads(pickle.dumps(next(iter(packed_tensors(files).values()))))
    whole = rows_of(tensor, files)
    np.testing.assert_array_equal(rows_of(tensor, files, 3, 8), whole[3:8])


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "tensors", "reason"),
    [
        ("qwen3moe_nvfp4", {f"{Q}_scale": None}, f"{Q}_packed has numbers of four bits .* or without it"),
        ("qwen3moe_nvfp4", {f"{Q}_zero_point": zeros("U8", 1)}, f"{Q}_packed has numbers of four bits with other"),
        ("qwen3moe_nvfp4", {f"{Q}_global_scale": None}, f"{Q}_packed without {Q}_global_scale"),
        ("qwen3moe_nvfp4", {f"{Q}_global_scale": zeros("BF16", 1)}, r"tensors of NVFP4 .*global_scale \[1\] \(BF16\)"),
        ("qwen3moe_nvfp4", {f"{Q}_scale": zeros("F8_E4M3", 256, 8)}, r"NVFP4 do not fit .*scale \[256, 8\]"),
        ("llama_nvfp4_modelopt", {f"{Q}_scale_2": None}, f"{Q} without {Q}_scale_2"),
        ("llama_nvfp4_modelopt", {f"{Q}_scale_2": zeros("BF16", 2)}, r"NVFP4 do not fit .*_scale_2 \[2\]"),
        ("qwen2_mxfp4", {f"{Q}_scale": zeros("U8", 256, 16)}, r"MXFP4 do not fit .*scale \[256, 16\]"),
        ("qwen2_mxfp4", {f"{Q}_scale": zeros("U8", 256, 8, 1)}, r"MXFP4 do not fit .*scale \[256, 8, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, tensors: dict[str, StoredTensor | None], reason: str) -> None:
    files = FP4[name].files()
    merged = {**unpack_safetensors(files[WEIGHTS]), **tensors}
    kept = pack_safetensors({one: stored for one, stored in merged.items() if stored is not None})
    with pytest.raises(CannotConvert, match=reason):
        packed_tensors(files | {WEIGHTS: kept})


def test_bytes_with_other_scales_are_refused_by_name() -> None:
    """Another four-bit format of the same shapes: its scales are not E4M3."""
    files = FP4["llama_nvfp4_modelopt"].files()
    tensors = unpack_safetensors(files[WEIGHTS])
    tensors[f"{Q}_scale"] = zeros("U8", *tensors[f"{Q}_scale"].shape)
    with pytest.raises(CannotConvert, match="quantized already"):
        plan({**files, WEIGHTS: pack_safetensors(tensors)}, quantization="F32")


def test_records_have_all() -> None:
    path = Path(__file__).parent / "compressed.json"
    assert {*REPOSITORIES, "gpt_oss"} <= set(json.loads(path.read_text())["matrices"])
