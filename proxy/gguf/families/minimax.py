"""MiniMax M2. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    NORMS,
    QK_NORMS,
    expert_count,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown

_EXPERT = LAYER + "block_sparse_moe.experts.{}."


def _rotary_dimensions(config: ModelConfig) -> Pairs:
    """The authors' code reads `rotary_dim`, transformers 5 `partial_rotary_factor`, or `rotary_dim` without it."""
    size, share = config.optional_count("rotary_dim"), config.rope.get("partial_rotary_factor")
    by_share = None if share is None else int(config.head_size * finite("config.json has partial_rotary_factor", share))
    sizes = {size, by_share} - {None}
    if sizes == set():
        raise CannotConvert("config.json has no rotary_dim")
    rotated = next(iter(sizes))
    if len(sizes) > 1 or not rotated or rotated % 2:
        raise CannotConvert(
            f"config.json has rotary_dim = {size} and partial_rotary_factor = {shown(share)} for heads of "
            f"{config.head_size}"
        )
    yield "rope.dimension_count", Field.uint32(rotated)


def _check_attention_types(config: ModelConfig) -> Pairs:
    """Before MiniMax M2, 0 stood for a layer with linear attention."""
    types = config.find("attn_type_list")
    if types not in (None, [1] * config.blocks):
        raise CannotConvert(f"config.json has attn_type_list = {shown(types)} for {config.blocks} layers")
    yield from ()


MINIMAX_M2 = Family(
    "minimax-m2",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        LAYER + "block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
        LAYER + "block_sparse_moe.e_score_correction_bias": "blk.{}.exp_probs_b",
        _EXPERT + "w1": Stacked("blk.{}.ffn_gate_exps", expert_count),
        _EXPERT + "w2": Stacked("blk.{}.ffn_down_exps", expert_count),
        _EXPERT + "w3": Stacked("blk.{}.ffn_up_exps", expert_count),
    },
    (
        *BASIC,
        count("expert_feed_forward_length", "intermediate_size", required=True),
        _rotary_dimensions,
        _check_attention_types,
        # llama.cpp's loader knows no other default than none, with which its graph stops.
        SIGMOID_GATE,
    ),
    defaults={
        "vocab_size": 200064,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 196608,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000000.0,
        "num_experts_per_tok": 8,
        "num_local_experts": 256,
    },
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "scoring_func": ("sigmoid", None),
        "use_qk_norm": (True, None),
        # One norm for all heads of a layer together.
        "qk_norm_type": ("per_layer", None),
        "use_routing_bias": (True, None),
        "shared_intermediate_size": (0, None),
    },
    # Layers for multi-token prediction, and the size of a dense MLP that no layer has.
    harmless_keys=frozenset({"mlp_intermediate_size", "mtp_transformer_layers", "num_mtp_modules", "use_mtp"}),
    optional_biases=frozenset(),
    shapes={"attn_q_norm": "n_q", "attn_k_norm": "n_k"},
    skips_extra_layers=True,
)
