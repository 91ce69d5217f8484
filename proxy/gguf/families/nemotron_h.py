"""NVIDIA's Nemotron-H: each layer is either Mamba 2, attention, an MLP or experts. Pure."""

import math
from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import check_layer_types, head_dim
from proxy.gguf.families.common_tensors import ATTENTION_BIAS, LAYER, PERMUTED_ATTENTION, QKV, expert_count
from proxy.gguf.families.draft_layer import DraftLayer
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import GROUP_COUNT_KEYS, MAMBA2_SHAPES, UNLIMITED_CONTEXT, mamba2_tensors
from proxy.gguf.families.rules import Rule, Stacked, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import VOCABULARY_SIZE, Pairs, always, count, flag, number, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig

_MIXER = LAYER + "mixer."

_MAMBA, _ATTENTION, _MLP, _EXPERTS = "linear_attention", "full_attention", "mlp", "moe"

_LAYER_TYPES = {
    **{name: name for name in (_MAMBA, _ATTENTION, _MLP, _EXPERTS)},
    "mamba": _MAMBA,
    "attention": _ATTENTION,
    "M": _MAMBA,
    "*": _ATTENTION,
    "-": _MLP,
    "E": _EXPERTS,
}
"""By the names of transformers 5, those of transformers 4, and the letters in a pattern."""

_TENSORS_BY_TYPE: Mapping[str, Mapping[str, Rule | str]] = {
    _MAMBA: mamba2_tensors(_MIXER),
    # Without RoPE the permutation of Q and K changes nothing, but llama.cpp's converter permutes them too.
    _ATTENTION: {key.replace("self_attn.", "mixer."): rule for key, rule in PERMUTED_ATTENTION.items()},
    _MLP: {_MIXER + "up_proj": "blk.{}.ffn_up", _MIXER + "down_proj": "blk.{}.ffn_down"},
    _EXPERTS: {
        _MIXER + "gate": "blk.{}.ffn_gate_inp",
        _MIXER + "gate.e_score_correction_bias": "blk.{}.exp_probs_b",
        _MIXER + "experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", expert_count),
        _MIXER + "experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", expert_count),
        # All experts in one tensor, as transformers 5 has them in memory.
        _MIXER + "experts.up_proj": "blk.{}.ffn_up_exps",
        _MIXER + "experts.down_proj": "blk.{}.ffn_down_exps",
        _MIXER + "shared_experts.up_proj": "blk.{}.ffn_up_shexp",
        _MIXER + "shared_experts.down_proj": "blk.{}.ffn_down_shexp",
    },
}

_LATENT: Mapping[str, str] = {
    _MIXER + "fc1_latent_proj": "blk.{}.ffn_latent_down",
    _MIXER + "fc2_latent_proj": "blk.{}.ffn_latent_up",
}


_EXPERT_SHAPES: Mapping[str, str] = {
    "ffn_up_exps": "n_latent n_ff_exp n_expert",
    "ffn_down_exps": "n_ff_exp n_latent n_expert",
    "ffn_latent_down": "n_embd n_latent",
    "ffn_latent_up": "n_latent n_embd",
}


def _layer_types(config: ModelConfig) -> list[str]:
    """For each layer its type, from a list or else from a pattern."""
    types = config.find("layers_block_type", "layer_types")
    if types is None:
        pattern = config.find("hybrid_override_pattern")
        types = list(pattern) if isinstance(pattern, str) else None
    return [_LAYER_TYPES[name] for name in check_layer_types(config, types, _LAYER_TYPES)]


_STEMS_BY_TYPE = {
    name: stems_of(rules) | (stems_of(_LATENT) if name == _EXPERTS else set())
    for name, rules in _TENSORS_BY_TYPE.items()
}

_ANY_STEMS = frozenset().union(*_STEMS_BY_TYPE.values())

_DRAFT_STEMS = _STEMS_BY_TYPE[_ATTENTION] | stems_of(_TENSORS_BY_TYPE[_EXPERTS])


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    types = _layer_types(config)
    present = _DRAFT_STEMS if layer >= len(types) else _STEMS_BY_TYPE[types[layer]]
    return dict.fromkeys(_ANY_STEMS - present, False)


def _kinds(config: ModelConfig, draft: tuple[str, ...] = ()) -> Pairs:
    """llama.cpp recognizes the type of a layer by its number of K and V heads and by the size of its MLP.

    `draft` are the types that the draft layer has at once.
    """
    types = _layer_types(config)
    size = config.positive("moe_intermediate_size" if _EXPERTS in types else "intermediate_size")
    layers = [*((name,) for name in types), *([draft] if draft else [])]
    kv_heads = [config.kv_heads if _ATTENTION in names else 0 for names in layers]
    sizes = [size if {_MLP, _EXPERTS} & {*names} else 0 for names in layers]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "feed_forward_length", Field.array(ValueType.INT32, sizes)


