"""More families with recurrent layers."""

from tests.gguf.tiny_repositories.byte_level import llama3_tokens
from tests.gguf.tiny_repositories.repository import HEAD, HIDDEN, Tiny, Weights


def _bamba(weights: Weights) -> None:
    """Attention by `attn_layer_indices`."""
    config = weights.config
    weights.add("model.embed_tokens.weight", config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm")
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer, "input_layernorm", "pre_ff_layernorm")
        if number in config["attn_layer_indices"]:
            weights.attention(layer)
        else:
            weights.mixer(f"{layer}mamba.", 2 * HIDDEN)
        weights.mlp(layer, name="feed_forward")


REPOSITORIES: dict[str, Tiny] = {
    "bamba": Tiny(
        "BambaForCausalLM",
        "bamba",
        _bamba,
        llama3_tokens,
        {
            "vocab_size": 376,
            "num_hidden_layers": 3,
            "attn_layer_indices": [1],
            "attn_rotary_emb": HEAD // 2,
            "rope_theta": 30000.0,
            "mamba_n_heads": 8,
            "mamba_n_groups": 2,
            "mamba_d_state": 64,
            "mamba_d_head": 64,
            "mamba_d_conv": 3,
            "mamba_expand": 2,
        },
    ),
}
