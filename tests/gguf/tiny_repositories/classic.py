"""Families of 2019 to 2023, from before most models were built like Llama."""

from tests.gguf.tiny_repositories.byte_level import smollm_tokens
from tests.gguf.tiny_repositories.repository import HEAD, HEADS, HIDDEN, LAYERS, Tiny, Weights


def _gpt2(weights: Weights, prefix: str = "") -> None:
    """Matrices are stored transposed."""
    config = weights.config
    inner = config.get("n_inner") or 4 * HIDDEN
    weights.add(f"{prefix}wte.weight", config["vocab_size"], HIDDEN)
    weights.add(f"{prefix}wpe.weight", config["n_positions"], HIDDEN)
    for number in range(LAYERS):
        layer = f"{prefix}h.{number}."
        weights.norms(layer, "ln_1", "ln_2", bias=True)
        for name, rows, columns in (
            ("attn.c_attn", 3 * HIDDEN, HIDDEN),
            ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", inner, HIDDEN),
            ("mlp.c_proj", HIDDEN, inner),
        ):
            weights.add(f"{layer}{name}.weight", columns, rows)
            weights.add(f"{layer}{name}.bias", rows)
    weights.norm(f"{prefix}ln_f", bias=True)
    if not config["tie_word_embeddings"]:
        weights.add("lm_head.weight", config["vocab_size"], HIDDEN)


def _gpt_bigcode(weights: Weights) -> None:
    config = weights.config
    weights.add("transformer.wte.weight", config["vocab_size"], HIDDEN)
    weights.add("transformer.wpe.weight", config["n_positions"], HIDDEN)
    for number in range(LAYERS):
        layer = f"transformer.h.{number}."
        weights.norms(layer, "ln_1", "ln_2", bias=True)
        weights.linear(f"{layer}attn.c_attn", HIDDEN + 2 * HEAD, HIDDEN, bias=True)
        weights.linear(f"{layer}attn.c_proj", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.c_fc", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.c_proj", HIDDEN, 4 * HIDDEN, bias=True)
    weights.norm("transformer.ln_f", bias=True)


def _mpt(weights: Weights) -> None:
    weights.add("transformer.wte.weight", weights.config["vocab_size"], HIDDEN)
    for number in range(LAYERS):
        layer = f"transformer.blocks.{number}."
        weights.norms(layer, "norm_1", "norm_2")
        weights.linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}attn.out_proj", HIDDEN, HIDDEN)
        weights.linear(f"{layer}ffn.up_proj", 4 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}ffn.down_proj", HIDDEN, 4 * HIDDEN)
    weights.norm("transformer.norm_f")


LLAMA_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_theta"),
)
GPT2 = {
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_layer": LAYERS,
    "n_positions": 512,
    "n_ctx": 512,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-4,
    "tie_word_embeddings": True,
}

REPOSITORIES: dict[str, Tiny] = {
    "gpt2": Tiny("GPT2LMHeadModel", "gpt2", _gpt2, change=GPT2, drop=LLAMA_KEYS),
    "gpt2_gelu": Tiny(
        "GPT2LMHeadModel",
        "gpt2",
        lambda weights: _gpt2(weights, "transformer."),
        change={**GPT2, "n_inner": 512, "activation_function": "gelu", "tie_word_embeddings": False},
        drop=LLAMA_KEYS,
    ),
    "mpt": Tiny(
        "MPTForCausalLM",
        "mpt",
        _mpt,
        change={
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "max_seq_len": 512,
            "expansion_ratio": 4,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 0.5, "attn_impl": "torch"},
            "learned_pos_emb": True,
            "no_bias": True,
            "norm_type": "low_precision_layernorm",
            "init_config": {"name": "kaiming_normal_", "init_std": 0.02},
        },
        drop=(*LLAMA_KEYS, "tie_word_embeddings"),
    ),
    "starcoder": Tiny(
        "GPTBigCodeForCausalLM",
        "gpt_bigcode",
        _gpt_bigcode,
        smollm_tokens,
        {**GPT2, "multi_query": True, "activation_function": "gelu_pytorch_tanh"},
        drop=LLAMA_KEYS,
    ),
}
