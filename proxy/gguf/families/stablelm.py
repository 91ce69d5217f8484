"""Stability AI's StableLM. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    QK_NORM_PER_HEAD_SHAPES,
    QKV,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Stacked
from proxy.gguf.hyperparameters import count, flag, number, partial_rope_dimensions

STABLELM = Family(
    "stablelm",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        LAYER + "self_attn.q_layernorm.norms.{}": Stacked("blk.{}.attn_q_norm", lambda config: config.heads),
        LAYER + "self_attn.k_layernorm.norms.{}": Stacked("blk.{}.attn_k_norm", lambda config: config.kv_heads),
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        partial_rope_dimensions,
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        flag("use_parallel_residual", "use_parallel_residual", default=True),
        number("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps", required=True),
    ),
    defaults={
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
        "num_key_value_heads": 32,
    },
    # llama.cpp's converter writes neither base nor scaling, and its loader assumes a base of 10000.
    rope_types=frozenset({"default"}),
    optional_tensors=frozenset({"ffn_norm", "attn_q_norm", "attn_k_norm"}),
    required_biases=frozenset({"output_norm", "attn_norm"}),
    optional_biases=QKV | {"ffn_norm"},
    tensor_flags={
        "use_qkv_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        "qk_layernorm": frozenset({"attn_q_norm.weight", "attn_k_norm.weight"}),
    },
    accepted_values={**ANY_SILU, **UNTIED, "rope_theta": (10000, None)},
    shapes=QK_NORM_PER_HEAD_SHAPES,
    heads_fill_embedding=True,
)

STABLELM_EPOCH = replace(
    STABLELM,
    tensors={**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **MLP},
    has_transformers_class=False,
    # Those of the authors' own code. llama.cpp's converter takes a missing use_parallel_residual for true, and
    # llama.cpp does not read it: the norm before the MLP shows that nothing is parallel.
    defaults={"max_position_embeddings": 4096, "norm_eps": 1e-5, "rope_pct": 0.25, "num_key_value_heads": 32},
    optional_tensors=frozenset(),
    required_biases=STABLELM.required_biases | {"ffn_norm"},
    optional_biases=QKV,
    tensor_flags={"use_qkv_bias": STABLELM.tensor_flags["use_qkv_bias"]},
)
"""StableLM 3B and 2 1.6B with the code that they came with."""
