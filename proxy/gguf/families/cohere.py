"""Cohere's Command models. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.common_keys import ANY_SILU, head_dim, no_rope_scaling, window_pattern
from proxy.gguf.families.common_tensors import ATTENTION, ATTENTION_BIAS, EMBEDDING_AND_OUTPUT, LAYER, MLP, QK_NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, count, number, partial_rope_dimensions

_COHERE_TENSORS: Mapping[str, Rule | str] = {
    **EMBEDDING_AND_OUTPUT,
    **ATTENTION,
    **MLP,
    LAYER + "input_layernorm": "blk.{}.attn_norm",
}

_ONLY = {**ANY_SILU, "tie_word_embeddings": (True,)}


def _base(config: ModelConfig) -> Pairs:
    """Where there is none, transformers 4 and 5 take different ones."""
    if config.rope.get("rope_theta") is None:
        raise CannotConvert("config.json has no rope_theta")
    yield from ()


_NORMED_BLOCKS = 64
"""From so many layers on llama.cpp has norms for the heads."""


def _norms_of_heads(config: ModelConfig) -> Pairs:
    has = config.flag("use_qk_norm", default=False)
    if has != (config.blocks >= _NORMED_BLOCKS):
        raise CannotConvert(
            f"config.json has use_qk_norm = {has} and {config.blocks} layers; llama.cpp has these norms from "
            f"{_NORMED_BLOCKS} layers on, and only then"
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
        _norms_of_heads,
        _base,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "logit_scale": 0.0625,
    },
    rope_types=frozenset({"default"}),
    tensor_flags=ATTENTION_BIAS,
    accepted_values=_ONLY,
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
    accepted_values=_ONLY,
)
