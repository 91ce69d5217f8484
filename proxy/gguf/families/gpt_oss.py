"""OpenAI's GPT-OSS, whose experts are published in MXFP4. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, window_pattern
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, QKV
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Auxiliary, Deinterleaved, Mxfp4Experts, Rule
from proxy.gguf.hyperparameters import BASIC, count
from proxy.gguf.model_config import ModelConfig

_EXPERTS = LAYER + "mlp.experts."

_GATE_AND_UP, _DOWN = ("blk.{}.ffn_gate_exps", "blk.{}.ffn_up_exps"), ("blk.{}.ffn_down_exps",)

_BIASES: Mapping[str, Rule | str] = {
    _EXPERTS + "gate_up_proj_bias": Deinterleaved(_GATE_AND_UP),
    _EXPERTS + "down_proj_bias": Deinterleaved(_DOWN),
}

_UNQUANTIZED_EXPERTS: Mapping[str, Rule | str] = {
    _EXPERTS + "gate_up_proj": Deinterleaved(_GATE_AND_UP),
    _EXPERTS + "down_proj": Deinterleaved(_DOWN),
}

_MXFP4_EXPERTS: Mapping[str, Rule | str] = {
    _EXPERTS + "gate_up_proj_blocks": Mxfp4Experts(_GATE_AND_UP, _EXPERTS + "gate_up_proj_scales"),
    _EXPERTS + "gate_up_proj_scales": Auxiliary(),
    _EXPERTS + "down_proj_blocks": Mxfp4Experts(_DOWN, _EXPERTS + "down_proj_scales"),
    _EXPERTS + "down_proj_scales": Auxiliary(),
}


def _variant(config: ModelConfig) -> Family:
    experts = _MXFP4_EXPERTS if config.find("quantization_config") else _UNQUANTIZED_EXPERTS
    return replace(GPT_OSS, tensors={**GPT_OSS.tensors, **experts})


def _yarn_caveat(config: ModelConfig) -> str | None:
    if config.rope.get("truncate") is not False:
        return None
    return "llama.cpp rounds where its yarn begins and ends, as in every GGUF of this model: answers differ a little"


GPT_OSS = Family(
    "gpt-oss",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **_BIASES,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
        LAYER + "self_attn.sinks": "blk.{}.attn_sinks",
        LAYER + "mlp.router": "blk.{}.ffn_gate_inp",
    },
    (
        *BASIC,
        window_pattern(2),
        count("expert_feed_forward_length", "intermediate_size", required=True),
    ),
    defaults={
        "num_hidden_layers": 36,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "head_dim": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
    },
    # llama.cpp rounds the bounds of the YaRN ramp to whole numbers, in every GGUF of GPT-OSS. transformers does not,
    # because `truncate` is false here.
    rope_types=frozenset({"yarn"}),
    required_biases=QKV | {"attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"},
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "attention_bias": (True, None),
        "swiglu_alpha": (1.702, None),
        "swiglu_limit": (7.0, None),
        # Ollama's engine before 0.30 reads none of these.
        "beta_fast": (32.0, None),
        "beta_slow": (1.0, None),
        # llama.cpp multiplies its own factor by these, and transformers uses them instead of its own.
        **dict.fromkeys(("attention_factor", "attn_factor", "extrapolation_factor"), (None,)),
        **dict.fromkeys(("mscale", "mscale_all_dim", "partial_rotary_factor"), (None,)),
    },
    yarn_keys=frozenset({"truncate"}),
    variant=_variant,
    caveat=_yarn_caveat,
    checks_own_yarn=True,
    kept_quant_method="mxfp4",
    keeps_experts=lambda config: bool(config.get("quantization_config")),
)
