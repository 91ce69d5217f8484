"""Families with tokenizers of their own."""

from functools import partial

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.experts import bailing_moe2
from tests.gguf.tiny_repositories.gemma import gemma4_pieces
from tests.gguf.tiny_repositories.plamo_tokens import plamo_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    TIED,
    Tiny,
    Weights,
    plain_weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces, sentence_pieces

PLAMO = {
    "num_hidden_layers": 3,
    "max_position_embeddings": 4096,
    "rope_theta": 30000.0,
    "linear_type": "normal",
    "eval_mlp_n_bit": None,
    "image_proj_type": "linear",
}


def _plamo(weights: Weights) -> None:
    """PLaMo 2, whose second layer attends, or PLaMo 3."""
    config = weights.config
    weights.ends()
    heads, kv_heads = HEADS, config["num_key_value_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.layers.{number}."
        for name in ("pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"):
            weights.add(f"{layer}{name}.weight", HIDDEN)
        if "mamba_step" in config and number != 1:
            _plamo_mamba(weights, f"{layer}mixer.")
        else:
            size = config.get("hidden_size_per_head") or config["head_dim"]
            weights.linear(f"{layer}mixer.qkv_proj", (heads + 2 * kv_heads) * size, HIDDEN)
            weights.linear(f"{layer}mixer.o_proj", HIDDEN, heads * size)
            if "mamba_step" in config:
                for part, count in (("q", heads), ("k", kv_heads)):
                    weights.norm("x", count, size)
                    weights.tensors[f"{layer}mixer.{part}_weight"] = weights.tensors.pop("x.weight")
            else:
                for part in "qk":
                    weights.add(f"{layer}mixer.{part}_norm.weight", size)
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _jais2(weights: Weights) -> None:
    weights.ends(bias=True)
    for layer in weights.layers():
        weights.norms(layer, bias=True)
        weights.attention(layer, bias="qkvo")
        weights.linear(f"{layer}mlp.up_proj", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD, bias=True)


def _plamo_mamba(weights: Weights, mixer: str) -> None:
    config = weights.config
    heads, states, time_steps = config["mamba_num_heads"], config["mamba_d_state"], 64
    inner = heads * config["hidden_size_per_head"]
    weights.linear(f"{mixer}in_proj", 2 * inner, HIDDEN)
    weights.add(f"{mixer}conv1d.weight", inner, 1, config["mamba_d_conv"])
    weights.linear(f"{mixer}bcdt_proj", time_steps + 2 * states, inner)
    # Rows of 64 numbers, which stay unquantized.
    weights.linear(f"{mixer}dt_proj", heads, time_steps)
    weights.add(f"{mixer}dt_bias", heads)
    weights.decays(f"{mixer}A_log", heads)
    weights.add(f"{mixer}D", heads)
    for name, size in (("dt", time_steps), ("B", states), ("C", states)):
        weights.norm("x", size)
        weights.tensors[f"{mixer}{name}_norm_weight"] = weights.tensors.pop("x.weight")
    weights.linear(f"{mixer}out_proj", HIDDEN, inner)


def _plamo_13b(weights: Weights) -> None:
    config = weights.config
    weights.ends()
    kv_rows = HIDDEN // config["n_shared_head"]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.layers.{number}."
        weights.norm(f"{layer}norm")
        for part, rows in (("q", HIDDEN), ("k", kv_rows), ("v", kv_rows), ("o", HIDDEN)):
            weights.linear(f"{layer}self_attn.{part}_proj", rows, HIDDEN)
        weights.mlp(layer)


REPOSITORIES: dict[str, Tiny] = {
    "jais2": Tiny(
        "Jais2ForCausalLM",
        "jais2",
        _jais2,
        lambda: byte_pairs("jais-2"),
        {
            "attention_bias": True,
            "hidden_act": "relu2",
            "layer_norm_eps": 1e-4,
            "mlp_bias": True,
            "num_key_value_heads": HEADS,
            "rope_theta": 20000.0,
        },
        drop=("rms_norm_eps",),
    ),
    "plamo": Tiny(
        "PlamoForCausalLM",
        "plamo",
        _plamo_13b,
        instruct_pieces,
        {"num_attention_heads": 8, "n_shared_head": 4, "rms_norm_eps": 2e-5, "num_key_value_heads": 8},
    ),
    "plamo2": Tiny(
        "Plamo2ForCausalLM",
        "plamo2",
        _plamo,
        partial(plamo_tokens, 6),
        {
            **PLAMO,
            **TIED,
            "rms_norm_eps": 1e-6,
            "hidden_size_per_head": 32,
            "rope_local_theta": 30000.0,
            "attention_window_size": 1024,
            "full_attention_idx": None,
            "mamba_step": 3,
            "mamba_d_state": 32,
            "mamba_d_conv": 3,
            "mamba_num_heads": 8,
            "mamba_chunk_size": 128,
            "mamba_enabled": True,
        },
        drop=("hidden_act",),
    ),
    "plamo3": Tiny(
        "Plamo3ForCausalLM",
        "plamo3",
        _plamo,
        plamo_tokens,
        {
            **PLAMO,
            "head_dim": 32,
            "rms_norm_eps": 2e-5,
            "rope_local_theta": 20000.0,
            "window_size": 12,
            "sliding_window_pattern": 3,
            "rope_scaling_factor": 1,
            "initial_context_length": None,
            "hidden_activation": "swiglu",
        },
        drop=("hidden_act",),
    ),
    "xverse": Tiny(
        "XverseForCausalLM",
        "xverse",
        plain_weights,
        lambda: sentence_pieces(model=False, added=True),
        {"rms_norm_eps": 2e-5, "quantization_bit": 0, "initializer_weight": False, "max_tokenizer_truncation": 6144},
        drop=("rope_theta",),
    ),
    "sarvam": Tiny(
        "SarvamMoEForCausalLM",
        "sarvam_moe",
        bailing_moe2,
        gemma4_pieces,
        {
            "num_hidden_layers": 3,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_shared_expert_intermediate_size": HIDDEN,
            "first_k_dense_replace": 2,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "score_function": "sigmoid",
            "use_qk_norm": True,
            "head_dim": HEAD,
            "rope_theta": 20000.0,
        },
    ),
}
