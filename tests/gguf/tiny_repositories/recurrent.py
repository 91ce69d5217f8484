"""More families with recurrent layers."""

from tests.gguf.tiny_repositories.byte_level import llama3_tokens
from tests.gguf.tiny_repositories.repository import HEAD, HIDDEN, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.rwkv_world import world_tokens
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


def _rwkv7(weights: Weights) -> None:
    """With the names of flash-linear-attention. The first layer has a norm of its own, and no use for `v_lora`."""
    config = weights.config
    weights.add("model.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("model.norm", bias=True)
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        if not number:
            weights.norm(f"{layer}pre_norm", bias=True)
        weights.norms(layer, "attn_norm", "ffn_norm", bias=True)
        for letter in "rwkvag":
            weights.add(f"{layer}attn.x_{letter}", 1, 1, HIDDEN)
        for name in ("k_k", "k_a"):
            weights.add(f"{layer}attn.{name}", HIDDEN)
        weights.add(f"{layer}attn.r_k", HIDDEN // 64, 64)
        for letter, key in (("w", "decay"), ("v", "v"), ("a", "a"), ("g", "gate")):
            rank = config[f"{key}_low_rank_dim"]
            weights.linear(f"{layer}attn.{letter}_lora.lora.0", rank, HIDDEN)
            weights.linear(f"{layer}attn.{letter}_lora.lora.2", HIDDEN, rank, bias=letter != "g")
        for letter in "rkvo":
            weights.linear(f"{layer}attn.{letter}_proj", HIDDEN, HIDDEN)
        weights.norm(f"{layer}attn.g_norm", bias=True)
        weights.add(f"{layer}ffn.x_k", HIDDEN)
        weights.linear(f"{layer}ffn.key", config["intermediate_size"], HIDDEN)
        weights.linear(f"{layer}ffn.value", HIDDEN, config["intermediate_size"])


def _rwkv6(weights: Weights) -> None:
    config, heads = weights.config, HIDDEN // weights.config["head_size"]
    weights.add("rwkv.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("rwkv.ln_out", bias=True)
    weights.add("head.weight", config["vocab_size"], HIDDEN)
    weights.norm("rwkv.blocks.0.pre_ln", bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"rwkv.blocks.{number}."
        weights.norms(layer, "ln1", "ln2", bias=True)
        for letter in "xwkvrg":
            weights.add(f"{layer}attention.time_maa_{letter}", 1, 1, HIDDEN)
        weights.add(f"{layer}attention.time_maa_w1", HIDDEN, 5 * 32)
        weights.add(f"{layer}attention.time_maa_w2", 5, 32, HIDDEN)
        weights.add(f"{layer}attention.time_decay", 1, 1, HIDDEN)
        weights.add(f"{layer}attention.time_decay_w1", HIDDEN, 64)
        weights.add(f"{layer}attention.time_decay_w2", 64, HIDDEN)
        weights.add(f"{layer}attention.time_faaaa", heads, HIDDEN // heads)
        for name in ("receptance", "key", "value", "gate", "output"):
            weights.linear(f"{layer}attention.{name}", HIDDEN, HIDDEN)
        weights.norm(f"{layer}attention.ln_x", bias=True)
        for letter in "kr":
            weights.add(f"{layer}feed_forward.time_maa_{letter}", 1, 1, HIDDEN)
        weights.linear(f"{layer}feed_forward.key", config["intermediate_size"] or 896, HIDDEN)
        weights.linear(f"{layer}feed_forward.receptance", HIDDEN, HIDDEN)
        weights.linear(f"{layer}feed_forward.value", HIDDEN, config["intermediate_size"] or 896)


RWKV6 = {
    "num_hidden_layers": 3,
    "attention_hidden_size": HIDDEN,
    "intermediate_size": 768,
    "head_size": 32,
    "head_size_divisor": 8,
    "layer_norm_epsilon": 1e-5,
    "num_attention_heads": 64,
    "rescale_every": 2,
}


RWKV7 = {
    "num_hidden_layers": 3,
    "intermediate_size": 768,
    "hidden_act": "sqrelu",
    "head_dim": 64,
    "num_heads": 4,
    "value_dim": [HIDDEN] * 3,
    "a_low_rank_dim": 64,
    "decay_low_rank_dim": 96,
    "gate_low_rank_dim": 128,
    "v_low_rank_dim": 32,
    "norm_bias": True,
    "norm_eps": 1e-5,
    "norm_first": True,
    "attn": None,
    "attn_mode": "chunk",
    "hidden_ratio": 3.0,
    "fuse_norm": False,
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
    "rwkv6": Tiny("Rwkv6ForCausalLM", "rwkv6", _rwkv6, world_tokens, RWKV6, drop=(*NO_ATTENTION[1:], "hidden_act")),
    "rwkv7": Tiny("RWKV7ForCausalLM", "rwkv7", _rwkv7, world_tokens, RWKV7, drop=NO_ATTENTION),
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
