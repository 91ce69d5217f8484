"""Mixtures of experts whose layers differ in their attention, or limit their activations: Ling 3 and others."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.experts import MLA, dense_or_experts, latent_attention
from tests.gguf.tiny_repositories.repository import EXPERTS, FEED_FORWARD, HEAD, HEADS, HIDDEN, KV_HEADS, Tiny, Weights


def _ling3(weights: Weights) -> None:
    config = weights.config
    weights.add("model.word_embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("model.norm")
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    size, layers = config["layer_group_size"], config["num_hidden_layers"]
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer)
        if (number + 1) % size == 0 or number >= layers // size * size:
            latent_attention(weights, layer)
            weights.linear(f"{layer}self_attn.g_proj", HEADS, HIDDEN)
            weights.tensors[f"{layer}self_attn.dense.weight"] = weights.tensors.pop(f"{layer}self_attn.o_proj.weight")
        else:
            _ling3_delta_net(weights, layer)
        dense_or_experts(weights, number, layer)
        if number >= config["first_k_dense_replace"]:
            weights.add(f"{layer}mlp.gate.expert_bias", EXPERTS)
    weights.tensors = {name.replace(".self_attn.", ".attention."): x for name, x in weights.tensors.items()}


def _ling3_delta_net(weights: Weights, layer: str) -> None:
    size, kernel, name = weights.config["head_dim"], weights.config["short_conv_kernel_size"], f"{layer}self_attn."
    for part in "qkv":
        weights.linear(f"{name}{part}_proj", HEADS * size, HIDDEN)
        weights.add(f"{name}{part}_conv1d.weight", HEADS * size, 1, kernel)
    weights.decays(f"{name}A_log", *((HEADS,) if weights.config["q_lora_rank"] else (1, 1, HEADS, 1)))
    weights.add(f"{name}dt_bias", HEADS * size)
    for part in "fg":
        weights.linear(f"{name}{part}_proj", HEADS * size, HIDDEN)
    weights.linear(f"{name}b_proj", HEADS, HIDDEN)
    weights.norm(f"{name}o_norm", size)
    weights.linear(f"{name}o_proj", HIDDEN, HEADS * size)


def _step35(weights: Weights) -> None:
    """With a layer for multi-token prediction. Norms are stored without the 1 that is added to them."""
    config = weights.config
    weights.ends()
    other, experts, size = config["attention_other_setting"], config["moe_num_experts"], config["moe_intermediate_size"]
    for number in range(config["num_hidden_layers"] + 1):
        layer = f"model.layers.{number}."
        slides = config["layer_types"][number] == "sliding_attention"
        heads, groups = ((other if slides else config)[key] for key in ("num_attention_heads", "num_attention_groups"))
        weights.norms(layer)
        for part, count in (("q", heads), ("k", groups), ("v", groups)):
            weights.linear(f"{layer}self_attn.{part}_proj", count * HEAD, HIDDEN)
        weights.linear(f"{layer}self_attn.o_proj", HIDDEN, heads * HEAD)
        weights.linear(f"{layer}self_attn.g_proj", heads, HIDDEN)
        weights.norms(layer, "self_attn.q_norm", "self_attn.k_norm", size=HEAD)
        if str(number) not in config["moe_layers_enum"].split(","):
            weights.mlp(layer)
            continue
        weights.linear(f"{layer}moe.gate", experts, HIDDEN)
        weights.add(f"{layer}moe.router_bias", experts)
        for part, shape in (("gate", (size, HIDDEN)), ("up", (size, HIDDEN)), ("down", (HIDDEN, size))):
            weights.linear(f"{layer}moe.{part}_proj", experts, *shape)
        weights.mlp(layer, config["share_expert_dim"], name="share_expert")
    for name in [name for name in weights.tensors if name.endswith("norm.weight")]:
        weights.tensors[name] -= 1


_FULL, _SLIDING = "full_attention", "sliding_attention"
LING3 = {
    "num_hidden_layers": 5,
    "num_key_value_heads": HEADS,
    "head_dim": 64,
    "layer_group_size": 3,
    "short_conv_kernel_size": 3,
    "no_kda_lora": True,
    "kda_safe_gate": True,
    "kda_lower_bound": -4.0,
    **MLA,
    "q_lora_rank": 256,
    "qk_head_dim": MLA["qk_nope_head_dim"] + MLA["qk_rope_head_dim"],
    "rope_interleave": True,
    "gated_attention_proj_granularity_type": "head_wise",
    "first_k_dense_replace": 1,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": HIDDEN,
    "moe_shared_expert_intermediate_size": HIDDEN,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "score_function": "sigmoid",
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-6,
    "num_nextn_predict_layers": 0,
}

REPOSITORIES: dict[str, Tiny] = {
    "ling3": Tiny("BailingMoeV3ForCausalLM", "bailing_hybrid", _ling3, lambda: byte_pairs("bailingmoe"), LING3),
    "ling3_limits": Tiny(
        "BailingMoeV3ForCausalLM",
        "bailing_hybrid",
        _ling3,
        lambda: byte_pairs("bailingmoe"),
        {
            **LING3,
            "q_lora_rank": None,
            "expert_swiglu_limit_list": [0, 0, 0.5, 0, 0.25],
            "share_expert_swiglu_limit_list": [0, 0.5, 0, 0, 0.25, 7],
        },
    ),
    "step35": Tiny(
        "Step3p5ForCausalLM",
        "step3p5",
        _step35,
        lambda: byte_pairs("deepseek-v3"),
        {
            "num_hidden_layers": 5,
            "num_attention_groups": KV_HEADS,
            "head_dim": HEAD,
            "attention_other_setting": {
                "attention_type": "sliding_attention",
                "num_attention_heads": 2 * HEADS,
                "num_attention_groups": HEADS,
                "head_dim": HEAD,
            },
            "use_head_wise_attn_gate": True,
            "sliding_window": 8,
            "layer_types": [_FULL, _SLIDING, _SLIDING, _FULL, _SLIDING, _SLIDING],
            "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 1.0, 1.0],
            "rope_theta": [20000.0, 5000.0, 5000.0, 20000.0, 5000.0, 5000.0],
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 16.0,
                "original_max_position_embeddings": 256,
            },
            "yarn_only_types": ["full_attention"],
            "moe_layers_enum": "2,3,4",
            "moe_num_experts": EXPERTS,
            "moe_top_k": 2,
            "moe_intermediate_size": HIDDEN,
            "share_expert_dim": FEED_FORWARD,
            "moe_router_activation": "sigmoid",
            "moe_router_scaling_factor": 1.5,
            "norm_expert_weight": True,
            "use_moe_router_bias": True,
            "swiglu_limits": [0.0, 0.0, 0.5, None, 0.25, 0.0],
            "swiglu_limits_shared": [0.0, 0.5, 0.0, 0.25, 0.0, 0.0],
            "rms_norm_eps": 1e-4,
            "num_nextn_predict_layers": 1,
        },
        drop=("num_key_value_heads", "hidden_act"),
    ),
}
