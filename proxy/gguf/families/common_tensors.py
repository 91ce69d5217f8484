"""Rules and tensor names that several families share. Pure.

The keys are names in the weights, and the values are names in the GGUF (see proxy/gguf/families/rules.py).
"""

import math
from collections.abc import Mapping

from proxy.gguf.families.rules import Permuted, Rule, Size, Split, Stacked
from proxy.gguf.model_config import ModelConfig

QKV = frozenset({"attn_q", "attn_k", "attn_v"})
DENSE = ("dense_2", "dense_3")
"""The Dense modules that sentence-transformers applies after the pooling; `2_Dense` and `3_Dense` are their folders."""

SHARED_EXPERT_STEMS = frozenset({"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"})
"""The experts that process every token."""

ATTENTION_BIAS: Mapping[str, frozenset[str]] = {
    "attention_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"})
}

MLP_BIAS: Mapping[str, frozenset[str]] = {"mlp_bias": frozenset({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})}

BOTH_BIASES = {**ATTENTION_BIAS, **MLP_BIAS}

LAYER = "model.layers.{}."

EMBEDDING_AND_OUTPUT: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}

BARE_PREFIXES: Mapping[str, str] = {
    "layers.": "model.layers.",
    "embed_tokens.": "model.embed_tokens.",
    "norm.": "model.norm.",
}
"""Models that were saved without their head, as embedding models are, have no `model.` before their names."""

ATTENTION: Mapping[str, str] = {
    LAYER + "self_attn.q_proj": "blk.{}.attn_q",
    LAYER + "self_attn.k_proj": "blk.{}.attn_k",
    LAYER + "self_attn.v_proj": "blk.{}.attn_v",
    LAYER + "self_attn.o_proj": "blk.{}.attn_output",
}

PERMUTED_ATTENTION: Mapping[str, Rule | str] = {
    **ATTENTION,
    LAYER + "self_attn.q_proj": Permuted("blk.{}.attn_q", lambda config: config.heads),
    LAYER + "self_attn.k_proj": Permuted("blk.{}.attn_k", lambda config: config.kv_heads),
}

MLP: Mapping[str, str] = {
    LAYER + "mlp.gate_proj": "blk.{}.ffn_gate",
    LAYER + "mlp.up_proj": "blk.{}.ffn_up",
    LAYER + "mlp.down_proj": "blk.{}.ffn_down",
}

NORMS: Mapping[str, str] = {
    LAYER + "input_layernorm": "blk.{}.attn_norm",
    LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
}

QK_NORMS: Mapping[str, str] = {
    LAYER + "self_attn.q_norm": "blk.{}.attn_q_norm",
    LAYER + "self_attn.k_norm": "blk.{}.attn_k_norm",
}

POST_NORMS: Mapping[str, str] = {
    LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    LAYER + "post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}

PER_LAYER_INPUTS: Mapping[str, str] = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    LAYER + "per_layer_input_gate": "blk.{}.inp_gate",
    LAYER + "per_layer_projection": "blk.{}.proj",
    LAYER + "post_per_layer_input_norm": "blk.{}.post_norm",
}
"""An embedding gives each layer an extra input for each token."""


PER_LAYER_INPUT_SHAPES: Mapping[str, str] = {
    "per_layer_token_embd": "n_layer*n_embd_pl n_vocab",
    "per_layer_model_proj": "n_embd n_layer*n_embd_pl",
    "per_layer_proj_norm": "n_embd_pl",
    "inp_gate": "n_embd n_embd_pl",
    "proj": "n_embd_pl n_embd",
    "post_norm": "n_embd",
}

FUSED_MLP_SHAPES: Mapping[str, str] = {"ffn_up": "n_embd 2n_ff"}

QK_NORM_PER_HEAD_SHAPES: Mapping[str, str] = {
    "attn_q_norm": "n_embd_head n_head",
    "attn_k_norm": "n_embd_head n_head_kv",
}


def expert_count(config: ModelConfig) -> int:
    return config.positive("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


ROUTED_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "mlp.gate": "blk.{}.ffn_gate_inp",
    LAYER + "mlp.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", expert_count),
    LAYER + "mlp.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", expert_count),
    LAYER + "mlp.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", expert_count),
}


def squeezed(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the axis of size 1 that PyTorch's depthwise convolutions have."""
    return (shape[0], *(size for size in shape[1:] if size != 1))


def size_from(*names: str) -> Size:
    """The value of the first of these keys that config.json has."""
    return lambda config: config.positive(*names)


FUSED_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "mlp.experts.gate_up_proj": Split(
        (
            ("blk.{}.ffn_gate_exps", size_from("moe_intermediate_size", "intermediate_size")),
            ("blk.{}.ffn_up_exps", size_from("moe_intermediate_size", "intermediate_size")),
        )
    ),
    LAYER + "mlp.experts.down_proj": "blk.{}.ffn_down_exps",
}
"""transformers 5 saves all experts in one tensor."""

SHARED_EXPERTS: Mapping[str, str] = {
    LAYER + "mlp.shared_experts.gate_proj": "blk.{}.ffn_gate_shexp",
    LAYER + "mlp.shared_experts.up_proj": "blk.{}.ffn_up_shexp",
    LAYER + "mlp.shared_experts.down_proj": "blk.{}.ffn_down_shexp",
}
HUNYUAN_EXPERTS: Mapping[str, Rule | str] = {
    **{name: rule for name, rule in ROUTED_EXPERTS.items() if name != LAYER + "mlp.gate"},
    **{name.replace("shared_experts", "shared_mlp"): target for name, target in SHARED_EXPERTS.items()},
}
"""Without a router, which has several names."""


def same_shape(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def flat(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(shape),)
