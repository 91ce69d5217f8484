"""Tencent's Hy3. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, check_layer_types
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    FUSED_EXPERTS,
    HUNYUAN_EXPERTS,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    same_shape,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, stems_of
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, Pairs, always, count, number
from proxy.gguf.model_config import ModelConfig

_EXPERTS: Mapping[str, Rule | str] = {
    **HUNYUAN_EXPERTS,
    **FUSED_EXPERTS,
    LAYER + "mlp.router.gate": "blk.{}.ffn_gate_inp",
    # llama.cpp's name for it has no ending.
    LAYER + "mlp.expert_bias": Reshaped("blk.{}.exp_probs_b", same_shape),
}


def _layer_types(config: ModelConfig) -> list[str]:
    types = config.find("mlp_layer_types")
    default = ["dense", *["sparse"] * (config.blocks - 1)]
    return default if types is None else check_layer_types(config, types, ("dense", "sparse"))


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    other = _EXPERTS if _layer_types(config)[layer] == "dense" else MLP
    return dict.fromkeys(stems_of(other), False)


def _shared_experts(config: ModelConfig) -> Pairs:
    size = config.positive("moe_intermediate_size") * config.positive("num_shared_experts")
    yield "expert_shared_feed_forward_length", Field.uint32(size)


HY_V3 = Family(
    "hy_v3",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **QK_NORMS, **MLP, **_EXPERTS},
    (
        *BASIC,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        _shared_experts,
        always("expert_weights_norm", Field.boolean(True)),
        number("expert_weights_scale", "router_scaling_factor", required=True),
        SIGMOID_GATE,
    ),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 11158840.0,
        "num_experts": 192,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "moe_intermediate_size": 1536,
        "router_scaling_factor": 2.826,
    },
    optional_biases=frozenset({"exp_probs_b"}),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "route_norm": (True, None),
    },
    # In which type the results of the experts are added.
    harmless_keys=frozenset({"enable_moe_fp32_combine"}),
    absent_tensors=_absent_tensors,
    has_mixed_layers=True,
    # llama.cpp's converter keeps the layer for multi-token prediction, which Ollama does not run.
    skips_extra_layers=True,
)
