"""Poolside's Laguna: gated attention, head counts that differ by layer, and two ropes. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.common_keys import (
    ANY_SILU,
    check_layer_types,
    count_dense_layers,
    leading_dense_blocks,
    rope_bases,
)
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    QK_NORMS,
    ROUTED_EXPERTS,
    SHARED_EXPERTS,
)
from proxy.gguf.families.family import Family
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, SIGMOID_GATE, VOCABULARY_SIZE, Pairs, always, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles, is_id

_FULL, _SLIDING = "full_attention", "sliding_attention"

_WINDOW_PERIOD = 4

_GATES: Mapping[object, tuple[str, str]] = {
    True: ("per_head", "n_head"),
    "per-head": ("per_head", "n_head"),
    "per-element": ("per_element", "n_q"),
}
"""By the value of `gating`: its name in `gating_types`, and the rows of the gate, by which llama.cpp recognizes it."""


def _variant(config: ModelConfig) -> Family:
    gating, types = config.find("gating"), config.find("gating_types")
    name, rows = _GATES.get(gating, ("", "")) if isinstance(gating, str | bool) else ("", "")
    if not name or types not in (None, [name] * config.blocks):
        raise CannotConvert(f"config.json has gating = {shown(gating)} and gating_types = {shown(types)}")
    return replace(LAGUNA, shapes={"attn_gate": f"n_embd {rows}"})


def _heads(config: ModelConfig) -> Pairs:
    heads = config.find("num_attention_heads_per_layer")
    heads = [config.heads] * config.blocks if heads is None else heads
    is_list = isinstance(heads, list) and len(heads) == config.blocks and all(type(count) is int for count in heads)
    if not is_list or any(count <= 0 or count % config.kv_heads for count in heads):
        raise CannotConvert(
            f"config.json has num_attention_heads_per_layer = {shown(heads)} for {config.blocks} layers and "
            f"{config.kv_heads} heads of K and V"
        )
    yield "attention.head_count", Field.array(ValueType.INT32, heads)


def _check_dense_layers(config: ModelConfig) -> Pairs:
    """The repositories' own code also lists the numbers of the dense layers; transformers ignores the list."""
    dense = config.find("mlp_only_layers")
    if dense not in (None, list(range(count_dense_layers(config)))):
        raise CannotConvert(f"config.json has mlp_only_layers = {shown(dense)}, unlike mlp_layer_types")
    yield from ()


def _ropes(config: ModelConfig) -> Pairs:
    """RoPE of full-attention and of sliding-window layers; transformers ignores keys outside of `rope_parameters`."""
    ropes = config.find("rope_parameters")
    if not isinstance(ropes, dict) or not isinstance(ropes.get(_FULL), dict):
        raise CannotConvert(f"config.json has no rope_parameters for {_FULL}")
    if outside := {"rope_theta", "partial_rotary_factor"} & config.fields.keys() - ropes[_FULL].keys():
        raise CannotConvert(f"config.json has {min(outside)} outside of rope_parameters")
    if config.rope.get("rope_theta") is None:
        raise CannotConvert(f"config.json has no rope_theta for {_FULL}")
    yield "rope.dimension_count", _rotary_dimensions(config, config.rope)
    if ropes.get(_SLIDING) is not None:
        yield from rope_bases(config)
        yield "rope.dimension_count_swa", _rotary_dimensions(config, config.local_rope)


def _rotary_dimensions(config: ModelConfig, rope: Mapping[str, Any]) -> Field:
    factor = finite("config.json has partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    size = int(config.head_size * factor)
    if not 0 < factor <= 1 or size % 2:
        raise CannotConvert(f"config.json has partial_rotary_factor = {factor} of heads of {config.head_size}")
    return Field.uint32(size)


def _windows(config: ModelConfig) -> Pairs:
    """In llama.cpp every fourth layer, from the first on, has full attention."""
    types = config.find("layer_types")
    types = [_FULL] * config.blocks if types is None else check_layer_types(config, types, (_FULL, _SLIDING))
    if _SLIDING not in types:
        return
    expected = [_SLIDING if layer % _WINDOW_PERIOD else _FULL for layer in range(config.blocks)]
    if types != expected or config.find("rope_parameters").get(_SLIDING) is None:
        raise CannotConvert(
            f"config.json has layer_types other than {_WINDOW_PERIOD - 1} with a window after each one without"
        )
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))


def _end_of_turn(config: ModelConfig, _: TokenizerFiles) -> Pairs:
    """Of several end tokens the first ends a text, and the second ends a turn."""
    end_tokens = config.find("eos_token_id")
    if not isinstance(end_tokens, list) or len(end_tokens) < 2:  # noqa: PLR2004
        return
    if not is_id(end_tokens[1]) or end_tokens[1] >= config.positive("vocab_size"):
        raise CannotConvert(f"config.json has eos_token_id = {shown(end_tokens)}")
    yield "eot_token_id", Field.uint32(end_tokens[1])


LAGUNA: Family = Family(
    "laguna",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **ROUTED_EXPERTS,
        **SHARED_EXPERTS,
        **{name.replace("shared_experts", "shared_expert"): rule for name, rule in SHARED_EXPERTS.items()},
        LAYER + "self_attn.g_proj": "blk.{}.attn_gate",
        LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
        LAYER + "mlp.experts.e_score_correction_bias": "blk.{}.exp_probs_b",
    },
    (
        *BASIC,
        VOCABULARY_SIZE,
        _heads,
        _ropes,
        _windows,
        leading_dense_blocks,
        _check_dense_layers,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("expert_shared_feed_forward_length", "shared_expert_intermediate_size", required=True),
        always("expert_weights_norm", Field.boolean(True)),
        number("expert_weights_scale", "moe_routed_scaling_factor", required=True),
        SIGMOID_GATE,
    ),
    defaults={
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 40,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "gating": True,
        "moe_routed_scaling_factor": 1.0,
        "rope_parameters": {
            _FULL: {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            _SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
    },
    rope_types=frozenset({"default", "yarn"}),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "decoder_sparse_step": (1, None),
        "moe_apply_router_weight_on_input": (False, None),
        "moe_router_logit_softcapping": (0.0, None),
        "moe_router_use_sigmoid": (True, None),
        "norm_topk_prob": (True, None),
        "qk_norm_type": ("rmsnorm", None),
        "qkv_bias": (False, None),
        "rope_scaling": (None,),
        "swa_attention_sink_enabled": (False, None),
        "swa_rope_parameters": (None,),
    },
    vocabulary=_end_of_turn,
    # It ends a turn, although the tokenizer does not mark it as special.
    control_tokens=frozenset({"</assistant>"}),
    optional_biases=frozenset(),
    has_local_rope=True,
    variant=_variant,
)
