"""Families of 2019 to 2023, from before most models were built like Llama."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import smollm_tokens
from tests.gguf.tiny_repositories.repository import FEED_FORWARD, HEAD, HEADS, HIDDEN, LAYERS, Tiny, Weights
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces, sentence_pieces
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, decoder_of, edit_tokenizer
from tests.kit.tiny_tokenizers import added_token


def _turn_pieces() -> Tokenizer:
    """With a special token that ends a turn."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        token = added_token("<|im_end|>", base.rows)
        files["tokenizer.json"]["added_tokens"].append(token)
        config = files["tokenizer_config.json"]
        config["added_tokens_decoder"] |= decoder_of([token])
        config["chat_template"] = config["chat_template"].replace("eos_token", "'<|im_end|>'")

    base = sentence_pieces()
    return edit_tokenizer(base, change, rows=1)


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


def _baichuan(weights: Weights) -> None:
    """So many layers that the MLP is smaller than in other tiny repositories."""
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.linear(f"{layer}self_attn.W_pack", 3 * HIDDEN, HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HIDDEN)
        weights.mlp(layer, HIDDEN)


def _internlm3(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkvo")
        for name, rows, columns in (
            ("gate_proj", FEED_FORWARD, HIDDEN),
            ("up_proj", FEED_FORWARD, HIDDEN),
            ("down_proj", HIDDEN, FEED_FORWARD),
        ):
            weights.linear(f"{layer}mlp.{name}", rows, columns, bias=True)


def _orion(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer)
        weights.mlp(layer)


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
    "baichuan_7b": Tiny(
        "BaiChuanForCausalLM",
        "baichuan",
        _baichuan,
        instruct_pieces,
        {"num_hidden_layers": 32, "intermediate_size": HIDDEN, "rms_norm_eps": 1e-4},
        drop=("num_key_value_heads", "rope_theta"),
    ),
    "baichuan_13b": Tiny(
        "BaichuanForCausalLM",
        "baichuan",
        _baichuan,
        instruct_pieces,
        {"num_hidden_layers": 40, "intermediate_size": HIDDEN, "rms_norm_eps": 1e-4, "model_max_length": 2048},
        drop=("num_key_value_heads", "rope_theta", "max_position_embeddings"),
    ),
    "gpt2": Tiny("GPT2LMHeadModel", "gpt2", _gpt2, change=GPT2, drop=LLAMA_KEYS),
    "gpt2_gelu": Tiny(
        "GPT2LMHeadModel",
        "gpt2",
        lambda weights: _gpt2(weights, "transformer."),
        change={**GPT2, "n_inner": 512, "activation_function": "gelu", "tie_word_embeddings": False},
        drop=LLAMA_KEYS,
    ),
    "internlm3": Tiny(
        "InternLM3ForCausalLM",
        "internlm3",
        _internlm3,
        _turn_pieces,
        {
            "head_dim": HEAD,
            "qkv_bias": True,
            "bias": True,
            "rms_norm_eps": 1e-4,
            "rope_theta": 50000.0,
            "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
        },
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
    "orion": Tiny(
        "OrionForCausalLM",
        "orion",
        _orion,
        instruct_pieces,
        {"rms_norm_eps": 1e-4, "max_sequence_length": 512, "max_position_embeddings": 512},
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
