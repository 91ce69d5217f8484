"""Qwen3-Next and Qwen3.5: most layers have linear attention (a gated delta net). Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    FUSED_EXPERTS,
    LAYER,
    MLP,
    ROUTED_EXPERTS,
    same_shape,
    size_from,
    squeezed,
)
from proxy.gguf.families.draft_layer import QWEN_DRAFT
from proxy.gguf.families.family import Family
from proxy.gguf.families.mrope import interleaved_sections
from proxy.gguf.families.qwen import EXPERTS_IN_EVERY_LAYER, GATED_SHARED_EXPERT, MOE_SIZES
from proxy.gguf.families.rules import AddOne, Copy, Reordered, Reshaped, Rule, Size, Ungrouped
from proxy.gguf.families.text_part import TEXT_OF_MULTIMODAL, TextPart
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, FEED_FORWARD, Pairs, count, partial_head_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig

_FIXED_YARN: Mapping[str, tuple[object, ...]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (True, None),
}
"""The YaRN parameters that Ollama's llama.cpp always uses, whatever the GGUF has (v0.33)."""

_NET = LAYER + "linear_attn."

_FULL = "full_attention"
_SECTIONS = interleaved_sections((11, 11, 10))


_KEY_HEADS, _VALUE_HEADS = size_from("linear_num_key_heads"), size_from("linear_num_value_heads")

_KEY_SIZE, _VALUE_SIZE = size_from("linear_key_head_dim"), size_from("linear_value_head_dim")


def _value_rows_per_key_head(config: ModelConfig) -> int:
    """The rows of all value heads that share one key head."""
    return _VALUE_HEADS(config) // _KEY_HEADS(config) * _VALUE_SIZE(config)


def _query_and_key_rows(config: ModelConfig) -> int:
    return 2 * _KEY_HEADS(config) * _KEY_SIZE(config)


def _single_row(_: ModelConfig) -> int:
    return 1


_TENSORS: Mapping[str, Rule | str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": AddOne("output_norm"),
    "lm_head": "output",
    LAYER + "input_layernorm": AddOne("blk.{}.attn_norm"),
    LAYER + "post_attention_layernorm": AddOne("blk.{}.post_attention_norm"),
    **ATTENTION,
    LAYER + "self_attn.q_norm": AddOne("blk.{}.attn_q_norm"),
    LAYER + "self_attn.k_norm": AddOne("blk.{}.attn_k_norm"),
    _NET + "norm": "blk.{}.ssm_norm",
}

_EXPERTS: Mapping[str, Rule | str] = {**ROUTED_EXPERTS, **FUSED_EXPERTS, **GATED_SHARED_EXPERT}

_CONVOLUTION = Reshaped("blk.{}.ssm_conv1d.weight", squeezed)

_STEPS = Reshaped("blk.{}.ssm_dt.bias", same_shape)

_DECAYS = Reshaped("blk.{}.ssm_a", same_shape, exponential=-1)


def _reordered(rule: Copy | Reshaped, size: Size, before: Size = lambda _: 0, *, across: bool = False) -> Reordered:
    """In Qwen3.5 the value heads of a key head are neighbours; llama.cpp repeats the sequence of key heads instead."""
    return Reordered(rule, _KEY_HEADS, _VALUE_HEADS, size, before, across)


_NEXT_TENSORS: Mapping[str, Rule | str] = {
    _NET + "in_proj_qkvz": Ungrouped(
        _KEY_HEADS,
        (
            ("blk.{}.attn_qkv", (_KEY_SIZE, _KEY_SIZE, _value_rows_per_key_head)),
            ("blk.{}.attn_gate", (_value_rows_per_key_head,)),
        ),
    ),
    _NET + "in_proj_ba": "blk.{}.ssm_ba",
    _NET + "conv1d.weight": _CONVOLUTION,
    _NET + "dt_bias": _STEPS,
    _NET + "A_log": _DECAYS,
    _NET + "out_proj": "blk.{}.ssm_out",
}

_3_5_TENSORS: Mapping[str, Rule | str] = {
    _NET + "in_proj_qkv": _reordered(Copy("blk.{}.attn_qkv"), _VALUE_SIZE, _query_and_key_rows),
    _NET + "in_proj_z": _reordered(Copy("blk.{}.attn_gate"), _VALUE_SIZE),
    _NET + "in_proj_b": _reordered(Copy("blk.{}.ssm_beta"), _single_row),
    _NET + "in_proj_a": _reordered(Copy("blk.{}.ssm_alpha"), _single_row),
    _NET + "conv1d.weight": _reordered(_CONVOLUTION, _VALUE_SIZE, _query_and_key_rows),
    _NET + "dt_bias": _reordered(_STEPS, _single_row),
    _NET + "A_log": _reordered(_DECAYS, _single_row),
    _NET + "out_proj": _reordered(Copy("blk.{}.ssm_out"), _VALUE_SIZE, across=True),
}


