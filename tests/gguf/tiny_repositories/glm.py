"""GLM 4, dense and with experts."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.experts import DEEPSEEK, MLA, deepseek2_weights, dense_or_experts
from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEAD, HEADS, HIDDEN, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer


def _glm4(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(
            layer, "input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"
        )
        weights.attention(layer, bias="qkv")
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _glm(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.linear(f"{layer}mlp.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, FEED_FORWARD)


def _glm4_moe(weights: Weights) -> None:
    """With an extra layer if `num_nextn_predict_layers` is set."""
    config = weights.config
    weights.ends()
    for number in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}."
        weights.norms(layer)
        weights.attention(layer, bias="qkv", norms=(HEAD, HEAD) if config["use_qk_norm"] else None)
        dense_or_experts(weights, number, layer)
        if number:
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)
        if number == config["num_hidden_layers"]:
            weights.linear(f"{layer}eh_proj", HIDDEN, 2 * HIDDEN)
            weights.norms(layer, "enorm", "hnorm", "shared_head.norm")


def _glm_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", more=("[gMASK]", "<|user|>", "<|observation|>"))


GLM4_MOE_LITE = {
    **{key: value for key, value in DEEPSEEK.items() if key not in ("scoring_func", "first_k_dense_replace")},
    **MLA,
    "q_lora_rank": 256,
    "num_key_value_heads": HEADS,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
    "rms_norm_eps": 1e-4,
}


REPOSITORIES: dict[str, Tiny] = {
    "glm": Tiny(
        "GlmForCausalLM",
        "glm",
        _glm,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {
            "head_dim": 64,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "rms_norm_eps": 1e-4,
            "rope_theta": 50000.0,
            # llama.cpp's converter reads these keys instead of those above.
            "layernorm_epsilon": 1e-4,
            "rope_ratio": 5,
            "seq_length": 2048,
        },
    ),
    "glm_v5": Tiny(
        "GlmForCausalLM",
        "glm",
        _glm,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {
            "head_dim": 64,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 50000.0},
            "layernorm_epsilon": 1e-5,
            "rope_ratio": 5,
            "seq_length": 2048,
            **TIED,
        },
        drop=("rope_theta",),
    ),
    "glm4": Tiny(
        "Glm4ForCausalLM",
        "glm4",
        _glm4,
        lambda: byte_pairs("llama-bpe", more=("<|user|>", "<|assistant|>")),
        {"head_dim": 64, "partial_rotary_factor": 0.5, "attention_bias": True},
    ),
    "glm4moe": Tiny(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        _glm4_moe,
        _glm_tokens,
        {
            **{key: value for key, value in DEEPSEEK.items() if key != "scoring_func"},
            "norm_topk_prob": True,
            "head_dim": 64,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "use_qk_norm": True,
            "routed_scaling_factor": 1.5,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "glm4moelite": Tiny(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        deepseek2_weights,
        _glm_tokens,
        {**GLM4_MOE_LITE, "rope_theta": 50000.0, "rope_scaling": None, "first_k_dense_replace": 1},
    ),
    "glm4moelite_v5": Tiny(
        "Glm4MoeLiteForCausalLM",
        "glm4_moe_lite",
        deepseek2_weights,
        _glm_tokens,
        {
            **GLM4_MOE_LITE,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "first_k_dense_replace": 2,
            "norm_topk_prob": False,
            "rope_interleave": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 1.0},
        },
        drop=("rope_theta",),
    ),
}
