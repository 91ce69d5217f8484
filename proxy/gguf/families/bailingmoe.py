"""Ling 2 (Bailing MoE 2). Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED
from proxy.gguf.families.common_tensors import LAYER, MLP, NORMS, ROUTED_EXPERTS, SHARED_EXPERTS
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, flag, number, partial_head_dimensions
from proxy.gguf.model_config import ModelConfig


def _no_prediction_layers(config: ModelConfig) -> Pairs:
    """The layers for multi-token prediction are skipped, so their number in config.json becomes 0."""
    if config.optional_count("num_nextn_predict_layers") is not None:
        yield "nextn_predict_layers", Field.uint32(0)


BAILING_MOE2 = Family(
    "bailingmoe2",
    {
        **NORMS,
        **MLP,
        **ROUTED_EXPERTS,
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
        _no_prediction_layers,
    ),
    optional_tensors=frozenset({"exp_probs_b"}),
    optional_biases=frozenset(),
    defaults={"partial_rotary_factor": 0.5},
    # Some versions of llama.cpp's loader multiply the size of a shared expert by their number, others do not.
    accepted_values={
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
    # What the weights show anyway, another form of partial_rotary_factor, and windows that are not used.
    harmless_keys=frozenset(
        {
            *("moe_router_enable_expert_bias", "router_dtype", "rotary_dim", "moe_router_topk_scaling_factor"),
            *("sliding_window", "max_window_layers"),
        }
    ),
    has_transformers_class=False,
    skips_extra_layers=True,
    heads_fill_embedding=True,
)