def _layers(config: ModelConfig) -> Pairs:
    yield "block_count", Field.uint32(config.blocks)
    # llama.cpp applies no RoPE, whatever this key has.
    yield "rope.dimension_count", Field.uint32(min(config.hidden // config.heads, config.head_size))
    yield from _kinds(config)
    heads = config.count("mamba_num_heads")
    yield "ssm.inner_size", Field.uint32(heads * config.count("mamba_head_dim"))
    yield "ssm.time_step_rank", Field.uint32(heads)


_KEYS = (
    always("context_length", Field.uint32(UNLIMITED_CONTEXT)),
    count("embedding_length", "hidden_size", required=True),
    count("attention.head_count", "num_attention_heads", required=True),
    _layers,
    head_dim,
    rope_base,
    always("rope.scaling.finetuned", Field.boolean(False)),
    # llama.cpp's loader requires one of the two, and uses the first for all norms.
    number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
    number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    VOCABULARY_SIZE,
    count("ssm.conv_kernel", "mamba_d_conv", "conv_kernel", required=True),
    count("ssm.state_size", "ssm_state_size", required=True),
    count("ssm.group_count", *GROUP_COUNT_KEYS, required=True),
)

_EXPERT_KEYS = (
    count("expert_count", "n_routed_experts", required=True),
    count("expert_used_count", "num_experts_per_tok", required=True),
    count("expert_feed_forward_length", "moe_intermediate_size", required=True),
    count("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", required=True),
    count("expert_shared_count", "n_shared_experts", required=True),
    flag("expert_weights_norm", "norm_topk_prob", default=True),
    number("expert_weights_scale", "routed_scaling_factor", required=True),
    count("expert_group_count", "n_group", required=True),
    count("expert_group_used_count", "topk_group", required=True),
    count("moe_latent_size", "moe_latent_size"),
)


_DRAFT = DraftLayer(
    ("mtp.",),
    {
        "mtp.layers.1.norm.": LAYER + "post_attention_layernorm.",
        "mtp.layers.1.final_layernorm.": LAYER + "shared_head.norm.",
        "mtp.layers.0.": LAYER,
        "mtp.layers.1.": LAYER,
    },
    {
        LAYER + "eh_proj": "blk.{}.nextn.eh_proj",
        LAYER + "enorm": "blk.{}.nextn.enorm",
        LAYER + "hnorm": "blk.{}.nextn.hnorm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
        LAYER + "shared_head.norm": "blk.{}.nextn.shared_head_norm",
    },
    (lambda config: _kinds(config, (_ATTENTION, _EXPERTS)),),
)
"""The repository has a layer of attention and one of experts; llama.cpp has both in one. It knows no experts behind
`moe_latent_size` there (b10488)."""


def _variant(config: ModelConfig) -> Family:
    types = _layer_types(config)
    if _EXPERTS not in types:
        return NEMOTRON_H
    if _MLP in types:
        raise CannotConvert("config.json has MLP layers and expert layers, and llama.cpp runs only one kind")
    latent = {} if config.find("moe_latent_size") is None else _LATENT
    return replace(
        NEMOTRON_H,
        architecture="nemotron_h_moe",
        tensors={**NEMOTRON_H.tensors, **latent},
        hyperparameters=(*_KEYS, *_EXPERT_KEYS),
        shapes={**MAMBA2_SHAPES, **_EXPERT_SHAPES},
        has_mixed_layers=True,
        draft=None if latent else _DRAFT,
        skipped_prefixes=NEMOTRON_H.skipped_prefixes if latent else (),
    )


NEMOTRON_H: Family = Family(
    "nemotron_h",
    {
        "model.embeddings": "token_embd",
        "model.norm_f": "output_norm",
        "lm_head": "output",
        LAYER + "norm": "blk.{}.attn_norm",
        **{key: rule for rules in _TENSORS_BY_TYPE.values() for key, rule in rules.items()},
    },
    _KEYS,
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "layer_norm_epsilon": 1e-5,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
    },
    rope_types=frozenset({"default"}),
    optional_biases=QKV | {"attn_output", "ffn_up", "ffn_down"},
    accepted_values={
        "mlp_hidden_act": ("relu2", None),
        "mamba_hidden_act": ("silu", None),
        "use_conv_bias": (True, None),
        "mamba_conv_bias": (True, None),
        "sliding_window": (None,),
        "use_bias": (False, None),
        "mamba_proj_bias": (False, None),
        # llama.cpp does not limit time steps. transformers applies the first value, which is too small to matter.
        "time_step_min": (0.001, 0, None),
        "mamba_dt_min": (0.001, 0, None),
        "time_step_limit": ([0.0, math.inf], [0.0, {"__float__": "Infinity"}], None),
    },
    tensor_flags={**ATTENTION_BIAS, "mlp_bias": frozenset({"ffn_up.bias", "ffn_down.bias"})},
    # Initial values, precision, and layers that only help in training.
    harmless_keys=frozenset(
        {
            *("chunk_size", "expand", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap", "residual_in_fp32"),
            *("rescale_prenorm_residual", "time_step_floor", "time_step_max", "mtp_layers_block_type"),
            *("num_nextn_predict_layers", "mtp_hybrid_override_pattern", "mamba_dt_max", "mamba_dt_init_floor"),
            # llama.cpp does not limit its context.
            "max_position_embeddings",
        }
    ),
    prefix_aliases={"backbone.": "model."},
    skipped_prefixes=("mtp.",),
    absent_tensors=_absent_tensors,
    variant=_variant,
    shapes=MAMBA2_SHAPES,
)
