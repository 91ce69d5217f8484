"""Liquid's LFM2, dense and with experts: most layers have a short convolution instead of attention. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import check_layer_types
from proxy.gguf.families.common_tensors import ATTENTION, LAYER, expert_count, size_from, squeezed
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, Split, Stacked
from proxy.gguf.families.text_part import VISION_TEXT
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, VOCABULARY_SIZE, Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig

_TENSORS: Mapping[str, Rule | str] = {
    "model.embed_tokens": "token_embd",
    # llama.cpp uses this name for the norm before the output.
    "model.embedding_norm": "token_embd_norm",
    **{key: name for key, name in ATTENTION.items() if not key.endswith("o_proj")},
    LAYER + "self_attn.out_proj": "blk.{}.attn_output",
    LAYER + "self_attn.q_layernorm": "blk.{}.attn_q_norm",
    LAYER + "self_attn.k_layernorm": "blk.{}.attn_k_norm",
    LAYER + "operator_norm": "blk.{}.attn_norm",
    LAYER + "ffn_norm": "blk.{}.ffn_norm",
    LAYER + "conv.conv.weight": Reshaped("blk.{}.shortconv.conv.weight", squeezed),
    LAYER + "conv.in_proj": "blk.{}.shortconv.in_proj",
    LAYER + "conv.out_proj": "blk.{}.shortconv.out_proj",
    LAYER + "feed_forward.w1": "blk.{}.ffn_gate",
    LAYER + "feed_forward.w2": "blk.{}.ffn_down",
    LAYER + "feed_forward.w3": "blk.{}.ffn_up",
}

_EXPERTS = LAYER + "feed_forward.experts."

_CONVOLUTION, _FULL = "conv", "full_attention"


def _layers(config: ModelConfig) -> Pairs:
    """In llama.cpp a layer without K and V heads has a convolution."""
    types, full = config.find("layer_types"), config.find("full_attn_idxs")
    if types is None and isinstance(full, list):
        types = [_FULL if layer in full else _CONVOLUTION for layer in range(config.blocks)]
    types = check_layer_types(config, types, (_FULL, _CONVOLUTION))
    kv_heads = [config.kv_heads if layer_type == _FULL else 0 for layer_type in types]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    kernel = config.positive("conv_L_cache")
    if kernel == 1:
        raise CannotConvert("config.json has conv_L_cache = 1, which llama.cpp does not run")
    yield "shortconv.l_cache", Field.uint32(kernel)


def _mlp_size(config: ModelConfig) -> Pairs:
    size, factor = config.positive("block_ff_dim", "intermediate_size"), config.optional_number(_SIZE_FACTOR)
    if config.flag("block_auto_adjust_ff_dim", default=True):
        size = 2 * size // 3
        if factor is not None:
            step = config.positive("block_multiple_of")
            size = -(-int(factor * size) // step) * step
    yield "feed_forward_length", Field.uint32(size)


_SIZE_FACTOR = "block_ffn_dim_multiplier"

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 65536,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "conv_L_cache": 3,
    "tie_word_embeddings": True,
}

_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {
    "conv_bias": (False, None),
    # If the first of these exists, transformers ignores the second.
    "tie_embedding": (True, None),
    "tie_word_embeddings": (True,),
}

LFM2 = Family(
    "lfm2",
    _TENSORS,
    (*BASIC, _layers, VOCABULARY_SIZE, _mlp_size),
    defaults={
        **_DEFAULTS,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "block_multiple_of": 256,
        _SIZE_FACTOR: 1.0,
    },
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values=_ACCEPTED_VALUES,
    heads_fill_embedding=True,
)

LFM2_VISION = replace(LFM2, text_part=VISION_TEXT)

LFM2_MOE = replace(
    LFM2,
    architecture="lfm2moe",
    tensors={
        **_TENSORS,
        LAYER + "feed_forward.gate": "blk.{}.ffn_gate_inp",
        LAYER + "feed_forward.expert_bias": "blk.{}.exp_probs_b",
        _EXPERTS + "{}.w1": Stacked("blk.{}.ffn_gate_exps", expert_count),
        _EXPERTS + "{}.w2": Stacked("blk.{}.ffn_down_exps", expert_count),
        _EXPERTS + "{}.w3": Stacked("blk.{}.ffn_up_exps", expert_count),
        _EXPERTS + "gate_up_proj": Split(
            (
                ("blk.{}.ffn_gate_exps", size_from("moe_intermediate_size")),
                ("blk.{}.ffn_up_exps", size_from("moe_intermediate_size")),
            )
        ),
        _EXPERTS + "down_proj": "blk.{}.ffn_down_exps",
    },
    hyperparameters=(
        *BASIC,
        _layers,
        VOCABULARY_SIZE,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("leading_dense_block_count", "num_dense_layers", required=True),
        SIGMOID_GATE,
    ),
    defaults={
        **_DEFAULTS,
        "hidden_size": 2048,
        "intermediate_size": 7168,
        "moe_intermediate_size": 1792,
        "num_dense_layers": 2,
        "num_experts": 32,
        "num_experts_per_tok": 4,
    },
    accepted_values={
        **_ACCEPTED_VALUES,
        "use_expert_bias": (True, None),
        "norm_topk_prob": (True, None),
        "routed_scaling_factor": (1.0, None),
    },
)
