"""Xiaomi's MiMo V2 Flash: windows with sinks and their own RoPE, and values smaller than the keys. Pure.

`MiMoV2ForCausalLM`, its successor, has Q, K and V in one tensor that is cut for several processors; it is not here.
"""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_layer_types, rope_bases
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    ROUTED_EXPERTS,
    same_shape,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, Pairs, count, number, partial_head_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PERIOD = 6
"""transformers' default: the first layer and every sixth one have no window."""
_EXPERTS: Mapping[str, Rule | str] = {
    **ROUTED_EXPERTS,
    LAYER + "mlp.gate.e_score_correction_bias": "blk.{}.exp_probs_b",
}
_SINKS = "attn_sinks"


def _slides(config: ModelConfig) -> list[bool]:
    """For each layer whether it has a window."""
    default = [_SLIDING if layer and (layer + 1) % _PERIOD else _FULL for layer in range(config.blocks)]
    return _by_layer(config, ("hybrid_layer_pattern", "layer_types"), (_FULL, _SLIDING), default)


def _has_experts(config: ModelConfig) -> list[bool]:
    default = ["sparse" if layer else "dense" for layer in range(config.blocks)]
    return _by_layer(config, ("moe_layer_freq", "mlp_layer_types"), ("dense", "sparse"), default)


def _by_layer(config: ModelConfig, keys: tuple[str, str], known: tuple[str, str], default: list[str]) -> list[bool]:
    """For each layer whether it is the second of the `known` types.

    The authors' code reads a list of 0 and 1 under the first of the `keys`, transformers names under the second.
    """
    numbers, types = (config.find(key) for key in keys)
    if numbers is None:
        types = default if types is None else check_layer_types(config, types, known)
        return [layer_type == known[1] for layer_type in types]
    is_pattern = isinstance(numbers, list) and len(numbers) == config.blocks and set(map(str, numbers)) <= {"0", "1"}
    if not is_pattern or types not in (None, [known[number] for number in numbers]):
        raise CannotConvert(f"config.json has {keys[0]} = {shown(numbers)} and {keys[1]} = {shown(types)}")
    return [number == 1 for number in numbers]


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    absent = stems_of(MLP if _has_experts(config)[layer] else _EXPERTS)
    return dict.fromkeys(absent if _slides(config)[layer] else absent | {_SINKS}, False)


def _attention(config: ModelConfig) -> Pairs:
    """Layers with a window have more heads of K and V, by default twice as many; all other sizes are the same."""
    for key in ("head_dim", "v_head_dim", "num_attention_heads"):
        if config.find(f"swa_{key}") not in (None, config.find(key)):
            raise CannotConvert(f"config.json has another swa_{key} than {key}, which llama.cpp does not support")
    outside, within = config.kv_heads, config.optional_count("swa_num_key_value_heads")
    within = 2 * outside if within is None else within
    heads = [within if slides else outside for slides in _slides(config)]
    if not within or config.heads % within:
        raise CannotConvert(f"config.json has {config.heads} heads, and {within} of K and V in layers with a window")
    yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)


def _windows(config: ModelConfig) -> Pairs:
    """A token attends to as many tokens before it as `sliding_window_size`, and to itself, as in transformers."""
    before = config.optional_count("sliding_window_size")
    window = config.positive("sliding_window") if before is None else before + 1
    yield "attention.sliding_window", Field.uint32(window)
    yield "attention.sliding_window_pattern", Field.array(ValueType.INT32, list(map(int, _slides(config))))


def _ropes(config: ModelConfig) -> Pairs:
    """Layers with a window have another base; RoPE rotates equally many numbers of a head in all layers."""
    if (config.find("rope_scaling") or config.find("rope_parameters")) and not config.local_rope:
        raise CannotConvert("config.json has no rope_parameters for full_attention and sliding_attention")
    share = config.rope.get("partial_rotary_factor")
    if config.local_rope.get("partial_rotary_factor", share) != share:
        raise CannotConvert("config.json has another partial_rotary_factor for sliding_attention")
    yield from partial_head_dimensions(config)
    yield from rope_bases(config)


MIMO_V2_FLASH = Family(
    "mimo2",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        **_EXPERTS,
        LAYER + "self_attn.attention_sink_bias": Reshaped(f"blk.{{}}.{_SINKS}.weight", same_shape),
    },
    (
        *BASIC,
        _attention,
        _windows,
        _ropes,
        count("attention.value_length", "v_head_dim", required=True),
        number("attention.value_scale", "attention_value_scale"),
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
    ),
    key_aliases={"layernorm_epsilon": "rms_norm_eps", "swa_rope_theta": "rope_local_base_freq"},
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 4,
        "head_dim": 192,
        "v_head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e6,
        "rope_local_base_freq": 10000.0,
        "partial_rotary_factor": 0.334,
        "sliding_window": 129,
        "attention_value_scale": 0.707,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "n_group": 1,
        "topk_group": 1,
    },
    optional_biases=frozenset({"exp_probs_b"}),
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "add_full_attention_sink_bias": (False, None),
        "add_swa_attention_sink_bias": (True, None),
        "attention_bias": (False, None),
        "n_group": (1, None),
        "topk_group": (1, None),
        "n_shared_experts": (0, None),
        "norm_topk_prob": (True, None),
        "routed_scaling_factor": (1, None),
        "scoring_func": ("sigmoid", None),
        "topk_method": ("noaux_tc", None),
    },
    # Nothing reads it, and with a window there are no chunks.
    harmless_keys=frozenset({"attention_chunk_size"}),
    rope_types=frozenset({"default"}),
    shapes={"attn_output": "n_o n_embd"},
    absent_tensors=_absent_tensors,
    has_mixed_layers=True,
    has_local_rope=True,
    skipped_prefixes=("model.mtp.",),
)
