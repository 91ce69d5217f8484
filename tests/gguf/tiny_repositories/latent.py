"""Families with DeepSeek's latent attention (MLA), and their relatives."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_pairs, pixtral_tokens
from tests.gguf.tiny_repositories.experts import DEEPSEEK, MLA, dense_or_experts, latent_attention
from tests.gguf.tiny_repositories.repository import EXPERTS, HEADS, HIDDEN, TIED, Tiny, Weights
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.gguf.tiny_repositories.towers_mistral import MISTRAL3_TOWER


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
        latent_attention(weights, layer)
        if number == blocks or types[number] == "full":
            _indexer(weights, layer)
        dense_or_experts(weights, number, layer)
        if number >= config["first_k_dense_replace"]:
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)
        if number == blocks:
            weights.linear(f"{layer}eh_proj", HIDDEN, 2 * HIDDEN)
            weights.norms(layer, "enorm", "hnorm", "shared_head.norm")


def _minicpm3(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        latent_attention(weights, layer)
        weights.mlp(layer)


def _mistral4(weights: Weights) -> None:
    """The experts are in two tensors."""
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        latent_attention(weights, layer)
        if number < config["first_k_dense_replace"]:
            weights.mlp(layer)
            continue
        size = config["moe_intermediate_size"]
        weights.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.experts.gate_up_proj", EXPERTS, 2 * size, HIDDEN)
        weights.add(f"{layer}mlp.experts.down_proj", EXPERTS, HIDDEN, size)
        weights.mlp(layer, size, name="mlp.shared_experts")


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
    "minicpm3": Tiny(
        "MiniCPM3ForCausalLM",
        "minicpm3",
        _minicpm3,
        instruct_pieces,
        {
            **LATENT,
            "qk_nope_head_dim": 96,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {
                "type": "longrope",
                "original_max_position_embeddings": 2048,
                "long_factor": [1.0 + at / 2 for at in range(16)],
                "short_factor": [1.0 + at / 8 for at in range(16)],
            },
            **TIED,
        },
    ),
    "mistral4_eyes": Tiny(
        "Mistral3ForConditionalGeneration",
        "mistral4",
        _mistral4,
        pixtral_tokens,
        {
            **LATENT,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": HIDDEN,
            "first_k_dense_replace": 1,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "n_group": 1,
            "topk_group": 1,
            "rope_interleave": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "type": "yarn",
                "rope_theta": 1e5,
                "factor": 16.0,
                "original_max_position_embeddings": 8,
                "max_position_embeddings": 2048,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.3,
            },
        },
        drop=("rope_theta",),
        part_of="mistral3",
        towers=(MISTRAL3_TOWER,),
    ),
}
