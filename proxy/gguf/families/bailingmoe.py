"""Ling and Ling 2 (Bailing MoE and Bailing MoE 2), and Sarvam MoE. Pure.

Ling with `norm_head` is refused: its authors' code divides each column of the output matrix by the column's length,
which is known only after the whole matrix has been read.
"""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_several_experts
from proxy.gguf.families.common_tensors import LAYER, MLP, NORMS, ROUTED_EXPERTS, SHARED_EXPERTS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Rule, SplitQkv
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import (
    BASIC,
    SIGMOID_GATE,
    VOCABULARY_SIZE,
    Pairs,
    always,
    count,
    flag,
    number,
    partial_head_dimensions,
    rope_dimensions,
)
from proxy.gguf.model_config import ModelConfig


def _no_prediction_layers(config: ModelConfig) -> Pairs:
    """The layers for multi-token prediction are skipped, so their number in config.json becomes 0."""
    if config.optional_count("num_nextn_predict_layers") is not None:
        yield "nextn_predict_layers", Field.uint32(0)


_TENSORS: Mapping[str, Rule | str] = {
    **NORMS,
    **ROUTED_EXPERTS,
    **SHARED_EXPERTS,
    "model.word_embeddings": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    LAYER + "attention.dense": "blk.{}.attn_output",
}
_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {
    **ANY_SILU,
    **UNTIED,
    "use_qkv_bias": (False, None),
    "use_bias": (False, None),
    "norm_head": (False, None),
    "norm_softmax": (False, None),
    "use_sliding_window": (False, None),
}

BAILING_MOE = Family(
    "bailingmoe",
    {
        **_TENSORS,
        LAYER + "attention.query_key_value": SplitQkv(
            "blk.{}.attn_q",
            "blk.{}.attn_k",
            "blk.{}.attn_v",
            groups=lambda _: 1,
            heads=lambda config: config.heads,
            kv_heads=lambda config: config.kv_heads,
        ),
    },
    (
        *BASIC,
        rope_dimensions,
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCABULARY_SIZE,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        always("expert_weights_scale", Field.float32(1.0)),
        count("expert_shared_count", "num_shared_experts", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=True),
        check_several_experts,
    ),
    # Those of the authors' configuration_bailing_moe.py.
    defaults={
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 0,
    },
    optional_biases=frozenset(),
    # llama.cpp's graph has experts in every layer, and one router for all tokens.
    accepted_values={**_ACCEPTED_VALUES, "first_k_dense_replace": (0,), "multi_gate": (False, None)},
    # Only training uses them.
    harmless_keys=frozenset({"embedding_dropout", "output_dropout", "sliding_window", "max_window_layers"}),
    has_transformers_class=False,
)

_KEYS = (
    count("leading_dense_block_count", "first_k_dense_replace", required=True),
    VOCABULARY_SIZE,
    count("expert_feed_forward_length", "moe_intermediate_size", required=True),
    count(
        "expert_shared_feed_forward_length",
        "moe_shared_expert_intermediate_size",
        "moe_intermediate_size",
        required=True,
    ),
    number("expert_weights_scale", "routed_scaling_factor", required=True),
    count("expert_shared_count", "num_shared_experts", required=True),
    flag("expert_weights_norm", "norm_topk_prob", default=True),
    _no_prediction_layers,
)

BAILING_MOE2 = Family(
    "bailingmoe2",
    {
        **_TENSORS,
        **MLP,
        LAYER + "attention.query_key_value": "blk.{}.attn_qkv",
        LAYER + "attention.query_layernorm": "blk.{}.attn_q_norm",
        LAYER + "attention.key_layernorm": "blk.{}.attn_k_norm",
        LAYER + "mlp.gate.expert_bias": "blk.{}.exp_probs_b",
    },
    (*BASIC, partial_head_dimensions, *_KEYS),
    optional_tensors=frozenset({"exp_probs_b"}),
    optional_biases=frozenset(),
    defaults={"partial_rotary_factor": 0.5},
    # Some versions of llama.cpp's loader multiply the size of a shared expert by their number, others do not.
    accepted_values={
        **_ACCEPTED_VALUES,
        "num_shared_experts": (1,),
        "use_qk_norm": (True,),
        "score_function": ("sigmoid",),
        "use_rmsnorm": (True, None),
        "router_type": ("topN", None),
    },
    # What the weights show anyway, another form of partial_rotary_factor, and windows that are not used.
    harmless_keys=frozenset(
        {
            *("moe_router_enable_expert_bias", "router_dtype", "rotary_dim", "moe_router_topk_scaling_factor"),
            *("sliding_window", "max_window_layers"),
        }
    ),
    has_transformers_class=False,
    skips_extra_layers=True,
    heads_fill_embedding=True,
)

SARVAM_MOE = replace(
    BAILING_MOE2,
    hyperparameters=(*BASIC, rope_dimensions, SIGMOID_GATE, *_KEYS),
    # That of Gemma 3.
    tokenizers=("merged pieces",),
    merged_pieces=("gpt2", "sarvam-moe"),
    # The first names are those that transformers writes.
    key_aliases={
        "n_routed_experts": "num_experts",
        "num_local_experts": "num_experts",
        "n_shared_experts": "num_shared_experts",
        "attention_bias": "use_qkv_bias",
    },
    has_transformers_class=True,
    defaults={
        "hidden_size": 4096,
        "intermediate_size": 8192,
        "num_hidden_layers": 19,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 8_000_000.0,
        "vocab_size": 262144,
        "num_experts": 128,
        "num_shared_experts": 1,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 1024,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0,
    },
    accepted_values={
        **BAILING_MOE2.accepted_values,
        "use_qk_norm": (True, None),
        "score_function": ("sigmoid", None),
        "partial_rotary_factor": (1.0, None),
    },
    harmless_keys=frozenset({"moe_router_enable_expert_bias", "router_dtype", "max_window_layers"}),
    # Its weights have no layers for multi-token prediction.
    skips_extra_layers=False,
)
"""Its code has the same model, with RoPE for whole heads. It subtracts the mean from the bias of the experts, which
changes no choice among them; llama.cpp's converter does so too, and rounds what is left."""
