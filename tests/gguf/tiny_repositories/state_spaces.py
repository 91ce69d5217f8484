"""Families with state spaces or convolutions."""

from tests.gguf.tiny_repositories.byte_level import byte_pairs, tekken_tokens
from tests.gguf.tiny_repositories.repository import (
    EXPERTS,
    FEED_FORWARD,
    FOUR_LAYERS,
    GRANITE,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MOE,
    TIED,
    Tiny,
    Weights,
)
from tests.gguf.tiny_repositories.sentencepiece import instruct_pieces


def lfm2_weights(weights: Weights) -> None:
    """Convolutions by `layer_types`; experts after the first dense layers."""
    config = weights.config
    weights.add("model.embed_tokens.weight", config["vocab_size"], HIDDEN)
    weights.norm("model.embedding_norm")
    for number, (layer, kind) in enumerate(zip(weights.layers(), config["layer_types"], strict=True)):
        weights.norms(layer, "operator_norm", "ffn_norm")
        if kind == "conv":
            weights.linear(f"{layer}conv.in_proj", 3 * HIDDEN, HIDDEN)
            weights.add(f"{layer}conv.conv.weight", HIDDEN, 1, config["conv_L_cache"])
            weights.linear(f"{layer}conv.out_proj", HIDDEN, HIDDEN)
        else:
            for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                weights.linear(f"{layer}self_attn.{part}_proj", heads * HEAD, HIDDEN)
            weights.linear(f"{layer}self_attn.out_proj", HIDDEN, HIDDEN)
            weights.norms(layer, "self_attn.q_layernorm", "self_attn.k_layernorm", size=HEAD)
        if number < config.get("num_dense_layers", LAYERS):
            weights.numbered_mlp(f"{layer}feed_forward.")
            continue
        weights.linear(f"{layer}feed_forward.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}feed_forward.expert_bias", EXPERTS)
        for expert in range(EXPERTS):
            weights.numbered_mlp(f"{layer}feed_forward.experts.{expert}.", config["moe_intermediate_size"])


def _granite_hybrid(weights: Weights) -> None:
    """Attention by `layer_types`, and a shared MLP with or without experts."""
    config = weights.config
    weights.ends()
    for layer, kind in zip(weights.layers(), config["layer_types"], strict=True):
        weights.norms(layer)
        if kind == "attention":
            weights.attention(layer)
        else:
            weights.mixer(f"{layer}mamba.", 2 * HIDDEN)
        if config["num_local_experts"]:
            weights.linear(f"{layer}block_sparse_moe.router.layer", EXPERTS, HIDDEN)
            weights.add(f"{layer}block_sparse_moe.input_linear.weight", EXPERTS, 2 * FEED_FORWARD, HIDDEN)
            weights.add(f"{layer}block_sparse_moe.output_linear.weight", EXPERTS, HIDDEN, FEED_FORWARD)
        weights.linear(f"{layer}shared_mlp.input_linear", 2 * FEED_FORWARD, HIDDEN)
        weights.linear(f"{layer}shared_mlp.output_linear", HIDDEN, FEED_FORWARD)


def _falcon_h1(weights: Weights) -> None:
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for layer in weights.layers():
        weights.norms(layer, "input_layernorm", "pre_ff_layernorm")
        weights.mixer(f"{layer}mamba.", weights.config["mamba_d_ssm"], norm=weights.config["mamba_rms_norm"])
        weights.attention(layer)
        weights.mlp(layer, name="feed_forward")


