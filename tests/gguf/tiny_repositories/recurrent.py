"""More families with recurrent layers."""

from tests.gguf.tiny_repositories.byte_level import llama3_tokens
from tests.gguf.tiny_repositories.repository import HEAD, HIDDEN, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces
from tests.gguf.tiny_repositories.state_spaces import NO_ATTENTION


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


def _mamba2(weights: Weights) -> None:
    config = weights.config
    weights.add("backbone.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("backbone.norm_f")
    if not config["tie_word_embeddings"]:
        weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    for number in range(config["num_hidden_layers"]):
        layer = f"backbone.layers.{number}."
        weights.norm(f"{layer}norm")
        weights.mixer(f"{layer}mixer.", config["expand"] * HIDDEN)


def _codestral(weights: Weights) -> None:
    """Mamba 2 with the names of its authors."""
    _mamba2(weights)
    weights.tensors = {
        "model." + name.replace("backbone.embeddings", "backbone.embedding"): tensor
        for name, tensor in weights.tensors.items()
    }


MAMBA2 = {
    "vocab_size": 384,
    "expand": 2,
    "num_heads": 16,
    "head_dim": 32,
    "state_size": 64,
    "n_groups": 2,
    "conv_kernel": 3,
    "layer_norm_epsilon": 2e-5,
    "chunk_size": 16,
    **TIED,
}


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
    "mamba2": Tiny("Mamba2ForCausalLM", "mamba2", _mamba2, change=MAMBA2, drop=(*NO_ATTENTION, "intermediate_size")),
    "mamba2_codestral": Tiny(
        "Mamba2ForCausalLM",
        "mamba2",
        _codestral,
        instruct_pieces,
        {**MAMBA2, "vocab_size": 448, "tie_word_embeddings": False},
        drop=(*NO_ATTENTION, "intermediate_size"),
    ),
    "mamba2_untied": Tiny(
        "Mamba2ForCausalLM",
        "mamba2",
        _mamba2,
        instruct_pieces,
        {**MAMBA2, "vocab_size": 448, "num_heads": 8, "head_dim": 64, "n_groups": 1, "tie_word_embeddings": False},
        drop=(*NO_ATTENTION, "intermediate_size"),
    ),
}
