"""FP8 weights: taken in blocks, described as blocks where they are none, refused where nothing fits."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.planning import fp8
from proxy.planning.preflight import Edit, Findings
from proxy.planning.weights import NotConvertible
from tests.planning.shapes import FEED_FORWARD, HIDDEN, LLAMA, Shapes, checked, config, shapes
from tests.planning.test_safetensors import JSON

WEIGHT, OTHER = "model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"
ROWS, COLUMNS = HIDDEN, FEED_FORWARD
WHOLE = [fp8.WHOLE, fp8.WHOLE]


def found_of(
    *scales: tuple[str, str, tuple[int, ...]], said: dict[str, Any] | None = None, more: Shapes | None = None
) -> Findings:
    """Of a Llama whose first down_proj is FP8, with these scales; `said` is its quantization_config."""
    tensors = shapes(LLAMA) | {WEIGHT: ("F8_E4M3", (ROWS, COLUMNS))}
    tensors |= {name: (dtype, shape) for name, dtype, shape in scales} | (more or {})
    return checked(config(LLAMA, **({"quantization_config": said} if said else {})), tensors, version="0.24.0")


@pytest.mark.parametrize("end", ["_scale", "_scale_inv", ".scale", ".scale_inv"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_blocks_that_fit_are_taken_as_they_are(end: str, dtype: str) -> None:
    said = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    found = found_of((WEIGHT + end, dtype, (2, 3)), said=said)
    assert (found.repairs, found.edits["model.safetensors"]) == ([], {})
    assert found.config["quantization_config"] == said


@pytest.mark.parametrize(
    ("shape", "block", "edit"),
    [
        ((), WHOLE, (1, 1)),
        ((1,), WHOLE, (1, 1)),
        ((1, 1), WHOLE, None),
        ((ROWS,), [1, fp8.WHOLE], (ROWS, 1)),
        ((ROWS, 1), [1, fp8.WHOLE], None),
    ],
)
def test_one_scale_for_a_row_or_for_all_is_described_as_a_block(
    shape: tuple[int, ...], block: list[int], edit: tuple[int, ...] | None
) -> None:
    found = found_of((f"{WEIGHT}_scale", "F32", shape))
    assert found.config["quantization_config"] == {"quant_method": "fp8", "weight_block_size": block}
    assert found.edits["model.safetensors"] == ({f"{WEIGHT}_scale": Edit(f"{WEIGHT}_scale", edit)} if edit else {})
    assert found.repairs == ["config.json: the FP8 scales, one for a row or a whole tensor, described as blocks"]


def test_a_small_matrix_among_blocks_is_one_block() -> None:
    said = {"weight_block_size": [128, 128]}
    for shape in ((1, 1), (1,), ()):
        found = found_of((f"{WEIGHT}_scale", "F32", shape), said=said)
        assert found.config["quantization_config"] == said


def test_two_ways_of_scaling_in_one_model_are_refused() -> None:
    more: Shapes = {OTHER: ("F8_E4M3", (ROWS, COLUMNS)), f"{OTHER}_scale": ("F32", (ROWS, 1))}
    with pytest.raises(NotConvertible, match=f"{OTHER} is FP8 in other blocks than others"):
        found_of((f"{WEIGHT}_scale", "F32", ()), more=more)
    same: Shapes = {OTHER: ("F8_E4M3", (ROWS, COLUMNS)), f"{OTHER}_scale": ("F32", ())}
    assert len(found_of((f"{WEIGHT}_scale", "F32", ()), more=same).repairs) == 1


@pytest.mark.parametrize(
    "scales",
    [
        [],
        [(f"{WEIGHT}_scale", "F32", (1, 1)), (f"{WEIGHT}_scale_inv", "F32", (1, 1))],
        [(f"{WEIGHT}_scale", "F8_E8M0", (1, 1))],
        [(f"{WEIGHT}_scale", "I32", (1, 1))],
    ],
)
def test_fp8_without_one_scale_of_a_known_type_is_refused(scales: list[tuple[str, str, tuple[int, ...]]]) -> None:
    with pytest.raises(NotConvertible, match="FP8 without a scale|is of the type (F8_E8M0|I32)"):
        found_of(*scales)


def test_fp8_that_is_no_matrix_is_refused() -> None:
    name = "model.norm.weight"
    more: Shapes = {name: ("F8_E4M3", (HIDDEN,)), f"{name}_scale": ("F32", (1,))}
    with pytest.raises(NotConvertible, match=f"{name} is FP8 without a scale that Ollama can read"):
        found_of((f"{WEIGHT}_scale", "F32", ()), more=more)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 3), None),
        ((2, 3), {"weight_block_size": [64, 64]}),
        ((3, 2), {"weight_block_size": [32, 32]}),
        ((2, 3), {"weight_block_size": [0, 0]}),
        ((2, 3), {"weight_block_size": [-32, -32]}),
        ((2, 3), {"weight_block_size": "32"}),
        ((COLUMNS,), None),
        ((1, COLUMNS), None),
    ],
)
def test_scales_that_do_not_fit_the_blocks_are_refused(shape: tuple[int, ...], said: dict[str, Any] | None) -> None:
    with pytest.raises(NotConvertible, match=r"FP8 in the shape \[64, 96\] with scales .* do not fit"):
        found_of((f"{WEIGHT}_scale_inv", "F32", shape), said=said)


@pytest.mark.parametrize("scope", [None, "text_config"])
@pytest.mark.parametrize("key", ["quantization", "quantization_config", "compression_config"])
@pytest.mark.parametrize(
    "said",
    [
        {"weight_block_size": [32, 16]},
        {"config_groups": {"group_0": {"weights": {"block_structure": [32, 16]}}}},
        {"config_groups": {"a": None, "b": {"weights": None}, "c": {"weights": {"block_structure": [32, 16]}}}},
    ],
)
def test_a_block_is_found_wherever_it_is_said(scope: str | None, key: str, said: dict[str, Any]) -> None:
    assert fp8.block_of({scope: {key: said}} if scope else {key: said}) == (32, 16)


@given(said=JSON, groups=JSON, scope=st.sampled_from(["quantization", "text_config"]))
def test_any_word_on_blocks_is_a_block_or_none(said: Any, groups: Any, scope: str) -> None:
    for fields in ({scope: said}, {"quantization": {"config_groups": {"x": groups}, "weight_block_size": said}}):
        block = fp8.block_of(fields)
        assert block is None or len(block) == 2


@given(
    shape=st.lists(st.integers(0, 100) | st.sampled_from([ROWS, COLUMNS]), max_size=3).map(tuple),
    weight=st.lists(st.integers(0, 100), max_size=3).map(tuple),
    block=JSON | st.tuples(st.integers(-2, 100), st.integers(-2, 100)).map(list),
)
def test_any_shapes_are_taken_or_refused(shape: tuple[int, ...], weight: tuple[int, ...], block: Any) -> None:
    tensors: Shapes = {"x": ("F8_E4M3", weight), "x_scale": ("F32", shape)}
    with contextlib.suppress(Refusal):
        checked({"architectures": ["CohereForCausalLM"], "quantization": {"weight_block_size": block}}, tensors)
