"""Liquid's LFM2, dense and with experts: most layers have a short convolution instead of attention. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.common_keys import check_layer_types
from proxy.gguf.families.common_tensors import ATTENTION, LAYER, experts, size_from, squeezed
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, Split, Stacked
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, always, count

_TENSORS: Mapping[str, Rule | str] = {
    "model.embed_tokens": "token_embd",
    # So llama.cpp calls what is the norm before the output.
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

_CONVOLUTION, _ATTENDS = "conv", "full_attention"


def _layers(config: ModelConfig) -> Pairs:
    """A layer without heads for K and V is one with a convolution."""
    kinds, attending = config.find("layer_types"), config.find("full_attn_idxs")
    if kinds is None and isinstance(attending, list):
        kinds = [_ATTENDS if layer in attending else _CONVOLUTION for layer in range(config.blocks)]
    kinds = check_layer_types(config, kinds, (_ATTENDS, _CONVOLUTION))
    heads = [config.kv_heads if kind == _ATTENDS else 0 for kind in kinds]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)
    kernel = config.positive("conv_L_cache")
    if kernel == 1:
        raise CannotConvert("config.json has conv_L_cache = 1, which llama.cpp does not run")
    yield "shortconv.l_cache", Field.uint32(kernel)


def _adjusted_size(config: ModelConfig) -> Pairs:
    size, factor = config.positive("block_ff_dim", "intermediate_size"), config.optional_number(_FACTOR)
    if config.flag("block_auto_adjust_ff_dim", default=True):
        size = 2 * size // 3
        if factor is not None:
            each = config.positive("block_multiple_of")
            size = -(-int(factor * size) // each) * each
    yield "feed_forward_length", Field.uint32(size)


_FACTOR = "block_ffn_dim_multiplier"

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

_ONLY: Mapping[str, tuple[object, ...]] = {
    "conv_bias": (False, None),
    # transformers goes by the first of these where it is there.
    "tie_embedding": (True, None),
    "tie_word_embeddings": (True,),
}

LFM2 = Family(
    "lfm2",
    _TENSORS,
    (*BASIC, _layers, VOCABULARY_SIZE, _adjusted_size),
    defaults={
        **_DEFAULTS,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "block_multiple_of": 256,
        _FACTOR: 1.0,
    },
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values=_ONLY,
)

LFM2_MOE = replace(
    LFM2,
    architecture="lfm2moe",
    tensors={
        **_TENSORS,
        LAYER + "feed_forward.gate": "blk.{}.ffn_gate_inp",
        LAYER + "feed_forward.expert_bias": "blk.{}.exp_probs_b",
        _EXPERTS + "{}.w1": Stacked("blk.{}.ffn_gate_exps", experts),
        _EXPERTS + "{}.w2": Stacked("blk.{}.ffn_down_exps", experts),
        _EXPERTS + "{}.w3": Stacked("blk.{}.ffn_up_exps", experts),
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
        always("expert_gating_func", Field.uint32(2)),
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
        **_ONLY,
        "use_expert_bias": (True, None),
        "norm_topk_prob": (True, None),
        "routed_scaling_factor": (1.0, None),
    },
)
