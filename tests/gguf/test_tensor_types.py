"""The type of each tensor, against llama-quantize's own choices, and a few examples of each rule."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from proxy.gguf.header import Field, ValueType
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_types import FILE_TYPES, NEED_IMPORTANCE, ModelFacts, is_quantized, quantized_types
from proxy.gguf.tensors import TensorInfo, TensorType
from tests.gguf.make_tensor_types import FIGURES, MODELS, REFUSED, group_by_type

ROW = 256
ALL = tuple(FILE_TYPES)


@cache
def figures() -> Mapping[str, Mapping[str, Any]]:
    content: Mapping[str, Mapping[str, Any]] = json.loads(FIGURES.read_bytes())
    return content


def info(name: str, *shape: int, kind: TensorType = TensorType.BF16) -> TensorInfo:
    return TensorInfo(name, shape or (ROW, ROW), kind)


def blocks(name: str, count: int, *shape: int) -> list[TensorInfo]:
    return [info(f"blk.{block}.{name}.weight", *shape) for block in range(count)]


def chosen(
    file_type: str, tensors: Sequence[TensorInfo], *, architecture: str = "llama", count: int = 32, **facts: int
) -> list[str]:
    """The types in the order of `tensors`, for a model with an output tensor of its own."""
    types = quantized_types(file_type, ModelFacts(architecture, count, **facts), [*tensors, info("output.weight")])
    return [types[tensor.name].name for tensor in tensors]


@pytest.mark.parametrize("name", MODELS)
def test_types_are_those_of_llama_quantize(name: str) -> None:
    model = MODELS[name]
    facts, tensors = ModelFacts.of(model.fields()), model.tensors()
    for file_type in FILE_TYPES:
        expected = figures()[name][file_type]
        if expected == REFUSED:
            with pytest.raises(CannotConvert):
                quantized_types(file_type, facts, tensors)
        else:
            types = quantized_types(file_type, facts, reversed(tensors))
            assert group_by_type({name: kind.name for name, kind in types.items()}) == expected


def test_figures_cover_all_types_and_models() -> None:
    assert {(name, *each) for name, each in figures().items()} == {(name, *ALL) for name in MODELS}


@pytest.mark.parametrize(
    ("file_type", "name", "usual", "special"),
    [
        ("Q4_K_M", "attn_v", "Q4_K", dict.fromkeys([0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, *range(27, 32)], "Q6_K")),
        ("Q5_K_M", "ffn_down", "Q5_K", dict.fromkeys([0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, *range(27, 32)], "Q6_K")),
        ("Q4_K_S", "attn_v", "Q4_K", dict.fromkeys(range(4), "Q5_K")),
        ("Q4_K_S", "ffn_down", "Q4_K", dict.fromkeys(range(4), "Q5_K")),
        ("Q3_K_M", "attn_v", "Q4_K", dict.fromkeys(range(2), "Q5_K")),
        ("Q3_K_M", "ffn_down", "Q4_K", dict.fromkeys(range(2), "Q5_K")),
        ("Q3_K_M", "attn_output", "Q4_K", {}),
        ("Q3_K_L", "attn_output", "Q5_K", {}),
        ("Q2_K", "attn_v", "Q3_K", {}),
        ("IQ4_XS", "ffn_down", "IQ4_XS", dict.fromkeys(range(4), "Q5_K")),
        ("IQ3_M", "ffn_down", "IQ3_S", dict.fromkeys(range(4), "Q4_K")),
        ("Q4_0", "attn_v", "Q4_0", {}),
        ("Q4_K_M", "ffn_up", "Q4_K", {}),
    ],
)
def test_some_blocks_are_more_precise(file_type: str, name: str, usual: str, special: Mapping[int, str]) -> None:
    assert chosen(file_type, blocks(name, 32)) == [special.get(block, usual) for block in range(32)]


@pytest.mark.parametrize(("file_type", "kind"), [("Q2_K", "Q4_K"), ("IQ4_NL", "Q5_K"), ("IQ3_S", "Q4_K")])
def test_values_shared_by_four_heads_are_more_precise(file_type: str, kind: str) -> None:
    assert chosen(file_type, blocks("attn_v", 1), heads=8, kv_heads=2) == [kind]
    assert chosen(file_type, blocks("attn_v", 1), heads=8, kv_heads=3) != [kind]


@pytest.mark.parametrize(
    ("architecture", "count", "kv_heads", "kind"),
    [
        ("llama", 80, 8, "Q5_K"),
        ("llama", 80, 64, "Q4_K"),
        ("llama", 81, 8, "Q4_K"),
        ("qwen2", 80, 64, "Q5_K"),
        ("jais2", 68, 64, "Q5_K"),
        ("qwen3", 80, 8, "Q4_K"),
    ],
)
def test_values_of_a_70b_are_more_precise(architecture: str, count: int, kv_heads: int, kind: str) -> None:
    values = blocks("attn_v", count)
    assert chosen("Q4_K_M", values, architecture=architecture, count=count, heads=64, kv_heads=kv_heads)[14] == kind


def test_models_with_exactly_eight_experts() -> None:
    tensors = [info(f"blk.0.{name}.weight") for name in ("attn_k", "attn_v", "attn_output")]
    assert chosen("Q4_K_S", tensors, experts=8) == ["Q8_0", "Q8_0", "Q5_K"]
    assert chosen("Q3_K_L", tensors, experts=8) == ["Q8_0", "Q8_0", "Q3_K"]
    assert chosen("Q4_K_S", tensors, experts=9) == ["Q4_K", "Q5_K", "Q4_K"]


def test_the_layer_of_experts_is_in_their_names() -> None:
    last = [info("blk.31.ffn_down_exps.weight"), info("blk.10.ffn_down_shexp.weight")]
    assert chosen("Q4_K_M", last, experts=4) == ["Q6_K", "Q4_K"]
    assert chosen("Q4_K_M", last) == ["Q6_K", "Q6_K"]
    for name in ("blk.32.ffn_up_exps.weight", "ffn_down.weight"):
        with pytest.raises(CannotConvert, match="in none of the model's 32 layers"):
            chosen("Q4_K_M", [info(name)], experts=4)


def test_counts_in_the_order_of_the_blocks() -> None:
    values = [info(f"blk.{block}.attn_v.weight") for block in (10, 2, 1, 0)]
    assert chosen("Q3_K_M", values) == ["Q4_K", "Q4_K", "Q5_K", "Q5_K"]
    names = ["token_embd.weight", "output.weight", *(f"blk.{block}.attn_v.weight" for block in (0, 1, 2, 10))]
    types = quantized_types("Q3_K_M", ModelFacts("llama", 32), [info(name) for name in reversed(names)])
    assert list(types) == ["output.weight", "token_embd.weight", *names[2:]]


@pytest.mark.parametrize("value", ["attn_qkv", "attn_kv_b"])
def test_values_in_other_matrices(value: str) -> None:
    assert chosen("Q4_K_M", blocks(value, 2), count=2) == ["Q4_K", "Q6_K"]


def test_falcon_has_other_rules() -> None:
    down = chosen("Q4_K_M", blocks("ffn_down", 32), architecture="falcon")
    assert down[:6] == ["Q6_K", "Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K"]
    assert chosen("Q4_K_S", blocks("ffn_down", 1), architecture="falcon") == ["Q4_K"]
    assert chosen("Q3_K_M", blocks("attn_output", 1), architecture="falcon") == ["Q3_K"]
    assert chosen("Q4_K_M", [info("output.weight")], architecture="falcon") == ["Q8_0"]


def test_tied_embeddings_have_the_type_of_the_output() -> None:
    embeddings = [info("token_embd.weight")]
    facts = ModelFacts("llama", 2)
    assert quantized_types("Q4_K_M", facts, embeddings) == {"token_embd.weight": TensorType.Q6_K}
    assert chosen("Q4_K_M", embeddings) == ["Q4_K"]
    assert chosen("TQ2_0", embeddings) == ["Q4_K"]
    assert chosen("Q8_0", [info("output.weight")]) == ["Q8_0"]


def test_mxfp4_is_for_experts() -> None:
    stacked = [info("blk.0.ffn_up_exps.weight", ROW, ROW, 4), info("blk.0.attn_k_b.weight", ROW, ROW, 4)]
    assert chosen("MXFP4_MOE", stacked) == ["MXFP4", "MXFP4"]
    assert chosen("MXFP4_MOE", stacked, architecture="bailingmoe3") == ["MXFP4", "Q8_0"]
    assert chosen("MXFP4_MOE", [info("blk.0.ffn_up.weight"), info("output.weight")]) == ["Q8_0", "Q8_0"]


@pytest.mark.parametrize(
    ("file_type", "row", "kind"),
    [
        ("Q4_K_M", 96, "Q5_0"),
        ("Q5_K_S", 96, "Q5_1"),
        ("Q6_K", 96, "Q8_0"),
        ("Q3_K_S", 96, "Q4_0"),
        ("Q2_K", 96, "Q4_0"),
        ("TQ1_0", 96, "Q4_0"),
        ("IQ4_XS", 96, "IQ4_NL"),
        ("IQ3_S", 96, "IQ4_NL"),
        ("Q4_K_M", 100, "F16"),
        ("IQ3_M", 100, "F16"),
        ("BF16", 100, "BF16"),
    ],
)
def test_rows_that_do_not_fill_blocks(file_type: str, row: int, kind: str) -> None:
    assert chosen(file_type, [info("blk.0.ssm_dt.weight", row, ROW)]) == [kind]


@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4_MOE"])
def test_refuses_rows_without_a_fallback_type(file_type: str) -> None:
    with pytest.raises(CannotConvert, match=r"'blk.0.ssm_dt.weight' has rows of 100, no multiple of .*ask for F16"):
        chosen(file_type, [info("blk.0.ssm_dt.weight", 100, ROW)])


@pytest.mark.parametrize("file_type", ALL)
@pytest.mark.parametrize(
    "tensor",
    [
        info("blk.0.attn_norm.weight", 64, kind=TensorType.F32),
        info("blk.0.attn_q_norm.weight", 64, 64, kind=TensorType.F32),
        info("blk.0.ffn_gate_inp.weight", kind=TensorType.F32),
        info("blk.0.ffn_up.bias", 64, 64, kind=TensorType.F32),
        info("blk.0.ssm_conv1d.weight", 4, 64, kind=TensorType.F32),
        info("blk.0.ssm_a", 16, 64, kind=TensorType.F32),
        info("blk.0.ffn_up.weight", 64, 1, 1, kind=TensorType.F32),
        info("position_embd.weight", kind=TensorType.F16),
        info("blk.0.time_mix_decay_w2.weight", kind=TensorType.F16),
        info("blk.0.ffn_gate_tid2eid.weight", kind=TensorType.I32),
        info("v.patch_embd.weight", kind=TensorType.F16),
    ],
    ids=lambda tensor: tensor.name,
)
def test_tensors_that_keep_their_type(file_type: str, tensor: TensorInfo) -> None:
    assert not is_quantized(tensor)
    assert chosen(file_type, [tensor]) == [TensorType(tensor.type).name]


@pytest.mark.parametrize("file_type", ["F32", "F16", "BF16"])
def test_f32_f16_and_bf16_are_for_all_quantized_tensors(file_type: str) -> None:
    tensors = [info(name) for name in ("token_embd.weight", "output.weight", "blk.0.attn_v.weight")]
    assert chosen(file_type, tensors, experts=8) == [file_type] * 3


@pytest.mark.parametrize(
    ("architecture", "name", "kind"),
    [
        ("deepseek2", "blk.0.attn_k_b.weight", "Q8_0"),
        ("deepseek2", "blk.0.attn_kv_a_mqa.weight", "Q8_0"),
        ("glm4", "token_embd.weight", "F16"),
        ("glm4", "output.weight", "F16"),
        ("gemma3n", "per_layer_token_embd.weight", "F16"),
        ("qwen35moe", "blk.3.nextn.eh_proj.weight", "Q8_0"),
    ],
)
def test_the_overrides_of_ollama(architecture: str, name: str, kind: str) -> None:
    facts, tensors = ModelFacts(architecture, 4), [info(name), info("output.weight")]
    for file_type in ("Q4_K_M", "Q4_K_S"):
        assert quantized_types(file_type, facts, tensors, as_ollama=True)[name].name == kind
        assert quantized_types(file_type, facts, tensors)[name].name != kind
    assert quantized_types("Q5_K_M", facts, tensors, as_ollama=True) == quantized_types("Q5_K_M", facts, tensors)
    assert quantized_types("Q4_K_M", ModelFacts("llama", 4), tensors, as_ollama=True)[name].name != kind


@pytest.mark.parametrize("file_type", NEED_IMPORTANCE)
def test_types_that_need_an_importance_matrix(file_type: str) -> None:
    nearest = NEED_IMPORTANCE[file_type]
    assert nearest in FILE_TYPES
    with pytest.raises(CannotConvert, match=f"{file_type} needs an importance matrix: ask for {nearest}$"):
        chosen(file_type, [])


def test_unknown_file_type() -> None:
    with pytest.raises(CannotConvert, match=r"^the type 'Q9_K' is unknown; ask for one of F32, F16, "):
        chosen("Q9_K", [])


def test_facts_of_a_header() -> None:
    metadata = {
        "general.architecture": Field.string("jamba"),
        "jamba.block_count": Field.uint32(4),
        "jamba.attention.head_count": Field.uint32(8),
        "jamba.attention.head_count_kv": Field.array(ValueType.UINT32, [2, 0, 0, 0]),
        "jamba.expert_count": Field.uint32(16),
    }
    assert ModelFacts.of(metadata) == ModelFacts("jamba", 4, 8, 2, 16)
    del metadata["jamba.attention.head_count_kv"], metadata["jamba.expert_count"]
    assert ModelFacts.of(metadata) == ModelFacts("jamba", 4, 8, 8, 0)
    del metadata["jamba.attention.head_count"]
    assert ModelFacts.of(metadata).queries_per_value == 0


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, "no general.architecture"),
        ({"general.architecture": Field.string("llama")}, "llama.block_count = None"),
        ({"general.architecture": Field.string("x"), "x.block_count": Field.string("2")}, "x.block_count = '2'"),
    ],
)
def test_facts_that_are_missing(metadata: Mapping[str, Field], text: str) -> None:
    with pytest.raises(CannotConvert, match=text):
        ModelFacts.of(metadata)
