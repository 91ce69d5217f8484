"""Qwen3-Next and Qwen3.5: most layers have linear attention (a gated delta net). Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    FUSED_EXPERTS,
    LAYER,
    MLP,
    ROUTED_EXPERTS,
    same_shape,
    squeezed,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.qwen import EXPERTS_IN_EVERY_LAYER, GATED_SHARED_EXPERT, MOE_SIZES
from proxy.gguf.families.rules import AddOne, Copy, Reordered, Reshaped, Rule, Size, Ungrouped
from proxy.gguf.families.text_part import TextPart
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, FEED_FORWARD, Pairs, count, partial_head_dimensions
from proxy.gguf.tensors import shown

PLAIN_YARN: Mapping[str, tuple[object, ...]] = {
    "attention_factor": (None,),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (True, None),
}
"""What Ollama's llama.cpp takes yarn to be, whatever a GGUF says (v0.33)."""

_NET = LAYER + "linear_attn."

_AXES, _SECTIONS = 3, (11, 11, 10)


def _of(name: str) -> Size:
    return lambda config: config.positive(name)


_GROUPS, _HEADS = _of("linear_num_key_heads"), _of("linear_num_value_heads")

_KEY, _VALUE = _of("linear_key_head_dim"), _of("linear_value_head_dim")


def _values_of_group(config: ModelConfig) -> int:
    """How many rows the values have that share one key."""
    return _HEADS(config) // _GROUPS(config) * _VALUE(config)


def _queries_and_keys(config: ModelConfig) -> int:
    return 2 * _GROUPS(config) * _KEY(config)


def _one(_: ModelConfig) -> int:
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

_DECAYS = Reshaped("blk.{}.ssm_a", same_shape, exponential=True)


def _reordered(rule: Copy | Reshaped, size: Size, before: Size = lambda _: 0, *, across: bool = False) -> Reordered:
    """llama.cpp repeats all keys one after the other, and Qwen3.5 has the values of one key side by side."""
    return Reordered(rule, _GROUPS, _HEADS, size, before, across)


_NEXT: Mapping[str, Rule | str] = {
    _NET + "in_proj_qkvz": Ungrouped(
        _GROUPS,
        (("blk.{}.attn_qkv", (_KEY, _KEY, _values_of_group)), ("blk.{}.attn_gate", (_values_of_group,))),
    ),
    _NET + "in_proj_ba": "blk.{}.ssm_ba",
    _NET + "conv1d.weight": _CONVOLUTION,
    _NET + "dt_bias": _STEPS,
    _NET + "A_log": _DECAYS,
    _NET + "out_proj": "blk.{}.ssm_out",
}

_3_5: Mapping[str, Rule | str] = {
    _NET + "in_proj_qkv": _reordered(Copy("blk.{}.attn_qkv"), _VALUE, _queries_and_keys),
    _NET + "in_proj_z": _reordered(Copy("blk.{}.attn_gate"), _VALUE),
    _NET + "in_proj_b": _reordered(Copy("blk.{}.ssm_beta"), _one),
    _NET + "in_proj_a": _reordered(Copy("blk.{}.ssm_alpha"), _one),
    _NET + "conv1d.weight": _reordered(_CONVOLUTION, _VALUE, _queries_and_keys),
    _NET + "dt_bias": _reordered(_STEPS, _one),
    _NET + "A_log": _reordered(_DECAYS, _one),
    _NET + "out_proj": _reordered(Copy("blk.{}.ssm_out"), _VALUE, across=True),
}


def _inner(config: ModelConfig) -> Pairs:
    yield "ssm.inner_size", Field.uint32(_VALUE(config) * _HEADS(config))


def _full_attention(config: ModelConfig) -> Pairs:
    """llama.cpp has every so many layers see all; the kinds of layers count where config.json tells them."""
    kinds, every = config.find("layer_types"), config.positive("full_attention_interval")
    if kinds is not None:
        known = isinstance(kinds, list) and _FULL in kinds
        every = kinds.index(_FULL) + 1 if known else 0
        usual = [_FULL if every and at % every == 0 else "linear_attention" for at in range(1, config.blocks + 1)]
        if not known or kinds != usual:
            raise CannotConvert(f"config.json has layer_types that do not repeat {_FULL} in {config.blocks} layers")
    yield "full_attention_interval", Field.uint32(every)


_FULL = "full_attention"


def _rope_sections(config: ModelConfig) -> Pairs:
    """A text has one position for all axes. What no axis claims llama.cpp does not turn, and transformers does."""
    sections = config.rope.get("mrope_section", list(_SECTIONS))
    known = isinstance(sections, list) and len(sections) == _AXES and all(type(size) is int for size in sections)
    turned = sum(sections) if known else 0
    if not 0 < turned <= config.head_size:
        raise CannotConvert(f"config.json has mrope_section = {shown(sections)}, unknown for this architecture")
    if any(at >= _AXES * sections[at % _AXES] for at in range(turned)):
        sections = [len(range(axis, turned, _AXES)) for axis in range(_AXES)]
    yield "rope.dimension_sections", Field.array(ValueType.INT32, [*sections, 0])


_KEYS = (
    *BASIC,
    partial_head_dimensions,
    count("ssm.conv_kernel", "linear_conv_kernel_dim", required=True),
    count("ssm.state_size", "linear_key_head_dim", required=True),
    count("ssm.group_count", "linear_num_key_heads", required=True),
    count("ssm.time_step_rank", "linear_num_value_heads", required=True),
    _inner,
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

_ONLY: Mapping[str, tuple[object, ...]] = {**ANY_SILU, **PLAIN_YARN, "attention_bias": (False, None)}

_MOE_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "hidden_size": 2048,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}

QWEN3_NEXT = Family(
    "qwen3next",
    {**_TENSORS, **_NEXT, **_EXPERTS},
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
        **_ONLY,
        "norm_topk_prob": (True,),
        **EXPERTS_IN_EVERY_LAYER,
    },
    # llama.cpp's converter keeps the layer for predicting more tokens, which Ollama does not run.
    skipped_prefixes=("mtp.", "model.mtp."),
)

QWEN3_5 = replace(
    QWEN3_NEXT,
    architecture="qwen35",
    tensors={**_TENSORS, **_3_5, **MLP},
    hyperparameters=(*_KEYS, _rope_sections),
    defaults={
        **_DEFAULTS,
        "vocab_size": 248320,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
    },
    accepted_values={**_ONLY, "attn_output_gate": (True, None)},
    # A text has one position for all axes.
    harmless_keys=frozenset({"mrope_interleaved"}),
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    architecture="qwen35moe",
    tensors={**_TENSORS, **_3_5, **_EXPERTS},
    # By its length of dense layers, which nothing reads, Ollama knows a file that is its own converter's.
    hyperparameters=(*(write for write in _KEYS if write is not FEED_FORWARD), _rope_sections, *MOE_SIZES),
    defaults={
        **_MOE_DEFAULTS,
        "vocab_size": 248320,
        "num_hidden_layers": 40,
        "num_experts": 256,
        "num_experts_per_tok": 8,
    },
)

_TEXT = TextPart({"model.language_model.": "model."}, ("model.visual.",), "see")

QWEN3_5_MULTIMODAL, QWEN3_5_MOE_MULTIMODAL = (replace(family, text_part=_TEXT) for family in (QWEN3_5, QWEN3_5_MOE))
