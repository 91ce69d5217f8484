"""Weights of AWQ. That whole repositories match the libraries that write them is in test_gptq.py."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.packing.test_gptq import found_in, products, rows
from tests.gguf.tiny_repositories.packed_gptq import How, auto_round, random_layer, settings
from tests.kit.tiny_families import StoredTensor


@pytest.mark.parametrize("scales", ["F16", "BF16", "F32"])
def test_any_rows_are_the_products(scales: str) -> None:
    random = np.random.default_rng(4)
    for outputs, inputs, group in ((96, 160, 32), (64, 192, None), (8, 4128, 96), (1048, 96, 8)):
        how = How(4, "gemm", group, scales=scales)
        layer = random_layer(random, (outputs, inputs), how)
        expected = products(how, layer)
        for first, stop in ((0, outputs), (0, 1), (outputs - 1, outputs), (outputs // 3, outputs - 5)):
            np.testing.assert_array_equal(rows(how, layer, settings(how), first, stop), expected[first:stop])


def test_negative_scales_keep_the_sign_of_zero() -> None:
    how = How(4, "gemm", 32)
    layer = random_layer(np.random.default_rng(1), (32, 64), how)
    layer.scales[:] *= -1
    assert rows(how, layer, settings(how)).tobytes() == np.ascontiguousarray(products(how, layer)).tobytes()


FOUR = How(4, "gemm", 32)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "awq", "version": "GEMM"},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "awq", "format": "gemm", "checkpoint_format": "gemm", "backend": "auto"},
        auto_round(FOUR, "auto_round:auto_awq"),
    ],
)
def test_config_json_names_the_packing(config: Mapping[str, Any]) -> None:
    layer = random_layer(np.random.default_rng(1), (64, 128), FOUR)
    np.testing.assert_array_equal(rows(FOUR, layer, config), products(FOUR, layer))


LAYER = random_layer(np.random.default_rng(1), (64, 128), FOUR)
PACKED = {f"a{end}": stored for end, stored in FOUR.pack(LAYER).items()}
DIFFERS = "they do not fit each other as AWQ's of 4 bits do"


@pytest.mark.parametrize(
    ("changed", "config", "reason"),
    [
        ({}, {"version": "gemv"}, "method awq with the format gemv; known are gemm"),
        ({}, {"version": "GEMV_FAST"}, "with the format gemv_fast"),
        ({}, {"version": "marlin"}, "with the format marlin"),
        ({}, {"version": "exllama"}, "with the format exllama"),
        ({}, {"backend": "llm-awq"}, "with the format llm-awq"),
        ({}, {"backend": "llm-awq", "version": "gemm"}, "with the format gemm and llm-awq"),
        ({}, {"quant_method": "gptq"}, "they do not fit each other as GPTQ's do"),
        ({"a.qzeros": StoredTensor("I32", (4, 4), bytes(64))}, {}, DIFFERS),
        (
            {"a.scales": StoredTensor("F16", (3, 64), bytes(384))},
            {},
            DIFFERS,
        ),
        ({"a.g_idx": StoredTensor("I32", (128,), bytes(512))}, {}, DIFFERS),
    ],
)
def test_what_is_not_known_is_refused(
    changed: Mapping[str, StoredTensor], config: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(CannotConvert, match=reason):
        found_in({**PACKED, **changed}, {"quant_method": "awq", **config})
