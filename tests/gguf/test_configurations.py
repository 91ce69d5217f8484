"""Each known key of config.json is read, fixed or declared harmless.

`configurations.json` has the keys that transformers 5.24 knows, and their defaults (`make_configurations.py`).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.gguf import conversion
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.family import Family
from proxy.gguf.header import read_header
from proxy.gguf.ignored_keys import is_harmless
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import GgufError
from proxy.gguf.unread_keys import check_unread_keys
from tests.gguf.changed_configs import ENCODERS, OWN_CODE, architecture_of, changed, repository, text_of
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.writing import plan_of, value_of

CLASSES: Mapping[str, Mapping[str, Any]] = json.loads(
    Path(__file__).with_name("configurations.json").read_text("utf-8")
)
SAME_CLASS = {
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "Idefics3ForConditionalGeneration": "LlamaForCausalLM",
    "InternVLForConditionalGeneration": "Qwen2ForCausalLM",
    "LFM2ForCausalLM": "Lfm2ForCausalLM",
    "Lfm2VlForConditionalGeneration": "Lfm2ForCausalLM",
    "Qwen2AudioForConditionalGeneration": "Qwen2ForCausalLM",
    "Qwen2Model": "Qwen2ForCausalLM",
    "Qwen3Model": "Qwen3ForCausalLM",
    "SmolVLMForConditionalGeneration": "LlamaForCausalLM",
    "VoxtralForConditionalGeneration": "LlamaForCausalLM",
}
TESTED = sorted(CLASSES.keys() - SAME_CLASS.keys())
OLDER_ROPE_KEYS = (
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "rotary_pct"),
    *("global_rope_theta", "local_rope_theta"),
)
"""Keys that `rope_parameters` replaces."""
TRANSFORMERS_FORM = {"MiMoV2FlashForCausalLM": "mimo_v2_v5", "NomicBertModel": "nomic_bert_v5"}
"""A repository in the form of transformers, if the first one is in the form of its authors."""
ONLY_IN_4_57: Mapping[str, tuple[str, ...]] = {
    "BertModel": ("position_embedding_type",),
    "CohereForCausalLM": ("use_qk_norm",),
    "DeepseekV2ForCausalLM": ("scoring_func", "seq_aux", "norm_topk_prob", "moe_layer_freq"),
    "FalconForCausalLM": ("num_ln_in_parallel_attn",),
    "GPTNeoXForCausalLM": ("rotary_pct", "rotary_emb_base"),
    "GemmaForCausalLM": ("hidden_activation",),
    "JambaForCausalLM": ("num_logits_to_keep", "sliding_window"),
    "Qwen3MoeForCausalLM": ("max_window_layers",),
}
"""Further keys, which transformers 4.57 knows."""


def names_of(architecture: str) -> list[str]:
    return [name for name in (*REPOSITORIES, *ENCODERS) if architecture_of(name) == architecture]


def differs(result: conversion.Conversion, other: conversion.Conversion) -> bool:
    """Headers with the same bytes have the same values."""
    if (result.header, result.warnings) == (other.header, other.warnings):
        return False
    return outcome(result) != outcome(other)


def outcome(result: conversion.Conversion) -> tuple[Any, ...]:
    metadata = read_header(result.header).metadata
    values = {key: value_of(field.kind, field.raw, field.value) for key, field in metadata.items()}
    return values, {tensor.name: tensor.shape for tensor in result.tensors}, result.warnings


def test_classes_are_those_of_families_in_transformers() -> None:
    assert CLASSES.keys() == {name for name, family in FAMILIES.items() if family.has_transformers_class}


@pytest.mark.parametrize("architecture", TESTED)
def test_every_key_of_a_class_is_accounted_for(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With code of the repository, an unaccounted key would be refused."""
    checked: list[tuple[Family, ModelConfig]] = []

    def remember(family: Family, config: ModelConfig, _: Mapping[str, Any]) -> tuple[str, ...]:
        checked.append((family, config))
        return ()

    monkeypatch.setattr(conversion, "check_unread_keys", remember)
    for name in names_of(architecture):
        plan_of(*repository(name))
    family = checked[0][0]
    together = ModelConfig(checked[0][1].fields, set().union(*(config.read_keys for _, config in checked)))
    for key in (*CLASSES[architecture], *OLDER_ROPE_KEYS[:3], *ONLY_IN_4_57.get(architecture, ())):
        text = {key: ["something"]}
        original = {
            "architectures": [architecture],
            **OWN_CODE,
            **({"text_config": text} if family.text_part else text),
        }
        assert list(check_unread_keys(family, together, original)) == []