def _inner_size(config: ModelConfig) -> Pairs:
    yield "ssm.inner_size", Field.uint32(_VALUE_SIZE(config) * _VALUE_HEADS(config))


def _full_attention(config: ModelConfig) -> Pairs:
    """In llama.cpp every `interval`-th layer has full attention. `layer_types` take precedence."""
    types, interval = config.find("layer_types"), config.positive("full_attention_interval")
    if types is not None:
        has_full = isinstance(types, list) and _FULL in types
        interval = types.index(_FULL) + 1 if has_full else 0
        layers = range(1, config.blocks + 1)
        expected = [_FULL if interval and layer % interval == 0 else "linear_attention" for layer in layers]
        if not has_full or types != expected:
            raise CannotConvert(f"config.json has layer_types that do not repeat {_FULL} in {config.blocks} layers")
    yield "full_attention_interval", Field.uint32(interval)


_SHAPES: Mapping[str, str] = {
    "attn_q": "n_embd 2n_q",
    "attn_qkv": "n_embd d_mixed",
    "attn_gate": "n_embd d_inner",
    "ssm_conv1d": "d_conv d_mixed",
    "ssm_dt": "dt_rank",
    "ssm_a": "dt_rank",
    "ssm_ba": "n_embd 2dt_rank",
    "ssm_beta": "n_embd dt_rank",
    "ssm_alpha": "n_embd dt_rank",
    "ssm_norm": "d_state",
    "ssm_out": "dt_rank*d_state n_embd",
}

_KEYS = (
    *BASIC,
    partial_head_dimensions,
    count("ssm.conv_kernel", "linear_conv_kernel_dim", required=True),
    count("ssm.state_size", "linear_key_head_dim", required=True),
    count("ssm.group_count", "linear_num_key_heads", required=True),
    count("ssm.time_step_rank", "linear_num_value_heads", required=True),
    _inner_size,
    _full_attention,
)

_DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 32768,
    "num_attention_heads": 16,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "full_attention_interval": 4,
}

_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {**ANY_SILU, **_FIXED_YARN, "attention_bias": (False, None)}

_MOE_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "hidden_size": 2048,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}

QWEN3_NEXT = Family(
    "qwen3next",
    {**_TENSORS, **_NEXT_TENSORS, **_EXPERTS},
    (*_KEYS, *MOE_SIZES),
    defaults={
        **_MOE_DEFAULTS,
        "vocab_size": 151936,
        "intermediate_size": 5632,
        "num_hidden_layers": 48,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "norm_topk_prob": True,
    },
    optional_biases=frozenset(),
    accepted_values={
        **_ACCEPTED_VALUES,
        "norm_topk_prob": (True,),
        **EXPERTS_IN_EVERY_LAYER,
    },
    draft=QWEN_DRAFT,
    shapes=_SHAPES,
)

_SIGHT = ("model.visual.",)

QWEN3_5 = replace(
    QWEN3_NEXT,
    architecture="qwen35",
    tensors={**_TENSORS, **_3_5_TENSORS, **MLP},
    hyperparameters=(*_KEYS, _SECTIONS),
    defaults={
        **_DEFAULTS,
        "vocab_size": 248320,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
    },
    # vLLM reads output_gate_type, and gates with SiLU without it.
    accepted_values={**_ACCEPTED_VALUES, "attn_output_gate": (True, None), "output_gate_type": ("swish", "silu", None)},
    # In a text all axes have the same position.
    harmless_keys=frozenset({"mrope_interleaved"}),
    skipped_prefixes=_SIGHT,
    prefix_aliases=TEXT_OF_MULTIMODAL,
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    architecture="qwen35moe",
    tensors={**_TENSORS, **_3_5_TENSORS, **_EXPERTS},
    # Ollama takes a file with feed_forward_length, which nothing reads here, as one of its own converter.
    hyperparameters=(*(write for write in _KEYS if write is not FEED_FORWARD), _SECTIONS, *MOE_SIZES),
    defaults={
        **_MOE_DEFAULTS,
        "vocab_size": 248320,
        "num_hidden_layers": 40,
        "num_experts": 256,
        "num_experts_per_tok": 8,
    },
)

_TEXT = TextPart(TEXT_OF_MULTIMODAL, _SIGHT, "see")

QWEN3_5_MULTIMODAL, QWEN3_5_MOE_MULTIMODAL = (replace(family, text_part=_TEXT) for family in (QWEN3_5, QWEN3_5_MOE))
