"""Cohere's Command models. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, check_rope_base, head_dim, no_rope_scaling, window_pattern
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    QK_NORM_PER_HEAD_SHAPES,
    QK_NORMS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, number, partial_rope_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig

_COHERE_TENSORS: Mapping[str, Rule | str] = {
    **EMBEDDING_AND_OUTPUT,
    **ATTENTION,
    **MLP,
    LAYER + "input_layernorm": "blk.{}.attn_norm",
}

_ACCEPTED_VALUES = {**ANY_SILU, "tie_word_embeddings": (True,)}


_QK_NORM_BLOCKS = 64
"""llama.cpp expects norms of Q and K in models with this many layers or more."""


def _check_qk_norms(config: ModelConfig) -> Pairs:
    has_norms = config.flag("use_qk_norm", default=False)
    if has_norms != (config.blocks >= _QK_NORM_BLOCKS):
        raise CannotConvert(
            f"config.json has use_qk_norm = {has_norms} and {config.blocks} layers; llama.cpp has these norms "
            f"only in models with {_QK_NORM_BLOCKS} layers or more"
        )
    yield from ()


COHERE = Family(
    "command-r",
    {**_COHERE_TENSORS, **QK_NORMS},
    optional_tensors=frozenset({"attn_q_norm", "attn_k_norm"}),
    hyperparameters=(
        *BASIC,
        count("context_length", "model_max_length", "max_position_embeddings", required=True),
        number("logit_scale", "logit_scale", required=True),
        no_rope_scaling,
        _check_qk_norms,
        check_rope_base,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
    },
    rope_types=frozenset({"default"}),
    tensor_flags=ATTENTION_BIAS,
    accepted_values=_ACCEPTED_VALUES,
    shapes=QK_NORM_PER_HEAD_SHAPES,
    heads_fill_embedding=True,
)

COHERE2 = Family(
    "cohere2",
    _COHERE_TENSORS,
    (
        *BASIC,
        head_dim,
        number("logit_scale", "logit_scale", required=True),
        VOCABULARY_SIZE,
        partial_rope_dimensions,
        no_rope_scaling,
        window_pattern(4),
    ),
    defaults={**COHERE.defaults, "rope_theta": 10000.0, "sliding_window": 4096, "partial_rotary_factor": 1.0},
    rope_types=frozenset({"default"}),
    tensor_flags=ATTENTION_BIAS,
    accepted_values=_ACCEPTED_VALUES,
    heads_fill_embedding=True,
)