def _nemotron_h(weights: Weights) -> None:
    """Layers by the letters of `hybrid_override_pattern`."""
    config = weights.config
    weights.add("backbone.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("backbone.norm_f")
    weights.add("lm_head.weight", config["vocab_size"], HIDDEN)
    for number, kind in enumerate(config["hybrid_override_pattern"]):
        _nemotron_h_layer(weights, f"backbone.layers.{number}.", kind)


def _nemotron_h_layer(weights: Weights, layer: str, kind: str) -> None:
    config = weights.config
    weights.norm(f"{layer}norm")
    if kind == "M":
        weights.mixer(f"{layer}mixer.", config["mamba_num_heads"] * config["mamba_head_dim"])
    elif kind == "*":
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights.linear(f"{layer}mixer.{part}_proj", heads * weights.head, HIDDEN)
        weights.linear(f"{layer}mixer.o_proj", HIDDEN, HEADS * weights.head)
    elif kind == "-":
        weights.mlp(layer, gate=False, name="mixer")
    else:
        weights.linear(f"{layer}mixer.gate", EXPERTS, HIDDEN)
        weights.add(f"{layer}mixer.gate.e_score_correction_bias", EXPERTS)
        latent = config.get("moe_latent_size") or HIDDEN
        for expert in range(EXPERTS):
            weights.linear(f"{layer}mixer.experts.{expert}.up_proj", config["moe_intermediate_size"], latent)
            weights.linear(f"{layer}mixer.experts.{expert}.down_proj", latent, config["moe_intermediate_size"])
        size = config["moe_shared_expert_intermediate_size"]
        weights.mlp(layer, size, gate=False, name="mixer.shared_experts")
        if "moe_latent_size" in config:
            weights.linear(f"{layer}mixer.fc1_latent_proj", latent, HIDDEN)
            weights.linear(f"{layer}mixer.fc2_latent_proj", HIDDEN, latent)


def nemotron_h_drafts(weights: Weights) -> None:
    """Also the two layers for multi-token prediction, by `mtp_hybrid_override_pattern`."""
    _nemotron_h(weights)
    first, second = "mtp.layers.0.", "mtp.layers.1."
    for norm in ("enorm", "hnorm"):
        weights.norm(first + norm)
    weights.linear(f"{first}eh_proj", HIDDEN, 2 * HIDDEN)
    _nemotron_h_layer(weights, first, "*")
    _nemotron_h_layer(weights, second, "E")
    weights.norm(f"{second}final_layernorm")


def _mamba(weights: Weights) -> None:
    config = weights.config
    weights.add("backbone.embeddings.weight", config["vocab_size"], HIDDEN)
    weights.norm("backbone.norm_f")
    for number in range(config["num_hidden_layers"]):
        layer = f"backbone.layers.{number}."
        weights.norm(f"{layer}norm")
        _first_mixer(
            weights,
            f"{layer}mixer.",
            config["intermediate_size"],
            config["state_size"],
            config["time_step_rank"],
        )


def _first_mixer(weights: Weights, name: str, inner: int, state: int, rank: int) -> None:
    """A Mamba 1 mixer."""
    weights.decays(f"{name}A_log", inner, state)
    weights.add(f"{name}D", inner)
    weights.linear(f"{name}in_proj", 2 * inner, HIDDEN)
    weights.add(f"{name}conv1d.weight", inner, 1, 4)
    weights.add(f"{name}conv1d.bias", inner)
    weights.linear(f"{name}x_proj", rank + 2 * state, inner)
    weights.linear(f"{name}dt_proj", inner, rank, bias=True)
    weights.linear(f"{name}out_proj", HIDDEN, inner)


def _jamba(weights: Weights) -> None:
    """Four layers: the third has attention, the second and fourth have experts."""
    weights.add("model.embed_tokens.weight", weights.config["vocab_size"], HIDDEN)
    weights.norm("model.final_layernorm")
    weights.add("lm_head.weight", weights.config["vocab_size"], HIDDEN)
    for number, layer in enumerate(weights.layers()):
        weights.norms(layer, "input_layernorm", "pre_ff_layernorm")
        if number == 2:
            weights.attention(layer)
        else:
            _first_mixer(weights, f"{layer}mamba.", 2 * HIDDEN, 16, 16)
            weights.norm(f"{layer}mamba.dt_layernorm", 16)
            weights.norm(f"{layer}mamba.b_layernorm", 16)
            weights.norm(f"{layer}mamba.c_layernorm", 16)
        if number % 2:
            weights.linear(f"{layer}feed_forward.router", EXPERTS, HIDDEN)
            for expert in range(EXPERTS):
                weights.mlp(layer, name=f"feed_forward.experts.{expert}")
        else:
            weights.mlp(layer, name="feed_forward")


MAMBA = {
    "vocab_size": 376,
    "intermediate_size": 2 * HIDDEN,
    "state_size": 16,
    "conv_kernel": 4,
    "time_step_rank": 16,
    "layer_norm_epsilon": 1e-5,
    **TIED,
}


GRANITE4 = {
    **GRANITE,
    **TIED,
    "vocab_size": 376,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": FEED_FORWARD,
    "position_embedding_type": "nope",
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 64,
    "mamba_d_head": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}


NEMOTRON_H = {
    "vocab_size": 376,
    "num_hidden_layers": 4,
    "head_dim": 128,
    "layer_norm_epsilon": 1e-4,
    "rms_norm_eps": 1e-4,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 64,
    "conv_kernel": 4,
    "time_step_min": 0.001,
}


NEMOTRON_H_MOE = {
    **NEMOTRON_H,
    "hybrid_override_pattern": "ME*E",
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "moe_shared_expert_intermediate_size": FEED_FORWARD,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
}


FALCON_H1 = {
    "vocab_size": 384,
    "head_dim": HEAD,
    "mamba_d_ssm": 384,
    "mamba_n_heads": 6,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 64,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_rms_norm": False,
    "embedding_multiplier": 5.656854249492381,
    "lm_head_multiplier": 0.0195312,
    "key_multiplier": 0.390625,
    "attention_in_multiplier": 1.1,
    "attention_out_multiplier": 0.9375,
    "mlp_multipliers": [0.8838834764831845, 0.5859375],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.23570226039551587,
    "ssm_multipliers": [0.3535533905932738, 0.25, 0.17677669529663687, 0.5, 0.3535533905932738],
}


NO_ATTENTION = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings")


REPOSITORIES: dict[str, Tiny] = {
    "granite4": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={**GRANITE4, "layer_types": ["attention"] * 2, "position_embedding_type": "rope"},
    ),
    "granitehybrid": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={**GRANITE4, "layer_types": ["mamba", "attention"], "mamba_n_groups": 2, "tie_word_embeddings": False},
    ),
    "granitehybridmoe": Tiny(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        _granite_hybrid,
        change={
            **GRANITE4,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
        },
    ),
    "jamba": Tiny(
        "JambaForCausalLM",
        "jamba",
        _jamba,
        instruct_pieces,
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 16,
            **FOUR_LAYERS,
        },
        drop=("rope_theta",),
    ),
    "falcon_h1": Tiny("FalconH1ForCausalLM", "falcon_h1", _falcon_h1, change=FALCON_H1),
    "falcon_h1_norm": Tiny(
        "FalconH1ForCausalLM",
        "falcon_h1",
        _falcon_h1,
        change={**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2},
    ),
    "falcon_mamba": Tiny("FalconMambaForCausalLM", "falcon_mamba", _mamba, change=MAMBA, drop=NO_ATTENTION),
    "mamba": Tiny("MambaForCausalLM", "mamba", _mamba, change=MAMBA, drop=NO_ATTENTION),
    "lfm2": Tiny(
        "Lfm2ForCausalLM",
        "lfm2",
        lfm2_weights,
        lambda: byte_pairs("llama-bpe"),
        {
            "layer_types": ["conv", "full_attention"],
            "norm_eps": 2e-5,
            "conv_L_cache": 4,
            "block_ff_dim": 500,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.1,
            "block_multiple_of": 256,
            "rope_theta": 30000.0,
            **TIED,
        },
        drop=("rms_norm_eps", "intermediate_size"),
    ),
    "lfm2moe": Tiny(
        "Lfm2MoeForCausalLM",
        "lfm2_moe",
        lfm2_weights,
        lambda: byte_pairs("llama-bpe"),
        {
            **MOE,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_dense_layers": 2,
            "norm_eps": 2e-5,
            "conv_L_cache": 3,
            "conv_bias": False,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30000.0},
            "tie_embedding": True,
        },
        drop=("rms_norm_eps", "rope_theta", "tie_word_embeddings"),
    ),
    "nemotron_h": Tiny(
        "NemotronHForCausalLM",
        "nemotron_h",
        _nemotron_h,
        tekken_tokens,
        {**NEMOTRON_H, "hybrid_override_pattern": "M-*M"},
        drop=("hidden_act",),
    ),
    "nemotron_h_moe": Tiny(
        "NemotronHForCausalLM", "nemotron_h", _nemotron_h, tekken_tokens, NEMOTRON_H_MOE, drop=("hidden_act",)
    ),
    "nemotron_h_latent": Tiny(
        "NemotronHForCausalLM",
        "nemotron_h",
        _nemotron_h,
        tekken_tokens,
        {**NEMOTRON_H_MOE, "moe_latent_size": 512, "norm_topk_prob": False},
        drop=("hidden_act",),
    ),
}
