"""Cohere's Command models. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.parts import ANY_SILU, ATTENTION, ENDS, HEAD_NORMS, LAYER, MLP, head_dim, no_scaling
from proxy.gguf.families.rules import Family, Rule
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, count, number, partial_rope_dimensions

_COHERE_TENSORS: Mapping[str, Rule | str] = {
    **ENDS,
    **ATTENTION,
    **MLP,
    LAYER + "input_layernorm": "blk.{}.attn_norm",
}

COHERE = Family(
    "command-r",
    {**_COHERE_TENSORS, **HEAD_NORMS},
    optional=frozenset({"attn_q_norm", "attn_k_norm"}),
    hyperparameters=(
        *BASIC,
        count("context_length", "model_max_length", "max_position_embeddings", required=True),
        number("logit_scale", "logit_scale", required=True),
        no_scaling,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
    },
    ropes=frozenset({"default"}),
    only=ANY_SILU,
)

COHERE2 = Family(
    "cohere2",
    _COHERE_TENSORS,
    (
        *BASIC,
        head_dim,
        number("logit_scale", "logit_scale", required=True),
        count("attention.sliding_window", "sliding_window", required=True),
        VOCABULARY_SIZE,
        partial_rope_dimensions,
        no_scaling,
    ),
    defaults={**COHERE.defaults, "sliding_window": 4096},
    ropes=frozenset({"default"}),
    # llama.cpp takes every fourth layer to see all.
    only={**ANY_SILU, "sliding_window_pattern": (4, None)},
)
