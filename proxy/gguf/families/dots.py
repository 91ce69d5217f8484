"""rednote's dots.llm1. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_equal_heads, late_window_caveat
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, Pairs, count, flag, number
from proxy.gguf.model_config import ModelConfig


def _basic(config: ModelConfig) -> Pairs:
    """The authors' config.json names the routing in scoring_func; it always uses sigmoid."""
    without = replace(config, fields={key: value for key, value in config.fields.items() if key != "scoring_func"})
    for write in BASIC:
        yield from write(without)


DOTS1 = Family(
    "dots1",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **FUSED_EXPERTS,
        **SHARED_EXPERTS,
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        _basic,
        check_equal_heads,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("leading_dense_block_count", "first_k_dense_replace", required=True),
        count("expert_shared_count", "n_shared_experts", required=True),
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        flag("expert_weights_norm", "norm_topk_prob", default=False),
        SIGMOID_GATE,
    ),
    defaults={
        "vocab_size": 152064,
        "hidden_size": 4608,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 0,
        "norm_topk_prob": False,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "routed_scaling_factor": 1.0,
        "sliding_window": 4096,
        "max_window_layers": 62,
    },
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "attention_bias": (False, None),
        "moe_layer_freq": (1, None),
        "scoring_func": ("sigmoid", "noaux_tc", None),
        "topk_method": ("noaux_tc", None),
    },
    optional_biases=frozenset(),
    caveat=late_window_caveat,
    skips_extra_layers=True,
)
