"""Large mixtures of experts: DBRX and others."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEAD, HEADS, HIDDEN, KV_HEADS, Tiny, Weights


def _dbrx(weights: Weights) -> None:
    config = weights.config
    weights.add("transformer.wte.weight", config["vocab_size"], HIDDEN)
    for number in range(config["n_layers"]):
        layer = f"transformer.blocks.{number}."
        weights.norms(f"{layer}norm_attn_norm.", "norm_1", "norm_2")
        weights.linear(f"{layer}norm_attn_norm.attn.Wqkv", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}norm_attn_norm.attn.out_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}ffn.router.layer", EXPERTS, HIDDEN)
        for name in ("w1", "v1", "w2"):
            weights.add(f"{layer}ffn.experts.mlp.{name}", EXPERTS * FEED_FORWARD, HIDDEN)
    weights.norm("transformer.norm_f")
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)


REPOSITORIES: dict[str, Tiny] = {
    "dbrx": Tiny(
        "DbrxForCausalLM",
        "dbrx",
        _dbrx,
        lambda: byte_pairs("smaug-bpe"),
        {
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": 2,
            "max_seq_len": 2048,
            "attn_config": {"clip_qkv": 1.5, "kv_n_heads": KV_HEADS, "model_type": "", "rope_theta": 20000.0},
            "ffn_config": {
                "ffn_hidden_size": FEED_FORWARD,
                "model_type": "",
                "moe_jitter_eps": 0.1,
                "moe_loss_weight": 0.05,
                "moe_num_experts": EXPERTS,
                "moe_top_k": 2,
            },
        },
        drop=(
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta"),
        ),
    ),
}
