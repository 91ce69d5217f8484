"""Further families with experts, newer than those of `experts`."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import EXPERTS, HEAD, HEADS, HIDDEN, KV_HEADS, Tiny, Weights


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


REPOSITORIES: dict[str, Tiny] = {
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
