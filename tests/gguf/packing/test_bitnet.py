"""Ternary weights of BitNet, compared with the layers of transformers 5.24 and with llama.cpp's converter (b11434).

`make_bnb_records.py` writes transformers' figures to `bitnet.json`. Those of llama.cpp are the digests of the tensors
that `convert_hf_to_gguf.py --no-lazy --outtype f32` writes; its `get_vocab_base_pre` has to answer `llama-bpe`, for it
does not know the tiny tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.packing.rows import check_file, packed_tensors, row_digests, rows_of, tensor_digests
from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.packed_bnb import AUTO, BITNET, TERNARY
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan, write
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

EXPECTED = json.loads((Path(__file__).parent / "bitnet.json").read_text())
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("name", TERNARY)
def test_rows_are_those_of_transformers(name: str) -> None:
    assert row_digests(TERNARY[name].files()) == EXPECTED[name]


def test_tensors_match_llama_cpp() -> None:
    """Where the scales divide. It divides by those of `autobitlinear` too, which multiply."""
    files = TERNARY["llama_bitnet"].files()
    conversion = plan(files, quantization="F32")
    assert tensor_digests(write(conversion, files, 1 << 14)) == EXPECTED["llama.cpp"]
    assert conversion.stored_as == ("BitNet",)


@pytest.mark.parametrize("name", TERNARY)
def test_the_file_is_that_of_the_rows(name: str) -> None:
    check_file(TERNARY[name].files(), "F32", "Q8_0")


@pytest.mark.parametrize("name", TERNARY)
def test_any_rows_are_those_of_the_whole(name: str) -> None:
    files = TERNARY[name].files()
    for one in list(packed_tensors(files).values())[:3]:
        whole, count = rows_of(one, files), one.shape[0]
        assert len(np.unique(whole)) == 3
        for first, stop in ((0, 1), (count - 1, count), (count // 4 - 1, 3 * count // 4 + 1)):
            np.testing.assert_array_equal(rows_of(one, files, first, stop), whole[first:stop])


@pytest.mark.parametrize("name", TERNARY)
def test_bf16_is_exact_where_the_scales_multiply(name: str) -> None:
    """The scales are BF16 numbers; what they divide is not."""
    files = TERNARY[name].files()
    numbers = np.concatenate([rows_of(one, files).view(np.uint32).ravel() for one in packed_tensors(files).values()])
    assert (not (numbers & 0xFFFF).any()) == (name == "llama_bitnet_auto")


def changed(tensors: dict[str, StoredTensor | None], settings: dict[str, Any]) -> dict[str, bytes]:
    """The repository with other tensors; None removes one."""
    files = TERNARY["llama_bitnet"].files()
    merged = {**unpack_safetensors(files[WEIGHTS]), **tensors}
    kept = {name: stored for name, stored in merged.items() if stored is not None}
    config = json.loads(files["config.json"]) | {"quantization_config": settings}
    return files | {"config.json": dump(config), WEIGHTS: pack_safetensors(kept)}


ONE = StoredTensor("F32", (1,), bytes(4))


@pytest.mark.parametrize(
    ("tensors", "settings", "reason"),
    [
        ({f"{Q}_scale": None}, BITNET, rf"{Q} has the shape \[64, 256\] of the type U8 and has no scale"),
        ({f"{Q}_scale": StoredTensor("F32", (2,), bytes(8))}, BITNET, r"and has scales of the shape \[2\]"),
        ({f"{Q}_scale": StoredTensor("U8", (1,), bytes(1))}, BITNET, "and the type U8"),
        ({Q: StoredTensor("F32", (256, 256), bytes(1 << 18))}, AUTO, "of the type F32 and has a scale"),
        ({}, AUTO | {"quantization_mode": "online"}, "ternary while it runs"),
        ({}, BITNET | {"use_rms_norm": True}, "with a norm in each linear layer"),
        ({}, BITNET | {"linear_class": "other"}, "with the linear class 'other' in the mode 'offline'"),
        ({}, BITNET | {"quantization_mode": "later"}, "in the mode 'later'"),
        ({}, {}, "_proj.weight' is of the type U8"),
        ({}, {"quant_method": "other"}, r"quantized already \('other'\)"),
    ],
)
def test_what_is_not_known_is_refused(
    tensors: dict[str, StoredTensor | None], settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CannotConvert, match=reason):
        plan(changed(tensors, settings), quantization="F32")


def test_weights_that_become_ternary_later_are_refused() -> None:
    """They are plain, but the model does not multiply with them: this configuration is no leftover."""
    files = TERNARY["llama_bitnet"].tiny.files()
    config = json.loads(files["config.json"]) | {"quantization_config": AUTO | {"quantization_mode": "online"}}
    with pytest.raises(CannotConvert, match="ternary while it runs"):
        plan(files | {"config.json": dump(config)}, quantization="F32")