ELSEWHERE = {"rope_parameters", "tie_word_embeddings"}
"""The tiny repositories have the older keys instead, and tie_word_embeddings outside text_config."""
WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    # Another name for a key that wins.
    "GptOssForCausalLM": frozenset({"num_experts"}),
    "KimiLinearForCausalLM": frozenset({"n_shared_experts"}),
    "MiniMaxM2ForCausalLM": frozenset({"num_experts"}),
    "MixtralForCausalLM": frozenset({"num_experts"}),
    "Lfm2ForCausalLM": frozenset({"full_attn_idxs"}),
    "GraniteMoeHybridForCausalLM": frozenset({"layers_block_type"}),
    # Keys that make a window only together, in few layers, or within a small context.
    **dict.fromkeys(
        (
            *("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
            *("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        ),
        frozenset({"use_sliding_window"}),
    ),
    # Factors change only the weights.
    "FalconH1ForCausalLM": frozenset(key for key in CLASSES["FalconH1ForCausalLM"] if key.endswith("multiplier")),
}
"""Keys that do not change the result if they alone change in a tiny repository."""


def other_values(value: object) -> list[object]:
    if type(value) is bool:
        return [not value]
    if isinstance(value, int | float):
        return [value * 2 + 1, value / 2 + 0.25]  # never an integer, which is valid for a count
    if isinstance(value, list):
        return [["other"], [*value, *value], value[1:]]
    return [True, 7, 0.3, "other"]


@pytest.mark.parametrize("architecture", TESTED)
def test_every_read_key_changes_the_result_or_is_refused(architecture: str) -> None:
    """A key that is read and then ignored is as wrong as an unread key. A result includes its warnings."""
    family, without_effect = FAMILIES[architecture], set()
    unchanged = {name: changed(name, {}) for name in names_of(architecture)}
    biases = {key for key, names in family.tensor_flags.items() if all(name.endswith(".bias") for name in names)}
    for key, default in CLASSES[architecture].items():
        if is_harmless(key) or key in family.harmless_keys | biases | ELSEWHERE:
            continue
        if not any(_has_effect(name, key, default, before) for name, before in unchanged.items()):
            without_effect.add(key)
    assert without_effect == WITHOUT_EFFECT.get(architecture, frozenset())


def _has_effect(name: str, key: str, default: object, before: conversion.Conversion) -> bool:
    config = text_of(json.loads(repository(name)[0]["config.json"]), architecture_of(name))
    for value in other_values(config.get(key, default)):
        try:
            if differs(changed(name, {key: value}), before):
                return True
        except GgufError:
            return True
    return False


@pytest.mark.parametrize("architecture", TESTED)
def test_missing_key_means_transformers_default(architecture: str) -> None:
    name = TRANSFORMERS_FORM.get(architecture) or names_of(architecture)[0]
    harmless = {
        key: default
        for key, default in CLASSES[architecture].items()
        if key not in ("architectures", "model_type") and is_harmless(key) and not key.endswith("_token_id")
    }
    assert not differs(changed(name, {}, tuple(harmless)), changed(name, harmless))
    for key, default in CLASSES[architecture].items():
        if key in harmless:
            continue
        older = OLDER_ROPE_KEYS if key == "rope_parameters" else ()
        if key.endswith("_token_id") or key == "model_type":
            continue  # They belong to another vocabulary or model.
        if key == "head_dim" and architecture in ("NomicBertModel", "KimiLinearForCausalLM"):
            continue  # It follows from the other sizes, and is written only if config.json has it.
        if (architecture, key) == ("Olmo3ForCausalLM", "rope_parameters"):
            continue  # llama.cpp's converter writes the base of layers with a window only if they have their own rope.
        try:
            without, with_default = changed(name, {}, (key, *older)), changed(name, {key: default}, older)
        except GgufError:
            continue  # The defaults are sizes of another model, or the key is required.
        assert not differs(without, with_default), key


def _yarn(**change: Any) -> dict[str, Any]:
    return {"rope_scaling": {**YARN, **change}}


def _laguna_rope(**change: Any) -> dict[str, Any]:
    ropes = REPOSITORIES["laguna"].change["rope_parameters"]
    return {"rope_parameters": {**ropes, "full_attention": {**ropes["full_attention"], **change}}}


FACTORS = {"short_factor": [1.0] * 32, "long_factor": [1.5] * 32}


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        # llama.cpp reads these keys of a yarn only for Ministral 3, and always rounds (b10488).
        ("llama", _yarn(beta_fast=16), "beta_fast = 16"),
        ("llama", _yarn(beta_slow=2), "beta_slow = 2"),
        ("qwen2", _yarn(truncate=False), "truncate = False"),
        ("deepseek3", _yarn(beta_fast=16), "beta_fast = 16"),
        ("llama", {"rope_scaling": {**YARN, "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("gemma3_v5", {"rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        }}, "sliding_attention.partial_rotary_factor"),
        ("minicpm", {"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 1024, **FACTORS}},
         "original_max_position_embeddings = 1024 in a context of 2048"),
        ("olmo3", {"rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }}, "another rope_theta for sliding_attention"),
        # Settings of single layers, which transformers 5 has for every model.
        ("llama", {"per_layer_config": {"0": {"head_dim": 32}}}, "per_layer_config"),
        # Settings without an effect in llama.cpp's graph.
        ("smollm3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types with a window"),
        ("exaone4", {"sliding_window": 1024}, "sliding_window = 1024 and 2 layers"),
        ("exaone4", {"layer_types": ["sliding_attention"] * 2}, "no sliding_window"),
        ("olmo3", {"sliding_window": None}, "no sliding_window"),
        ("qwen2moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen2moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen3moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("ernie4_5moe", {"moe_layer_end_index": 0}, "moe_layer_end_index = 0 in 2 layers"),
        ("ernie4_5moe", {"moe_norm_min": 0.5}, "moe_norm_min"),
        ("falcon", {"activation": "relu"}, "activation = 'relu'"),
        ("falcon", {"parallel_attn": False}, "parallel_attn"),
        ("falcon_h1", {"time_step_limit": [0.001, 0.1]}, "time_step_limit"),
        ("granitehybrid", {"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ("granitehybrid", {"mamba_conv_bias": False}, "mamba_conv_bias"),
        ("granitehybrid", {"normalization_function": "layernorm"}, "normalization_function"),
        ("jamba", {"mamba_conv_bias": False}, "mamba_conv_bias"),
        ("mamba", {"use_bias": True}, "use_bias"),
        ("mamba", {"use_conv_bias": False}, "use_conv_bias"),
        ("falcon_mamba", {"mixer_rms_eps": 1e-3}, "mixer_rms_eps"),
        ("gptneox", {"attention_bias": False}, "attention_bias"),
        ("starcoder2", {"use_bias": False}, "use_bias"),
        ("deepseek2", {"mlp_bias": True}, "mlp_bias"),
        ("bailingmoe2", {"norm_head": True}, "norm_head"),
        ("bailingmoe2", {"use_sliding_window": True}, "use_sliding_window"),
        ("minicpm", {"sparse_config": {"topk": 64}}, "sparse_config"),
        # llama.cpp ignores the pattern of the file.
        ("exaone_moe", {"layer_types": ["sliding_attention"] * 5}, "layer_types that do not repeat 3 layers"),
        ("exaone_moe", {"layer_types": None}, "sliding_window_pattern"),
        ("exaone_moe", {"sliding_window": None}, "no sliding_window"),
        ("exaone_moe", {"mlp_layer_types": ["sparse"] * 5}, "nothing that becomes blk.0"),
        ("exaone_moe", {"num_shared_experts": 0}, "num_shared_experts = 0"),
        ("exaone_moe", {"rope_scaling": YARN}, "yarn"),
        ("dots1", {"attention_bias": True}, "attention_bias"),
        ("dots1", {"num_key_value_heads": 2}, "num_key_value_heads = 2 and num_attention_heads = 4"),
        ("dots1", {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("solar_open", {"attention_bias": True}, "attention_bias"),
        ("solar_open", {"first_k_dense_replace": 1}, "first_k_dense_replace"),
        ("solar_open", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("solar_open", {"use_qk_norm": True}, "use_qk_norm"),
        ("minimax_m2", {"attn_type_list": [0, 1]}, "attn_type_list"),
        ("minimax_m2", {"rotary_dim": None}, "no rotary_dim"),
        ("minimax_m2", {"rotary_dim": 33}, "rotary_dim = 33"),
        ("minimax_m2", {"partial_rotary_factor": 1.0}, "rotary_dim = 32 and partial_rotary_factor = 1.0"),
        ("minimax_m2", {"shared_intermediate_size": 512}, "shared_intermediate_size"),
        ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type"),
        ("minimax_m2", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        # As in poolside's own repositories of XS.2.
        ("laguna", _laguna_rope(beta_fast=64.0), "beta_fast = 64.0, but llama.cpp always uses 32"),
        ("laguna", _laguna_rope(attention_factor=1.0), "multiplies attention with 1.0000"),
        ("laguna", _laguna_rope(partial_rotary_factor=0), "partial_rotary_factor = 0"),
        ("laguna", _laguna_rope(partial_rotary_factor=0.3), "partial_rotary_factor = 0.3 of heads of 64"),
        ("laguna", _laguna_rope(rope_theta=None), "no rope_theta for full_attention"),
        ("laguna", {"layer_types": [*["sliding_attention"] * 4, "full_attention"]}, "layer_types other than 3"),
        ("laguna", {"layer_types": None, "sliding_window": 0, "swa_rope_parameters": {"rope_theta": 1e4}},
         "swa_rope_parameters"),
        ("laguna", {"num_attention_heads_per_layer": [4, 8, 6, 3, 4]}, "num_attention_heads_per_layer"),
        ("laguna", {"num_attention_heads_per_layer": [4, 8, 8, 8, 4]}, "blk.2.attn_q.weight is to have the shape"),
        ("laguna", {"gating": "per-element", "gating_types": None}, "blk.0.attn_gate.weight is to have the shape"),
        ("laguna", {"gating": "per-element"}, "gating_types"),
        ("laguna", {"gating": False, "gating_types": None}, "gating = False"),
        ("laguna", {"mlp_only_layers": [0, 1]}, "mlp_only_layers"),
        ("laguna", {"eos_token_id": [369, 999]}, "eos_token_id"),
        ("laguna", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "no rope_parameters for full"),
        ("laguna_full", {"partial_rotary_factor": 0.5}, "partial_rotary_factor outside of rope_parameters"),
        ("laguna_full", {"layer_types": ["full_attention", *["sliding_attention"] * 2]}, "layer_types other than 3"),
        # transformers ignores biases that config.json does not announce, and requires the norms that it announces.
        ("llama-bias", {"attention_bias": False}, "attn_k.bias in a layer, .* attention_bias of config.json"),
        ("seed_oss", {"attention_bias": False}, "attention_bias of config.json"),
        ("stablelm", {"use_qkv_bias": False}, "use_qkv_bias of config.json"),
        ("stablelm", {"qk_layernorm": True}, "no attn_k_norm.weight"),
        ("stablelm-norms", {"qk_layernorm": False}, "attn_k_norm.weight in a layer"),
        ("glm4moe", {"use_qk_norm": False}, "attn_k_norm.weight in a layer"),
    ],
)  # fmt: skip
def test_setting_that_llama_cpp_lacks_is_refused(name: str, change: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        changed(name, change)


@pytest.mark.parametrize(
    ("name", "scales"),
    [("llama", {}), ("qwen2", {}), ("gpt_oss", {}), ("deepseek3", {"mscale": 1.0, "mscale_all_dim": 1.0})],
)
def test_original_context_of_a_yarn_defaults_to_the_context(name: str, scales: Mapping[str, Any]) -> None:
    """As in transformers (modeling_rope_utils.py, 5.24)."""
    config = text_of(json.loads(repository(name)[0]["config.json"]), architecture_of(name))
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, **scales}
    explicit = {**rope, "original_max_position_embeddings": config["max_position_embeddings"]}
    headers = [
        changed(name, {"rope_scaling": None, "rope_parameters": each}, ("rope_theta",)).header
        for each in (rope, explicit)
    ]
    assert headers[0] == headers[1]


@pytest.mark.parametrize(
    ("attention", "factor"),
    [
        ({"attention_factor": 1.25}, 1.25),
        ({}, math.sqrt(1 + math.log(2) / math.log(1024))),
    ],
)
def test_attention_factor_of_a_longrope(attention: Mapping[str, Any], factor: float) -> None:
    """As transformers reads it (modeling_rope_utils.py, 5.24)."""
    result = changed("phi3", {"rope_scaling": {"type": "longrope", **FACTORS, **attention}})
    assert read_header(result.header).get("phi3.rope.scaling.attn_factor", float) == pytest.approx(factor, rel=1e-6)


def test_older_rope_keys_win_over_newer_ones() -> None:
    """As in transformers 5.24, which reads both."""
    newer = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    assert changed("qwen2", newer).header == plan_of(*repository("qwen2")).header


def test_equal_ropes_for_both_kinds_of_layers_are_one_rope() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}
    flat, nested = (
        changed("qwen3", {"rope_parameters": each}, ("rope_theta",)).header
        for each in (rope, {"full_attention": rope, "sliding_attention": rope})
    )
    assert flat == nested


def test_olmo_3_as_transformers_5_saves_it() -> None:
    """llama.cpp scales only the layers with full attention."""
    base = {"rope_theta": 5e5}
    nested = {
        "full_attention": {**YARN, "rope_type": "yarn", **base},
        "sliding_attention": {"rope_type": "default"} | base,
    }
    headers = [
        read_header(changed("olmo3", config, ("rope_theta",)).header).metadata
        for config in ({"rope_scaling": YARN, **base}, {"rope_parameters": nested})
    ]
    assert headers[0] == {key: field for key, field in headers[1].items() if key != "olmo2.rope.freq_base_swa"}
