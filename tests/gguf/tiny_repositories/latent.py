"""Families with DeepSeek's latent attention (MLA), and their relatives."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.experts import DEEPSEEK, MLA, dense_or_experts
from tests.gguf.tiny_repositories.repository import EXPERTS, HEADS, HIDDEN, Tiny, Weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer


def _latent_attention(weights: Weights, layer: str) -> None:
    config = weights.config
    nope, turned, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    rank = config["q_lora_rank"]
    weights.linear(f"{layer}self_attn.q_a_proj", rank, HIDDEN)
    weights.norm(f"{layer}self_attn.q_a_layernorm", rank)
    weights.linear(f"{layer}self_attn.q_b_proj", HEADS * (nope + turned), rank)
    weights.linear(f"{layer}self_attn.kv_a_proj_with_mqa", config["kv_lora_rank"] + turned, HIDDEN)
    weights.norm(f"{layer}self_attn.kv_a_layernorm", config["kv_lora_rank"])
    weights.linear(f"{layer}self_attn.kv_b_proj", HEADS * (nope + value), config["kv_lora_rank"])
    weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * value)


def _indexer(weights: Weights, layer: str) -> None:
    config = weights.config
    heads, size = config["index_n_heads"], config["index_head_dim"]
    weights.linear(f"{layer}self_attn.indexer.wq_b", heads * size, config["q_lora_rank"])
    weights.linear(f"{layer}self_attn.indexer.wk", size, HIDDEN)
    weights.linear(f"{layer}self_attn.indexer.weights_proj", heads, HIDDEN)
    weights.norm(f"{layer}self_attn.indexer.k_norm", size, bias=True)


def _sparse(weights: Weights) -> None:
    """With an extra layer for multi-token prediction if `num_nextn_predict_layers` is set."""
    config = weights.config
    weights.ends()
    blocks = config["num_hidden_layers"]
    types = config.get("indexer_types", ["full"] * blocks)
    for number in range(blocks + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}."
        weights.norms(layer)
        _latent_attention(weights, layer)
        if number == blocks or types[number] == "full":
            _indexer(weights, layer)
        dense_or_experts(weights, number, layer)
        if number >= config["first_k_dense_replace"]:
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)
        if number == blocks:
            weights.linear(f"{layer}eh_proj", HIDDEN, 2 * HIDDEN)
            weights.norms(layer, "enorm", "hnorm", "shared_head.norm")


def _glm_tokens() -> Tokenizer:
    return byte_pairs("llama-bpe", more=("[gMASK]", "<|user|>", "<|observation|>"))


LATENT = {**MLA, "num_key_value_heads": HEADS, "q_lora_rank": 256}


SPARSE: dict[str, Any] = {
    **DEEPSEEK,
    **LATENT,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "rms_norm_eps": 1e-6,
    "index_n_heads": 8,
    "index_head_dim": 64,
    "index_topk": 32,
    "num_nextn_predict_layers": 1,
}


REPOSITORIES: dict[str, Tiny] = {
    "deepseek32": Tiny(
        "DeepseekV32ForCausalLM",
        "deepseek_v32",
        _sparse,
        lambda: byte_pairs("deepseek-v3", begins=True),
        {
            **SPARSE,
            "n_group": 2,
            "topk_group": 1,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 512,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "glm_dsa": Tiny(
        "GlmMoeDsaForCausalLM",
        "glm_moe_dsa",
        _sparse,
        _glm_tokens,
        {
            **SPARSE,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 2,
            "indexer_types": ["full", "shared", "full", "shared"],
            "indexer_rope_interleave": True,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        },
        drop=("rope_theta",),
    ),
}
