"""Mixtures of experts that are built like no dense family here: GLM-4 MoE, ERNIE 4.5 MoE, Ling 2. Pure."""

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.llama import ERNIE4_5, ERNIE_NOTES
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    ENDS,
    FUSED_EXPERTS,
    GLM_SPECIALS,
    HEAD_NORMS,
    LAYER,
    MLP,
    NORMS,
    ROUTED,
    SHARED_EXPERTS,
    UNTIED,
    prefix_space,
)
from proxy.gguf.families.rules import QKV, SHARED_MATRICES, Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import (
    BASIC,
    VOCABULARY_SIZE,
    Pairs,
    always,
    count,
    flag,
    number,
    partial_head_dimensions,
)
from proxy.gguf.tensors import shown

GLM4_MOE = Family(
    "glm4moe",
    {
        **ENDS,
        **ATTENTION,
        **HEAD_NORMS,
        **MLP,
        **ROUTED,
        **FUSED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        partial_head_dimensions,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("expert_shared_count", "n_shared_experts", required=True),
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        always("expert_gating_func", Field.uint32(2)),
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
    },
    biases=QKV,
    only={**ANY_SILU, "attention_bias": (True,)},
    flags={"use_qk_norm": frozenset({"attn_q_norm.weight", "attn_k_norm.weight"})},
    specials=GLM_SPECIALS,
    optional=SHARED_MATRICES | {"attn_q_norm", "attn_k_norm"},
    # llama.cpp's converter keeps the layer for predicting more tokens, which nothing here runs.
    extra_layers=True,
)


def _shared_size(config: ModelConfig) -> Pairs:
    shared = config.count("moe_num_shared_experts")
    yield "expert_shared_count", Field.uint32(shared)
    if shared:
        yield "expert_shared_feed_forward_length", Field.uint32(config.positive("moe_intermediate_size") * shared)


def _no_dense_end(config: ModelConfig) -> Pairs:
    """llama.cpp takes the layers behind the first dense ones for mixtures, up to the last."""
    if config.find("moe_layer_end_index") not in (None, -1, config.blocks - 1):
        raise CannotConvert(
            f"config.json has moe_layer_end_index = {shown(config.find('moe_layer_end_index'))} in {config.blocks} "
            "layers, and llama.cpp takes the last one for a mixture"
        )
    yield from ()


ERNIE4_5_MOE = Family(
    "ernie4_5-moe",
    {
        **ENDS,
        **NORMS,
        **ATTENTION,
        **MLP,
        **ROUTED,
        **SHARED_EXPERTS,
        LAYER + "mlp.moe_statics.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        count("expert_count", "moe_num_experts", required=True),
        count("expert_used_count", "moe_k", required=True),
        count("interleave_moe_layer_step", "moe_layer_interval", required=True),
        count("leading_dense_block_count", "moe_layer_start_index", required=True),
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        _shared_size,
        _no_dense_end,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        **{key: value for key, value in ERNIE4_5.defaults.items() if key != "head_dim"},
        "num_key_value_heads": 4,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_layer_interval": 1,
        "moe_layer_start_index": 1,
        "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2,
    },
    optional=SHARED_MATRICES | {"exp_probs_b"},
    optional_biases=QKV | {"attn_output"},
    # llama.cpp's loader takes all layers behind the first dense ones for mixtures.
    only={
        **ANY_SILU,
        "moe_layer_interval": (1,),
        "use_bias": (False, None),
        "use_rmsnorm": (True, None),
        "moe_norm_min": (1e-12, None),
    },
    # How many tokens an expert takes in training, and what the weights show.
    harmless=ERNIE_NOTES | {"moe_capacity", "moe_gate", "moe_use_aux_free", "moe_group", "moe_aux_loss_lambda"},
    vocabulary=prefix_space,
    skipped=("model.mtp_",),
)


def _no_more_layers(config: ModelConfig) -> Pairs:
    """Where config.json counts layers for predicting more tokens, which are left out."""
    if config.optional_count("num_nextn_predict_layers") is not None:
        yield "nextn_predict_layers", Field.uint32(0)


BAILING_MOE2 = Family(
    "bailingmoe2",
    {
        **NORMS,
        **MLP,
        **ROUTED,
        **SHARED_EXPERTS,
        "model.word_embeddings": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        LAYER + "attention.query_key_value": "blk.{}.attn_qkv",
        LAYER + "attention.dense": "blk.{}.attn_output",
        LAYER + "attention.query_layernorm": "blk.{}.attn_q_norm",
        LAYER + "attention.key_layernorm": "blk.{}.attn_k_norm",
        LAYER + "mlp.gate.expert_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        partial_head_dimensions,
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCABULARY_SIZE,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count(
            "expert_shared_feed_forward_length",
            "moe_shared_expert_intermediate_size",
            "moe_intermediate_size",
            required=True,
        ),
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        count("expert_shared_count", "num_shared_experts", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
        _no_more_layers,
    ),
    optional=frozenset({"exp_probs_b"}),
    optional_biases=frozenset(),
    defaults={"partial_rotary_factor": 0.5},
    # llama.cpp's loader has it multiply the shared experts' size with their number, or not, by its version.
    only={
        **ANY_SILU,
        **UNTIED,
        "num_shared_experts": (1,),
        "use_qk_norm": (True,),
        "use_qkv_bias": (False, None),
        "use_bias": (False, None),
        "score_function": ("sigmoid",),
        "norm_head": (False, None),
        "norm_softmax": (False, None),
        "use_rmsnorm": (True, None),
        "use_sliding_window": (False, None),
        "router_type": ("topN", None),
    },
    # What the weights show, the share of partial_rotary_factor, and windows that are not used.
    harmless=frozenset(
        {
            *("moe_router_enable_expert_bias", "router_dtype", "rotary_dim", "moe_router_topk_scaling_factor"),
            *("sliding_window", "max_window_layers"),
        }
    ),
    in_transformers=False,
    extra_layers=True,
)
