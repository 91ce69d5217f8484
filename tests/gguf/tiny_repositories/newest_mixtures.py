"""Mixtures of experts: MiMo V2 Flash, Ling, Arctic and Command A+."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs, qwen_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    Tiny,
    Weights,
)
from tests.gguf.tiny_repositories.sentencepiece import sentence_pieces

_QUERY, _VALUE = 96, 64
"""Numbers of a head of Q and K, and of V, in MiMo V2."""


def _mimo_v2(weights: Weights) -> None:
    config = weights.config
    count = config["num_hidden_layers"]
    pattern = config.get("hybrid_layer_pattern", [int(layer > 0 and (layer + 1) % 6 > 0) for layer in range(count)])
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        kv_heads = 2 * KV_HEADS if pattern[number] else KV_HEADS
        weights.norms(layer)
        weights.linear(f"{layer}self_attn.q_proj", HEADS * _QUERY, HIDDEN)
        weights.linear(f"{layer}self_attn.k_proj", kv_heads * _QUERY, HIDDEN)
        weights.linear(f"{layer}self_attn.v_proj", kv_heads * _VALUE, HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * _VALUE)
        if pattern[number]:
            weights.add(f"{layer}self_attn.attention_sink_bias", HEADS)
        if number:
            weights.experts(layer)
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)
        else:
            weights.mlp(layer)


def _ling(weights: Weights) -> None:
    weights.add("model.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for layer in weights.layers():
        weights.norms(layer)
        weights.linear(f"{layer}attention.query_key_value", (HEADS + 2 * KV_HEADS) * weights.head, HIDDEN)
        weights.linear(f"{layer}attention.dense", HIDDEN, HEADS * weights.head)
        weights.experts(layer)
        weights.mlp(layer, 2 * HIDDEN, name="mlp.shared_experts")


def _arctic(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm", "residual_layernorm", "post_attention_layernorm")
        weights.attention(layer)
        weights.numbered_mlp(f"{layer}residual_mlp.", HIDDEN)
        weights.linear(f"{layer}block_sparse_moe.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            weights.numbered_mlp(f"{layer}block_sparse_moe.experts.{expert}.", FEED_FORWARD)


def _cohere2_moe(weights: Weights) -> None:
    weights.ends()
    shared = weights.config.get("num_shared_experts", 0)
    dense = weights.config.get("first_k_dense_replace", 0)
    for number, layer in enumerate(weights.layers()):
        weights.norm(f"{layer}input_layernorm")
        weights.attention(layer)
        if number < dense:
            weights.mlp(layer)
            continue
        weights.experts(layer)
        if shared:
            weights.mlp(layer, shared * HIDDEN, name="mlp.shared_experts")


_COHERE2_MOE = {
    "head_dim": 2 * HEAD,
    "intermediate_size": HIDDEN,
    "layer_norm_eps": 1e-4,
    "logit_scale": 0.25,
    "num_experts": EXPERTS,
    "rope_theta": 20000.0,
    "sliding_window": 8,
    "prefix_dense_sliding_window_pattern": 1,
    "tie_word_embeddings": True,
}
_MIMO_V2 = {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "head_dim": _QUERY,
    "v_head_dim": _VALUE,
    "attention_value_scale": 0.6,
    "routed_scaling_factor": None,
    "sliding_window": 8,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}


REPOSITORIES: dict[str, Tiny] = {
    "mimo_v2": Tiny(
        "MiMoV2FlashForCausalLM",
        "mimo_v2_flash",
        _mimo_v2,
        qwen_tokens,
        {
            **_MIMO_V2,
            "num_hidden_layers": 5,
            "hybrid_layer_pattern": [0, 1, 1, 0, 1],
            "moe_layer_freq": [0, 1, 1, 1, 1],
            "swa_head_dim": _QUERY,
            "swa_v_head_dim": _VALUE,
            "swa_num_attention_heads": HEADS,
            "swa_num_key_value_heads": 2 * KV_HEADS,
            "add_full_attention_sink_bias": False,
            "add_swa_attention_sink_bias": True,
            "attention_chunk_size": 8,
            "layernorm_epsilon": 1e-4,
            "n_shared_experts": None,
            "partial_rotary_factor": 0.25,
            "rope_theta": 20000.0,
            "scoring_func": "sigmoid",
            "sliding_window_size": 8,
            "swa_rope_theta": 5000.0,
            "topk_method": "noaux_tc",
        },
        drop=("rms_norm_eps",),
    ),
    "mimo_v2_v5": Tiny(
        "MiMoV2FlashForCausalLM",
        "mimo_v2_flash",
        _mimo_v2,
        qwen_tokens,
        {
            **_MIMO_V2,
            "num_hidden_layers": 7,
            "rms_norm_eps": 1e-4,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
            },
        },
        drop=("rope_theta",),
    ),
    "bailingmoe": Tiny(
        "BailingMoeForCausalLM",
        "bailing_moe",
        _ling,
        lambda: byte_pairs("bailingmoe"),
        {
            "head_dim": 2 * HEAD,
            "rms_norm_eps": 1e-4,
            "rope_theta": 20000.0,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "num_shared_experts": 2,
            "moe_intermediate_size": HIDDEN,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "norm_head": False,
            "norm_softmax": False,
            "use_bias": False,
            "use_qkv_bias": False,
            "use_sliding_window": False,
            "embedding_dropout": 0.1,
            "output_dropout": 0.1,
        },
    ),
    "arctic": Tiny(
        "ArcticForCausalLM",
        "arctic",
        _arctic,
        lambda: sentence_pieces(added=True),
        {
            "rms_norm_eps": 1e-4,
            "rope_theta": 20000.0,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "moe_layer_frequency": 1,
            "parallel_attn_mlp_res": True,
            "rope_scaling": None,
            "sliding_window": None,
            "use_residual": True,
            "moe_token_dropping": False,
            "moe_train_capacity_factor": 1,
            "moe_eval_capacity_factor": 1,
            "moe_min_capacity": 0,
            "enable_expert_tensor_parallelism": False,
            "router_aux_loss_coef": 0.01,
        },
    ),
    "cohere2_moe": Tiny(
        "Cohere2MoeForCausalLM",
        "cohere2_moe",
        _cohere2_moe,
        lambda: byte_pairs("tiny_aya"),
        {
            **_COHERE2_MOE,
            "num_hidden_layers": 5,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", *["sliding_attention"] * 2],
            "first_k_dense_replace": 1,
            "mlp_layer_types": ["dense", *["sparse"] * 4],
            "prefix_dense_intermediate_size": FEED_FORWARD,
            "num_experts_per_tok": 3,
            "num_shared_experts": 2,
            "shared_expert_combination_strategy": "average",
            "expert_selection_fn": "sigmoid",
            "norm_topk_prob": True,
        },
        drop=("rms_norm_eps",),
    ),
    "cohere2_moe_softmax": Tiny(
        "Cohere2MoeForCausalLM",
        "cohere2_moe",
        _cohere2_moe,
        lambda: byte_pairs("tiny_aya"),
        {
            **_COHERE2_MOE,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2],
            "num_experts_per_tok": 3,
            "expert_selection_fn": "softmax",
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-4,
            "tie_word_embeddings": False,
        },
    ),
}
