"""JetBrains' Mellum 2. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_layer_types, one_rope_base, sliding_layers
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC, Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig


def _check_layers(config: ModelConfig) -> Pairs:
    """The older form of a RoPE has no effect in transformers, and llama.cpp expects experts in every layer."""
    ropes = config.find("rope_parameters")
    if config.find("rope_scaling") or not isinstance(ropes, dict) or "full_attention" not in ropes:
        raise CannotConvert("config.json has no rope_parameters for full_attention and sliding_attention")
    if config.find("layer_types") is None:
        raise CannotConvert("config.json has no layer_types")
    types = config.find("mlp_layer_types")
    if types is not None and "dense" in check_layer_types(config, types, ("dense", "sparse")):
        raise CannotConvert("config.json has mlp_layer_types with a dense layer, which llama.cpp does not load")
    yield from ()


MELLUM = Family(
    "mellum",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **QK_NORMS, **ROUTED_EXPERTS, **FUSED_EXPERTS},
    (
        _check_layers,
        *BASIC,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        sliding_layers,
        one_rope_base,
    ),
    defaults={
        "intermediate_size": 7168,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "sliding_window": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 896,
    },
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "attention_bias": (False, None), "norm_topk_prob": (True, None)},
    harmless_keys=frozenset({"mtp_layer_types", "mtp_mlp_layer_types"}),
    has_local_rope=True,
    skipped_prefixes=("mtp.",),
)
