"""DeepSeek and other families with experts, and their dense relatives."""

from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_pairs, qwen_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    TIED,
    Tiny,
    Weights,
    plain_weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, decoder_of, edit_tokenizer


def _hunyuan_byte_pairs() -> Tokenizer:
    """Without a padding token."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer_config.json"].pop("pad_token")

    return edit_tokenizer(byte_pairs("deepseek-v3", more=("<|eos|>",)), change)


def _gpt_oss(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkvo")
        weights.add(f"{layer}self_attn.sinks", HEADS)
        weights.linear(f"{layer}mlp.router", EXPERTS, HIDDEN, bias=True)
        weights.packed_experts(f"{layer}mlp.experts.gate_up_proj", 2 * FEED_FORWARD, HIDDEN)
        weights.packed_experts(f"{layer}mlp.experts.down_proj", HIDDEN, FEED_FORWARD)


def _olmoe(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, norms=(HEADS * HEAD, HEADS * HEAD))
        weights.experts(layer)


def _deepseek(weights: Weights) -> None:
    """The first layer is dense."""
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer)
        dense_or_experts(weights, number, layer)


def dense_or_experts(weights: Weights, number: int, layer: str) -> None:
    if number < weights.config.get("first_k_dense_replace", 1):
        weights.mlp(layer, weights.config["intermediate_size"])
    else:
        weights.experts(layer)
        weights.mlp(layer, HIDDEN, name="mlp.shared_experts")


def latent_attention(weights: Weights, layer: str) -> None:
    config = weights.config
    nope, rotated, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    query_rank, rank = config["q_lora_rank"], config["kv_lora_rank"]
    if query_rank:
        weights.linear(f"{layer}self_attn.q_a_proj", query_rank, HIDDEN)
        weights.norm(f"{layer}self_attn.q_a_layernorm", query_rank)
        weights.linear(f"{layer}self_attn.q_b_proj", HEADS * (nope + rotated), query_rank)
    else:
        weights.linear(f"{layer}self_attn.q_proj", HEADS * (nope + rotated), HIDDEN)
    weights.linear(f"{layer}self_attn.kv_a_proj_with_mqa", rank + rotated, HIDDEN)
    weights.norm(f"{layer}self_attn.kv_a_layernorm", rank)
    weights.linear(f"{layer}self_attn.kv_b_proj", HEADS * (nope + value), rank)
    weights.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * value)


def deepseek2_weights(weights: Weights) -> None:
    """With an extra layer for multi-token prediction if `num_nextn_predict_layers` is set."""
    config = weights.config
    weights.ends()
    for number in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}."
        weights.norms(layer)
        latent_attention(weights, layer)
        dense_or_experts(weights, number, layer)
        if number >= config.get("first_k_dense_replace", 1) and config.get("scoring_func", "sigmoid") == "sigmoid":
            weights.add(f"{layer}mlp.gate.e_score_correction_bias", EXPERTS)


def _ernie4_5_moe(weights: Weights) -> None:
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.attention(layer)
        dense_or_experts(weights, number, layer)
        if number:
            weights.add(f"{layer}mlp.moe_statics.e_score_correction_bias", 1, EXPERTS)
    weights.norm("model.mtp_emb_norm.0")


def bailing_moe2(weights: Weights) -> None:
    weights.add("model.word_embeddings.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        weights.linear(f"{layer}attention.query_key_value", (HEADS + 2 * KV_HEADS) * HEAD, HIDDEN)
        weights.linear(f"{layer}attention.dense", HIDDEN, HIDDEN)
        weights.norms(layer, "attention.query_layernorm", "attention.key_layernorm", size=HEAD)
        dense_or_experts(weights, number, layer)
        if number >= weights.config["first_k_dense_replace"]:
            weights.add(f"{layer}mlp.gate.expert_bias", EXPERTS)


def _laguna(weights: Weights) -> None:
    """With the authors' names for the routed experts, or with those of transformers."""
    config = weights.config
    new = config["gating"] == "per-element"
    weights.ends()
    for number, layer in enumerate(weights.layers()):
        heads = config.get("num_attention_heads_per_layer", [HEADS] * (number + 1))[number]
        weights.norms(layer)
        for part, rows in (("q", heads * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            weights.linear(f"{layer}self_attn.{part}_proj", rows, HIDDEN)
        weights.linear(f"{layer}self_attn.g_proj", heads * (HEAD if new else 1), HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, heads * HEAD)
        weights.norms(layer, "self_attn.q_norm", "self_attn.k_norm", size=HEAD)
        if config["mlp_layer_types"][number] == "dense":
            weights.mlp(layer)
            continue
        weights.experts(layer)
        weights.mlp(layer, FEED_FORWARD, name="mlp.shared_experts" if new else "mlp.shared_expert")
        weights.add(f"{layer}mlp.{'gate' if new else 'experts'}.e_score_correction_bias", EXPERTS)


def _hunyuan(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer)
        weights.norm(f"{layer}self_attn.query_layernorm", HEAD)
        weights.norm(f"{layer}self_attn.key_layernorm", HEAD)
        weights.mlp(layer)


def _laguna_tokens() -> Tokenizer:
    """The token that ends a turn is not marked as special."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added[-1]["special"] = False
        names = {"eos_token": added[0]["content"], "added_tokens_decoder": decoder_of(added)}
        files["tokenizer_config.json"] |= names

    return edit_tokenizer(byte_pairs("laguna", more=("</assistant>",)), change)


LAGUNA: dict[str, Any] = {
    "head_dim": HEAD,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "shared_expert_intermediate_size": FEED_FORWARD,
    "rms_norm_eps": 1e-4,
    "moe_routed_scaling_factor": 2.5,
    "moe_router_logit_softcapping": 0.0,
    "moe_apply_router_weight_on_input": False,
}


LAGUNA_YARN = {
    "rope_type": "yarn",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2079441541679836,
    "partial_rotary_factor": 0.5,
}


DEEPSEEK = {
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
}


MLA = {"kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64}


GPT_OSS: dict[str, Any] = {
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "head_dim": 128,
    "sliding_window": 8,
    "attention_bias": True,
    "swiglu_limit": 7.0,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 20000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
        "original_max_position_embeddings": 256,
    },
}


REPOSITORIES: dict[str, Tiny] = {
    "bailingmoe2": Tiny(
        "BailingMoeV2ForCausalLM",
        "bailing_moe",
        bailing_moe2,
        lambda: byte_pairs("bailingmoe"),
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_shared_experts": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_shared_expert_intermediate_size": HIDDEN,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "score_function": "sigmoid",
            "num_nextn_predict_layers": 0,
            "use_qk_norm": True,
            "head_dim": HEAD,
            "partial_rotary_factor": 0.5,
        },
    ),
    "deepseek": Tiny("DeepseekForCausalLM", "deepseek", _deepseek, instruct_pieces, DEEPSEEK),
    "deepseek2": Tiny(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        deepseek2_weights,
        qwen_tokens,
        {
            **DEEPSEEK,
            **MLA,
            "num_key_value_heads": HEADS,
            "q_lora_rank": None,
            # With this number of layers, llama.cpp expects a Q without low rank.
            "num_hidden_layers": 26,
            "first_k_dense_replace": 25,
            "intermediate_size": HIDDEN,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            },
        },
    ),
    "deepseek3": Tiny(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        deepseek2_weights,
        qwen_tokens,
        {
            **DEEPSEEK,
            **MLA,
            "num_key_value_heads": HEADS,
            "q_lora_rank": 256,
            "n_group": 2,
            "topk_group": 1,
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 1,
        },
    ),
    "ernie4_5": Tiny("Ernie4_5ForCausalLM", "ernie4_5", plain_weights, instruct_pieces, {"head_dim": 64, **TIED}),
    "ernie4_5moe": Tiny(
        "Ernie4_5_MoeForCausalLM",
        "ernie4_5_moe",
        _ernie4_5_moe,
        instruct_pieces,
        {
            "moe_num_experts": EXPERTS,
            "moe_k": 2,
            "moe_layer_interval": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 1,
            "moe_intermediate_size": HIDDEN,
            "moe_num_shared_experts": 1,
            **TIED,
        },
    ),
    "hunyuan": Tiny(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        _hunyuan,
        _hunyuan_byte_pairs,
        {
            "head_dim": 64,
            "num_experts": 1,
            "pad_token_id": -1,
            "eod_token_id": 373,
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0},
            "rope_theta": 10000.0,
            "use_qk_norm": True,
            **TIED,
        },
        generation={"eos_token_id": [371, 373], "top_k": 20},
    ),
    "gpt_oss": Tiny(
        "GptOssForCausalLM",
        "gpt_oss",
        _gpt_oss,
        lambda: byte_pairs("gpt-4o"),
        {
            **GPT_OSS,
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
            },
        },
    ),
    "gpt_oss_v5": Tiny(
        "GptOssForCausalLM",
        "gpt_oss",
        _gpt_oss,
        lambda: byte_pairs("gpt-4o"),
        {
            **{key: value for key, value in GPT_OSS.items() if key not in ("layer_types", "rope_scaling")},
            "rope_parameters": {**GPT_OSS["rope_scaling"], "rope_theta": GPT_OSS["rope_theta"]},
        },
        drop=("rope_theta",),
    ),
    "olmoe": Tiny(
        "OlmoeForCausalLM",
        "olmoe",
        _olmoe,
        change={
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "intermediate_size": HIDDEN,
            "norm_topk_prob": False,
            "num_key_value_heads": HEADS,
        },
    ),
    "laguna": Tiny(
        "LagunaForCausalLM",
        "laguna",
        _laguna,
        _laguna_tokens,
        {
            **LAGUNA,
            "num_hidden_layers": 5,
            "num_attention_heads_per_layer": [4, 8, 6, 2, 4],
            "sliding_window": 8,
            "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
            "mlp_layer_types": ["dense", *["sparse"] * 4],
            "mlp_only_layers": [0],
            "decoder_sparse_step": 1,
            "norm_topk_prob": True,
            "swa_attention_sink_enabled": False,
            "gating": "per-head",
            "gating_types": ["per_head"] * 5,
            "eos_token_id": [369, 373],
            "rope_parameters": {
                "full_attention": LAGUNA_YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 1.0},
            },
        },
        drop=("rope_theta",),
    ),
    "laguna_full": Tiny(
        "LagunaForCausalLM",
        "laguna",
        _laguna,
        _laguna_tokens,
        {
            **LAGUNA,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "gating": "per-element",
            "sliding_window": 0,
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}},
        },
        drop=("rope_theta",),
    ),
}
