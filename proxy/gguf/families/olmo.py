"""Ai2's OLMo models. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_equal_heads, one_rope_base, sliding_layers
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    MLP,
    NORMS,
    PERMUTED_ATTENTION,
    POST_NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, always, number

OLMO = Family(
    "olmo",
    # Its norms have no weights.
    {**PERMUTED_ATTENTION, **MLP, "model.embed_tokens": "token_embd", "lm_head": "output"},
    (*BASIC, always("attention.layer_norm_epsilon", Field.float32(1e-5)), number("attention.clamp_kqv", "clip_qkv")),
    defaults={"max_position_embeddings": 2048, "rope_theta": 10000.0},
    tensor_flags=ATTENTION_BIAS,
    accepted_values=ANY_SILU,
    heads_fill_embedding=True,
)

OLMO2_TENSORS = {**EMBEDDING_AND_OUTPUT, **ATTENTION, **QK_NORMS, **MLP, **POST_NORMS}

_QK_NORM_SHAPES: Mapping[str, str] = {"attn_q_norm": "n_q", "attn_k_norm": "n_k"}

OLMO2 = Family(
    "olmo2",
    OLMO2_TENSORS,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    tensor_flags=ATTENTION_BIAS,
    accepted_values={**ANY_SILU, **UNTIED},
    shapes=_QK_NORM_SHAPES,
    heads_fill_embedding=True,
)


OLMO3 = Family(
    "olmo2",
    OLMO2_TENSORS,
    (*BASIC, sliding_layers, one_rope_base),
    defaults={**OLMO2.defaults, "rope_theta": 500000.0, "sliding_window": 4096, "sliding_window_pattern": 4},
    tensor_flags=ATTENTION_BIAS,
    accepted_values={**ANY_SILU, **UNTIED},
    has_local_rope=True,
    shapes=_QK_NORM_SHAPES,
    heads_fill_embedding=True,
)


OLMOE = Family(
    "olmoe",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **QK_NORMS, **ROUTED_EXPERTS, **FUSED_EXPERTS},
    (*BASIC, check_equal_heads),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    tensor_flags=ATTENTION_BIAS,
    accepted_values={**ANY_SILU, **UNTIED, "norm_topk_prob": (False, None), "clip_qkv": (None,)},
    shapes=_QK_NORM_SHAPES,
    heads_fill_embedding=True,
)
