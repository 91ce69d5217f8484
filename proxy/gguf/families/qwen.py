"""Qwen 2 and Qwen 3, dense and with experts. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, late_window_caveat, window_caveat
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    BARE_PREFIXES,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    QKV,
    ROUTED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.text_part import AUDIO_TEXT
from proxy.gguf.hyperparameters import BASIC, count, flag

QWEN2 = Family(
    "qwen2",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **MLP},
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
    accepted_values=ANY_SILU,
    prefix_aliases=BARE_PREFIXES,
    caveat=late_window_caveat,
    heads_fill_embedding=True,
)

QWEN2_AUDIO = replace(
    QWEN2,
    # Qwen's own config.json leaves out values that are transformers' defaults.
    defaults={
        **QWEN2.defaults,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 151936,
    },
    accepted_values={**QWEN2.accepted_values, "use_mrope": (False, None)},
    text_part=AUDIO_TEXT,
)

QWEN3 = Family(
    "qwen3",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **QK_NORMS, **MLP},
    tokenizers=("sentencepiece", "bpe"),
    defaults={**QWEN2.defaults, "head_dim": 128},
    tensor_flags=ATTENTION_BIAS,
    accepted_values=ANY_SILU,
    prefix_aliases=BARE_PREFIXES,
    caveat=late_window_caveat,
)

MOE_SIZES = (
    count("expert_feed_forward_length", "moe_intermediate_size"),
    count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)

GATED_SHARED_EXPERT: Mapping[str, str] = {
    LAYER + "mlp.shared_expert.gate_proj": "blk.{}.ffn_gate_shexp",
    LAYER + "mlp.shared_expert.up_proj": "blk.{}.ffn_up_shexp",
    LAYER + "mlp.shared_expert.down_proj": "blk.{}.ffn_down_shexp",
    LAYER + "mlp.shared_expert_gate": "blk.{}.ffn_gate_inp_shexp",
}
"""The expert that processes every token, with its own gate."""

EXPERTS_IN_EVERY_LAYER: Mapping[str, tuple[object, ...]] = {
    "mlp_only_layers": ([], None),
    "decoder_sparse_step": (1, None),
}
"""llama.cpp expects experts in every layer."""

QWEN2_MOE = Family(
    "qwen2moe",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        **ROUTED_EXPERTS,
        **FUSED_EXPERTS,
        **GATED_SHARED_EXPERT,
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
    tensor_flags={"qkv_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"})},
    accepted_values={**ANY_SILU, **UNTIED, **EXPERTS_IN_EVERY_LAYER, "norm_topk_prob": (False, None)},
    caveat=late_window_caveat,
    heads_fill_embedding=True,
)

QWEN3_MOE = Family(
    "qwen3moe",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **QK_NORMS, **MLP, **ROUTED_EXPERTS, **FUSED_EXPERTS},
    # Ollama's own engine reads norm_top_k_prob, and assumes true if it is missing; llama.cpp always normalizes.
    (*BASIC, *MOE_SIZES, flag("norm_top_k_prob", "norm_topk_prob", default=False)),
    defaults={
        **QWEN2.defaults,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    tensor_flags=ATTENTION_BIAS,
    accepted_values={**ANY_SILU, **EXPERTS_IN_EVERY_LAYER, "norm_topk_prob": (True,)},
    # transformers gives every layer the window.
    harmless_keys=frozenset({"max_window_layers"}),
    caveat=window_caveat,
)
