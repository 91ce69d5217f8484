"""The Qwen models, and Seed-OSS, which is built like them. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    ATTENTION_BIAS,
    BARE,
    ENDS,
    FUSED_EXPERTS,
    HEAD_NORMS,
    LAYER,
    MLP,
    MLP_BIAS,
    NORMS,
    ROUTED,
    UNTIED,
    later_window_ignored,
    window_ignored,
)
from proxy.gguf.families.rules import QKV, Family
from proxy.gguf.hyperparameters import BASIC, count, flag

QWEN2 = Family(
    "qwen2",
    {**ENDS, **NORMS, **ATTENTION, **MLP},
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    optional_biases=QKV | {"output"},
    only=ANY_SILU,
    renamed=BARE,
    told=later_window_ignored,
)

QWEN3 = Family(
    "qwen3",
    {**ENDS, **NORMS, **ATTENTION, **HEAD_NORMS, **MLP},
    tokenizers=("sentencepiece", "bpe"),
    defaults={**QWEN2.defaults, "head_dim": 128},
    flags=ATTENTION_BIAS,
    only=ANY_SILU,
    renamed=BARE,
    told=later_window_ignored,
)

MOE_SIZES = (
    count("expert_feed_forward_length", "moe_intermediate_size"),
    count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)

GATED_EXPERT: Mapping[str, str] = {
    LAYER + "mlp.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
    LAYER + "mlp.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
    LAYER + "mlp.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
    LAYER + "mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp",
}
"""The one that every token goes through, by a gate of its own."""

ALL_MIXED: Mapping[str, tuple[object, ...]] = {"mlp_only_layers": ([], None), "decoder_sparse_step": (1, None)}
"""llama.cpp wants experts in every layer."""

QWEN2_MOE = Family(
    "qwen2moe",
    {
        **ENDS,
        **NORMS,
        **ATTENTION,
        **MLP,
        **ROUTED,
        **FUSED_EXPERTS,
        **GATED_EXPERT,
    },
    (*BASIC, *MOE_SIZES),
    defaults={
        **QWEN2.defaults,
        "num_key_value_heads": 16,
        "qkv_bias": True,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    flags={"qkv_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"})},
    only={**ANY_SILU, **UNTIED, **ALL_MIXED, "norm_topk_prob": (False, None)},
    told=later_window_ignored,
)

QWEN3_MOE = Family(
    "qwen3moe",
    {**ENDS, **NORMS, **ATTENTION, **HEAD_NORMS, **MLP, **ROUTED, **FUSED_EXPERTS},
    # Ollama's own engine reads norm_top_k_prob, and takes it to be true where it is missing; llama.cpp always does.
    (*BASIC, *MOE_SIZES, flag("norm_top_k_prob", "norm_topk_prob", default=False)),
    defaults={
        **QWEN2.defaults,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    flags=ATTENTION_BIAS,
    only={**ANY_SILU, **ALL_MIXED, "norm_topk_prob": (True,)},
    # transformers gives all layers the window.
    harmless=frozenset({"max_window_layers"}),
    told=window_ignored,
)

SEED_OSS = Family(
    "seed_oss",
    {
        **ENDS,
        **ATTENTION,
        **MLP,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    },
    defaults={
        "max_position_embeddings": 524288,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "head_dim": 128,
        "attention_bias": True,
    },
    flags={
        "attention_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        "attention_out_bias": frozenset({"attn_output.bias"}),
        **MLP_BIAS,
    },
    only=ANY_SILU,
)
