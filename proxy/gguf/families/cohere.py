"""Cohere's Command models. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import (
    ANY_SILU,
    check_layer_types,
    check_rope_base,
    count_dense_layers,
    head_dim,
    no_rope_scaling,
    window_pattern,
)
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    QK_NORM_PER_HEAD_SHAPES,
    QK_NORMS,
    ROUTED_EXPERTS,
    SHARED_EXPERT_STEMS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import (
    BASIC,
    GATES,
    VOCABULARY_SIZE,
    Pairs,
    count,
    number,
    partial_rope_dimensions,
    rope_dimensions,
)
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

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


def _windows(config: ModelConfig) -> Pairs:
    """The window, and for each layer whether it has one: only these, and the first dense ones, have RoPE."""
    types, dense = config.find("layer_types"), config.optional_count("first_k_dense_replace") or 0
    if types is None:
        period = config.positive("sliding_window_pattern")
        slides = [layer >= dense and (layer - dense + 1) % period != 0 for layer in range(config.blocks)]
    else:
        known = ("full_attention", "sliding_attention")
        slides = [layer_type == known[1] for layer_type in check_layer_types(config, types, known)]
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))
    yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, slides)


def _feed_forward(config: ModelConfig) -> Pairs:
    """Experts, and the first layers without them, whose feed-forward may have another size."""
    has_types = config.find("mlp_layer_types") is not None
    dense = count_dense_layers(config) if has_types else config.optional_count("first_k_dense_replace") or 0
    inner, dense_inner = config.positive("intermediate_size"), config.optional_count("prefix_dense_intermediate_size")
    shared = config.optional_count("num_shared_experts") or 0
    yield "leading_dense_block_count", Field.uint32(dense)
    yield "feed_forward_length", Field.uint32(dense_inner if dense and dense_inner else inner)
    yield "expert_feed_forward_length", Field.uint32(inner)
    if shared:
        yield "expert_shared_count", Field.uint32(shared)
        yield "expert_shared_feed_forward_length", Field.uint32(inner * shared)


def _router(config: ModelConfig) -> Pairs:
    """In transformers the softmax is that of the chosen experts, which llama.cpp gets by dividing by their sum."""
    name = config.find("expert_selection_fn")
    if not isinstance(name, str) or name not in GATES:
        raise CannotConvert(f"config.json has the unknown expert_selection_fn {shown(name)}")
    norm = config.flag("norm_topk_prob", default=True)
    yield "expert_gating_func", Field.uint32(GATES[name])
    yield "expert_weights_norm", Field.boolean(norm or name == "softmax")


COHERE2_MOE = Family(
    "cohere2moe",
    {**_COHERE_TENSORS, **ROUTED_EXPERTS, **SHARED_EXPERTS},
    (
        *BASIC,
        number("logit_scale", "logit_scale", required=True),
        VOCABULARY_SIZE,
        rope_dimensions,
        no_rope_scaling,
        _windows,
        _feed_forward,
        _router,
    ),
    defaults={
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "logit_scale": 0.0625,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "expert_selection_fn": "softmax",
    },
    rope_types=frozenset({"default"}),
    optional_tensors=SHARED_EXPERT_STEMS,
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        # llama.cpp applies RoPE in all of the first dense layers, and halves the sum of routed and shared experts.
        "prefix_dense_sliding_window_pattern": (1, None),
        "shared_expert_combination_strategy": ("average", None),
    },
    # layer_types replace it.
    harmless_keys=frozenset({"sliding_window_pattern"}),
    skips_extra_layers=True,
)
