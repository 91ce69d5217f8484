"""IBM's Granite: a Llama with four extra factors; dense, with experts, or a hybrid with Mamba 2 layers. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import (
    ANY_SILU,
    LLAMA_ROPES,
    check_layer_types,
    check_unlimited_steps,
    rope_frequencies,
)
from proxy.gguf.families.common_tensors import (
    ATTENTION_BIAS,
    BOTH_BIASES,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    NORMS,
    PERMUTED_ATTENTION,
    SHARED_EXPERT_STEMS,
    size_from,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_BIASES, LLAMA_DEFAULTS, LLAMA_TENSORS, llama_vocabulary
from proxy.gguf.families.mamba import MAMBA2_SHAPES, UNLIMITED_CONTEXT, mamba2_tensors
from proxy.gguf.families.rules import Rule, Split
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, nonzero, number, rope_dimensions
from proxy.gguf.model_config import ModelConfig

GRANITE_KEYS = (
    *BASIC,
    VOCABULARY_SIZE,
    rope_dimensions,
    nonzero("attention.scale", "attention_multiplier"),
    nonzero("embedding_scale", "embedding_multiplier"),
    nonzero("residual_scale", "residual_multiplier"),
    number("logit_scale", "logits_scaling", required=True),
)

_GRANITE_DEFAULTS: Mapping[str, Any] = {
    **LLAMA_DEFAULTS,
    **dict.fromkeys(("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0),
}

GRANITE = Family(
    "granite",
    LLAMA_TENSORS,
    GRANITE_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults=_GRANITE_DEFAULTS,
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=LLAMA_BIASES,
    tensor_flags=BOTH_BIASES,
    accepted_values={**ANY_SILU, "head_dim": (None,)},
    vocabulary=llama_vocabulary,
)

GRANITE_MOE_TENSORS: Mapping[str, Rule | str] = {
    **EMBEDDING_AND_OUTPUT,
    **NORMS,
    **PERMUTED_ATTENTION,
    LAYER + "block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp",
    LAYER + "block_sparse_moe.input_linear": Split(
        (
            ("blk.{}.ffn_gate_exps", size_from("intermediate_size")),
            ("blk.{}.ffn_up_exps", size_from("intermediate_size")),
        )
    ),
    LAYER + "block_sparse_moe.output_linear": "blk.{}.ffn_down_exps",
    LAYER + "shared_mlp.input_linear": Split(
        (
            ("blk.{}.ffn_gate_shexp", size_from("shared_intermediate_size")),
            ("blk.{}.ffn_up_shexp", size_from("shared_intermediate_size")),
        )
    ),
    LAYER + "shared_mlp.output_linear": "blk.{}.ffn_down_shexp",
}

GRANITE_MOE = Family(
    "granitemoe",
    GRANITE_MOE_TENSORS,
    (*GRANITE_KEYS, count("expert_shared_feed_forward_length", "shared_intermediate_size")),
    tokenizers=("sentencepiece", "bpe"),
    defaults={**_GRANITE_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2},
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_tensors=SHARED_EXPERT_STEMS,
    optional_biases=LLAMA_BIASES,
    tensor_flags=ATTENTION_BIAS,
    accepted_values={**ANY_SILU, "head_dim": (None,)},
    vocabulary=llama_vocabulary,
)

_DENSE_MLP: Mapping[str, Rule | str] = {
    LAYER + "shared_mlp.input_linear": Split(
        (
            ("blk.{}.ffn_gate", size_from("shared_intermediate_size")),
            ("blk.{}.ffn_up", size_from("shared_intermediate_size")),
        )
    ),
    LAYER + "shared_mlp.output_linear": "blk.{}.ffn_down",
}


def _attention_by_layer(config: ModelConfig) -> list[bool]:
    """For each layer whether it has attention instead of Mamba 2."""
    types = check_layer_types(config, config.find("layer_types", "layers_block_type"), _HAS_ATTENTION)
    return [_HAS_ATTENTION[layer_type] for layer_type in types]


_HAS_ATTENTION = {"attention": True, "full_attention": True, "mamba": False, "linear_attention": False}


def _mamba_keys(config: ModelConfig) -> Pairs:
    attends = _attention_by_layer(config)
    yield "ssm.conv_kernel", Field.uint32(config.count("mamba_d_conv"))
    yield "ssm.state_size", Field.uint32(config.count("mamba_d_state"))
    yield "ssm.group_count", Field.uint32(config.count("mamba_n_groups"))
    yield "ssm.inner_size", Field.uint32(config.count("mamba_expand") * config.hidden)
    yield "ssm.time_step_rank", Field.uint32(config.count("mamba_n_heads"))
    kv_heads = [config.kv_heads if has_attention else 0 for has_attention in attends]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "rope.scaling.finetuned", Field.boolean(all(attends))
    if not all(attends):
        yield "context_length", Field.uint32(UNLIMITED_CONTEXT)


def _variant(config: ModelConfig) -> Family:
    """The name stands for hybrids without positions, and for Granite 3 models whose tensors are packed differently."""
    attends, has_experts = _attention_by_layer(config), config.optional_count("num_local_experts")
    tensors = {**GRANITE_MOE_TENSORS, **({} if has_experts else _DENSE_MLP)}
    if all(attends):
        name = "granitemoe" if has_experts else "granite"
        accepted_values = _ACCEPTED_VALUES | {_POSITIONS: ("rope",)}
        return replace(GRANITE_HYBRID, architecture=name, tensors=tensors, shapes={}, accepted_values=accepted_values)
    return replace(GRANITE_HYBRID, tensors={**tensors, **mamba2_tensors(LAYER + "mamba.")})


_POSITIONS = "position_embedding_type"

_ACCEPTED_VALUES = {
    **GRANITE_MOE.accepted_values,
    "mamba_expand": (2,),
    "attention_bias": (False, None),
    "mamba_proj_bias": (False, None),
    "mamba_conv_bias": (True, None),
    "normalization_function": ("rmsnorm", None),
}

GRANITE_HYBRID = Family(
    "granitehybrid",
    {},
    (
        *GRANITE_KEYS,
        count("expert_shared_feed_forward_length", "shared_intermediate_size"),
        _mamba_keys,
        check_unlimited_steps,
    ),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        **GRANITE_MOE.defaults,
        "shared_intermediate_size": 1024,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    computed_tensors=GRANITE_MOE.computed_tensors,
    optional_tensors=GRANITE_MOE.optional_tensors,
    optional_biases=GRANITE_MOE.optional_biases,
    rope_types=GRANITE_MOE.rope_types,
    # The inner size divided by the number of heads.
    harmless_keys=frozenset({"mamba_d_head"}),
    accepted_values=_ACCEPTED_VALUES | {_POSITIONS: ("nope", None)},
    variant=_variant,
    shapes=MAMBA2_SHAPES,
)
