"""Families of 2025 and 2026 that have no file of their own."""

from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.byte_level import byte_pairs, llama3_tokens, qwen_tokens, tekken_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    LLAMA3_ROPE,
    MOE,
    TIED,
    Tiny,
    Weights,
    plain_weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces


def _apertus(weights: Weights) -> None:
    """Each layer has other numbers for its activation."""
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer, "attention_layernorm", "feedforward_layernorm")
        weights.attention(layer, norms=(HEAD, HEAD))
        weights.mlp(layer, gate=False)
        for name, value in (("alpha_n", (-0.5,)), ("alpha_p", (0.25,)), ("beta", 0.5), ("eps", -1e-6)):
            weights.tensors[f"{layer}mlp.act_fn.{name}"] = np.array(value, np.float32) * np.float32(1 + number)


def _hy_v3(weights: Weights) -> None:
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        if weights.config["mlp_layer_types"][number] == "dense":
            weights.mlp(layer)
            continue
        weights.linear(f"{layer}mlp.router.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mlp.expert_bias", EXPERTS)
        for expert in range(EXPERTS):
            weights.mlp(layer, HIDDEN, name=f"mlp.experts.{expert}")
        weights.mlp(layer, 2 * HIDDEN, name="mlp.shared_mlp")


def _mellum(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(HEAD, HEAD))
        weights.experts(layer)


