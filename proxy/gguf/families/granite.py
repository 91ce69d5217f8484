"""IBM's Granite: a Llama with four factors of its own, dense or with experts. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.families.llama import LLAMA_BIASES, LLAMA_DEFAULTS, LLAMA_TENSORS, llama_vocabulary
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION_BIAS,
    BOTH_BIASES,
    ENDS,
    LAYER,
    LLAMA_ROPES,
    NORMS,
    TURNED,
    half_of,
    rope_frequencies,
)
from proxy.gguf.families.rules import SHARED_MATRICES, Family, Rule, Split
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, count, nonzero, number, rope_dimensions

GRANITE_KEYS = (
    *BASIC,
    VOCABULARY_SIZE,
    rope_dimensions,
    nonzero("attention.scale", "attention_multiplier"),
    nonzero("embedding_scale", "embedding_multiplier"),
    nonzero("residual_scale", "residual_multiplier"),
    number("logit_scale", "logits_scaling", required=True),
)

_GRANITE_DEFAULTS: Mapping[str, Any] = {
    **LLAMA_DEFAULTS,
    **dict.fromkeys(("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0),
}

GRANITE = Family(
    "granite",
    LLAMA_TENSORS,
    GRANITE_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults=_GRANITE_DEFAULTS,
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=LLAMA_BIASES,
    flags=BOTH_BIASES,
    only={**ANY_SILU, "head_dim": (None,)},
    vocabulary=llama_vocabulary,
)

GRANITE_MOE_TENSORS: Mapping[str, Rule | str] = {
    **ENDS,
    **NORMS,
    **TURNED,
    LAYER + "block_sparse_moe.router.layer": "blk.{}.ffn_gate_inp",
    LAYER + "block_sparse_moe.input_linear": Split(
        (
            ("blk.{}.ffn_gate_exps", half_of("intermediate_size")),
            ("blk.{}.ffn_up_exps", half_of("intermediate_size")),
        )
    ),
    LAYER + "block_sparse_moe.output_linear": "blk.{}.ffn_down_exps",
    LAYER + "shared_mlp.input_linear": Split(
        (
            ("blk.{}.ffn_gate_shexp", half_of("shared_intermediate_size")),
            ("blk.{}.ffn_up_shexp", half_of("shared_intermediate_size")),
        )
    ),
    LAYER + "shared_mlp.output_linear": "blk.{}.ffn_down_shexp",
}

GRANITE_MOE = Family(
    "granitemoe",
    GRANITE_MOE_TENSORS,
    (*GRANITE_KEYS, count("expert_shared_feed_forward_length", "shared_intermediate_size")),
    tokenizers=("sentencepiece", "bpe"),
    defaults={**_GRANITE_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2},
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional=SHARED_MATRICES,
    optional_biases=LLAMA_BIASES,
    flags=ATTENTION_BIAS,
    only={**ANY_SILU, "head_dim": (None,)},
    vocabulary=llama_vocabulary,
)
