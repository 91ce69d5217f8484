"""Further families with experts, newer than those of `experts`."""

from collections.abc import Callable

from tests.gguf.tiny_repositories.byte_level import byte_pairs, qwen_tokens
from tests.gguf.tiny_repositories.experts import DEEPSEEK, dense_or_experts
from tests.gguf.tiny_repositories.repository import EXPERTS, HEAD, HEADS, HIDDEN, KV_HEADS, MOE, Tiny, Weights


def _minimax_m2(weights: Weights) -> None:
    """One norm for all heads of Q, and one for all heads of K."""
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(HEADS * HEAD, KV_HEADS * HEAD))
        weights.linear(f"{layer}block_sparse_moe.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}block_sparse_moe.e_score_correction_bias", EXPERTS)
        for expert in range(EXPERTS):
            weights.numbered_mlp(f"{layer}block_sparse_moe.experts.{expert}.")


def _corrected(bias: str) -> Callable[[Weights], None]:
    """Experts behind a dense layer, with a correction of the router's choice under this name."""

    def write(weights: Weights) -> None:
        weights.ends()
        for number, layer in enumerate(weights.layers()):
            weights.norms(layer)
            weights.attention(layer, norms=(HEAD, HEAD))
            dense_or_experts(weights, number, layer)
            if number:
                weights.add(f"{layer}{bias}", EXPERTS)

    return write


def _solar_open(weights: Weights) -> None:
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer)
        dense_or_experts(weights, number, layer)
        weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)


REPOSITORIES: dict[str, Tiny] = {
    "exaone_moe": Tiny(
        "ExaoneMoeForCausalLM",
        "exaone_moe",
        _corrected("mlp.e_score_correction_bias"),
        lambda: byte_pairs("exaone-moe"),
        {
            **MOE,
            "num_hidden_layers": 5,
            "num_shared_experts": 1,
            "head_dim": HEAD,
            "first_k_dense_replace": 1,
            "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"],
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "rms_norm_eps": 1e-4,
            "rope_theta": 20000.0,
            "routed_scaling_factor": 1.5,
            "scoring_func": "sigmoid",
            "sliding_window": 8,
            "sliding_window_pattern": "LLLG",
        },
    ),
    "dots1": Tiny(
        "Dots1ForCausalLM",
        "dots1",
        _corrected("mlp.gate.e_score_correction_bias"),
        qwen_tokens,
        {
            **DEEPSEEK,
            "num_key_value_heads": HEADS,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "rope_theta": 50000.0,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
    ),
    "solar_open": Tiny(
        "SolarOpenForCausalLM",
        "solar_open",
        _solar_open,
        lambda: byte_pairs("qwen2", more=("<|startoftext|>", "<unk>")),
        {
            **{key: value for key, value in DEEPSEEK.items() if key != "scoring_func"},
            "first_k_dense_replace": 0,
            "head_dim": HEAD,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "partial_rotary_factor": 1.0,
            "rms_norm_eps": 1e-4,
            "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024},
            "routed_scaling_factor": 1.5,
            "rope_theta": 70000.0,
        },
    ),
    "minimax_m2": Tiny(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        _minimax_m2,
        lambda: byte_pairs("gpt-4o"),
        {
            "head_dim": HEAD,
            "rotary_dim": 32,
            "rms_norm_eps": 1e-4,
            "rope_theta": 20000.0,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "attn_type_list": [1, 1],
            "qk_norm_type": "per_layer",
            "scoring_func": "sigmoid",
            "use_qk_norm": True,
            "use_routing_bias": True,
        },
    ),
}