def _small_thinker(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.linear(f"{layer}block_sparse_moe.primary_router", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for part in ("up", "gate", "down"):
                weights.linear(f"{layer}block_sparse_moe.experts.{expert}.{part}", HIDDEN, HIDDEN)


def _pangu(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkvo")
        weights.mlp(layer)


def _maincoder(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(weights.head, weights.head))
        weights.mlp(layer, name="feed_forward")


def _deci(weights: Weights) -> None:
    config = weights.config
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        block = config["block_configs"][number]
        if group := block["attention"]["n_heads_in_group"]:
            weights.norm(f"{layer}input_layernorm")
            for part, heads in (("q", HEADS), ("k", HEADS // group), ("v", HEADS // group)):
                weights.linear(f"{layer}self_attn.{part}_proj", heads * HEAD, HIDDEN)
            weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HIDDEN)
        if size := block["ffn"]["ffn_mult"]:
            weights.norm(f"{layer}post_attention_layernorm")
            weights.mlp(layer, 256 if size < 2 else FEED_FORWARD)


def _talkie(weights: Weights) -> None:
    weights.add("model.embed.weight", weights.config["vocab_size"], HIDDEN)
    weights.add("lm_head", weights.config["vocab_size"], HIDDEN)
    weights.tensors["lm_head_gain.w_g"] = np.array([1.5], np.float32)
    for number in range(weights.config["num_hidden_layers"]):
        block = f"model.blocks.{number}."
        for part in ("query", "key", "value", "resid"):
            weights.linear(f"{block}attn.attn_{part}", HIDDEN, HIDDEN)
        weights.tensors[f"{block}attn.head_gain.head_g"] = np.linspace(0.5, 2, HEADS, dtype=np.float32)
        for part, rows, columns in (
            ("gate", FEED_FORWARD, HIDDEN),
            ("linear", FEED_FORWARD, HIDDEN),
            ("resid", HIDDEN, FEED_FORWARD),
        ):
            weights.linear(f"{block}mlp.mlp_{part}", rows, columns)
        for name, value in (("attn_gain", 0.5), ("mlp_gain", 0.75), ("embed_skip", 0.25)):
            weights.tensors[f"{block}{name}.a_g"] = np.array([value + number], np.float32)


def deci_block(group: int | None, size: float | None) -> dict[str, Any]:
    """`group` is the number of Q heads that share K and V. None stands for a part that the layer does not have."""
    return {
        "attention": {
            "n_heads_in_group": group,
            "no_op": group is None,
            "replace_with_linear": False,
            "window_length": None,
        },
        "ffn": {"ffn_mult": size, "no_op": size is None, "replace_with_linear": False, "sparsify": None},
    }


SMALL_THINKER: dict[str, Any] = {
    "head_dim": HEAD,
    "moe_num_primary_experts": EXPERTS,
    "moe_num_active_primary_experts": 2,
    "moe_ffn_hidden_size": HIDDEN,
    "sliding_window_size": 4096,
    "rope_theta": 1.5e6,
}


NANBEIGE: dict[str, Any] = {"head_dim": 128, "rope_theta": 7e7, "loop_loss_weights": [], "num_residual_streams": 4}


REPOSITORIES: dict[str, Tiny] = {
    "apertus": Tiny(
        "ApertusForCausalLM",
        "apertus",
        _apertus,
        tekken_tokens,
        {"hidden_act": "xielu", "rope_scaling": {**LLAMA3_ROPE, "factor": 8.0}, "rope_theta": 12e6},
    ),
    "deci": Tiny(
        "DeciLMForCausalLM",
        "nemotron-nas",
        _deci,
        llama3_tokens,
        {
            "num_hidden_layers": 5,
            "block_configs": [
                deci_block(2, 3.0),
                deci_block(None, 1.5),
                deci_block(None, None),
                deci_block(4, 1.3),
                deci_block(1, 3.0),
            ],
            "rope_theta": 5e5,
        },
        drop=("intermediate_size", "num_key_value_heads"),
    ),
    "deci_alike": Tiny(
        "DeciLMForCausalLM",
        "nemotron-nas",
        _deci,
        llama3_tokens,
        {"block_configs": [deci_block(2, 3.0)] * 2},
        drop=("intermediate_size", "num_key_value_heads"),
    ),
    "hy_v3": Tiny(
        "HYV3ForCausalLM",
        "hy_v3",
        _hy_v3,
        qwen_tokens,
        {
            "head_dim": 128,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_shared_experts": 2,
            "moe_intermediate_size": HIDDEN,
            "router_scaling_factor": 2.5,
            "route_norm": True,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        },
        drop=("rope_theta",),
    ),
    "maincoder": Tiny(
        "MaincoderForCausalLM",
        "maincoder",
        _maincoder,
        qwen_tokens,
        {"head_dim": 128, "intermediate_size_mlp": FEED_FORWARD, "use_qk_norm": True, **TIED},
    ),
    "mellum": Tiny(
        "MellumForCausalLM",
        "mellum",
        _mellum,
        qwen_tokens,
        {
            **MOE,
            "head_dim": HEAD,
            "num_hidden_layers": 3,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "norm_topk_prob": True,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 5e5,
                    "factor": 4.0,
                    "original_max_position_embeddings": 512,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
        },
        drop=("rope_theta",),
    ),
    "nanbeige": Tiny(
        "NanbeigeForCausalLM",
        "nanbeige",
        plain_weights,
        instruct_pieces,
        {**NANBEIGE, "num_loops": 2, "skip_loop_final_norm": False},
    ),
    "nanbeige_once": Tiny(
        "NanbeigeForCausalLM", "nanbeige", plain_weights, instruct_pieces, {**NANBEIGE, "num_loops": 1}
    ),
    "pangu": Tiny(
        "PanguEmbeddedForCausalLM", "PanguEmbedded", _pangu, instruct_pieces, {"bias": True, "rope_theta": 16e6}
    ),
    "smallthinker": Tiny(
        "SmallThinkerForCausalLM",
        "smallthinker",
        _small_thinker,
        qwen_tokens,
        {**SMALL_THINKER, "sliding_window_layout": [0, 0], "rope_layout": [1, 1], **TIED},
        drop=("intermediate_size", "hidden_act"),
    ),
    "smallthinker_windows": Tiny(
        "SmallThinkerForCausalLM",
        "smallthinker",
        _small_thinker,
        qwen_tokens,
        {
            **SMALL_THINKER,
            "num_hidden_layers": 5,
            "sliding_window_layout": [0, 1, 1, 1, 0],
            "rope_layout": [0, 1, 1, 1, 0],
            "moe_primary_router_apply_softmax": True,
        },
        drop=("intermediate_size", "hidden_act"),
    ),
    "talkie": Tiny(
        "TalkieForCausalLM",
        "talkie",
        _talkie,
        lambda: byte_pairs("gpt-4o"),
        {"head_dim": HEAD, "num_key_value_heads": HEADS, "rope_theta": 1e6},
        drop=("rms_norm_eps",),
    ),
}
