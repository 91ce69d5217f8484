"""StepFun's Step 3.5 Flash: windows with heads and a RoPE of their own, and limits for activations, by layer. Pure.

It is compared with the authors' modeling_step3p5.py. transformers 5.24 has the text part of Step 3.7 only, which is the
same model.
"""

import math
import struct
from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, limits_by_layer
from proxy.gguf.families.common_tensors import ATTENTION, LAYER, MLP
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import AddOne, Rule, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, Pairs, always, count, f32, number, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown

_FULL, _SLIDING = "full_attention", "sliding_attention"
_ROTATED = {_FULL: 0.5, _SLIDING: 1.0}
"""The share of a head that RoPE rotates: llama.cpp halves it in layers without a window."""
_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "moe.gate": "blk.{}.ffn_gate_inp",
    LAYER + "moe.router_bias": "blk.{}.exp_probs_b",
    **{f"{LAYER}moe.{part}_proj": f"blk.{{}}.ffn_{part}_exps" for part in ("gate", "up", "down")},
    **{f"{LAYER}share_expert.{part}_proj": f"blk.{{}}.ffn_{part}_shexp" for part in ("gate", "up", "down")},
}


def _layer_types(config: ModelConfig) -> list[str]:
    """For each layer. The list may go on with the layers for multi-token prediction."""
    types = config.find("layer_types")
    if not isinstance(types, list) or len(types) < config.blocks or set(map(str, types)) - _ROTATED.keys():
        raise CannotConvert(f"config.json has no layer_types for {config.blocks} layers")
    if {*types[: config.blocks]} != _ROTATED.keys():
        raise CannotConvert("config.json has layer_types of one kind; llama.cpp expects layers with and without window")
    return types[: config.blocks]


def _layers_with_experts(config: ModelConfig) -> set[int]:
    text = config.find("moe_layers_enum")
    numbers = text.split(",") if isinstance(text, str) else []
    layers = {int(one) for one in numbers if one.strip().isdecimal()}
    if not layers or len(layers) != len(numbers):
        raise CannotConvert(f"config.json has moe_layers_enum = {shown(text)}, which is no list of layers")
    return layers


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    return dict.fromkeys(stems_of(MLP if layer in _layers_with_experts(config) else _EXPERTS), False)


def _heads(config: ModelConfig) -> Pairs:
    """Layers with a window have other numbers of heads, which are in `attention_other_setting`."""
    for key in ("swa_head_dim", "swa_true_head_dim"):
        if config.find(key) not in (None, config.head_size):
            raise CannotConvert(f"config.json has another {key.removeprefix('swa_')} in attention_other_setting")
    types = _layer_types(config)
    for key, outside, within in (
        ("attention.head_count", config.heads, config.positive("swa_num_attention_heads")),
        ("attention.head_count_kv", config.kv_heads, config.positive("swa_num_key_value_heads")),
    ):
        heads = [within if layer_type == _SLIDING else outside for layer_type in types]
        yield key, Field.array(ValueType.INT32, heads)
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))
    pattern = [layer_type == _SLIDING for layer_type in types]
    yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, pattern)


def _experts(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(min(_layers_with_experts(config)))
    for key, name in (("swiglu_clamp_exp", "swiglu_limits"), ("swiglu_clamp_shexp", "swiglu_limits_shared")):
        if (limits := limits_by_layer(config, name)) is not None:
            yield key, Field.array(ValueType.FLOAT32, limits)


def _bases(config: ModelConfig) -> Mapping[str, float]:
    """The RoPE base of each kind of layer. config.json has it for each layer."""
    types, bases = _layer_types(config), config.rope.get("rope_theta")
    shares = config.find("partial_rotary_factors")
    if not isinstance(bases, list) or len(bases) < len(types):
        raise CannotConvert(f"config.json has rope_theta = {shown(bases)}, not one for each of {len(types)} layers")
    if not isinstance(shares, list) or shares[: len(types)] != [_ROTATED[layer_type] for layer_type in types]:
        raise CannotConvert(f"config.json has partial_rotary_factors = {shown(shares)}, unknown for llama.cpp")
    found = {(layer_type, finite("config.json has rope_theta", bases[at])) for at, layer_type in enumerate(types)}
    if len(found) != len(_ROTATED):
        raise CannotConvert(f"config.json has rope_theta = {shown(bases)}, which differs among layers of one kind")
    return dict(found)


def _ropes(config: ModelConfig) -> Pairs:
    bases = _bases(config)
    yield "rope.freq_base", Field.float32(bases[_FULL])
    yield "rope.freq_base_swa", Field.float32(bases[_SLIDING])
    if config.rope.get("rope_type", "default") != "default" and config.find("yarn_only_types") != [_FULL]:
        raise CannotConvert("config.json has a rope scaling for layers with a window, which llama.cpp does not support")


def _divisors(config: ModelConfig) -> Mapping[str, bytes]:
    """Of the RoPE frequencies in layers without a window, as F32: half a head, filled up with 1.

    llama.cpp's converter rounds a frequency to F32, and calculates with it in 64 bits.
    """
    rope = ModelConfig(config.rope)
    if rope.find("rope_type") != "llama3":
        return {}
    base, size = _bases(config)[_FULL], config.head_size // 2
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, context = (rope.number(key) for key in keys)
    if min(base, factor, low, context) <= 0 or high <= low:
        raise CannotConvert("config.json has a rope scaling of the type llama3 with invalid values")
    divisors = [1.0] * size
    for at in range(size // 2):
        wavelength = 2 * math.pi / f32(1 / f32(base ** f32(2 * at / size)))
        smooth = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        divisors[at] = 1 / ((1 - smooth) / factor + smooth)
    return {"rope_freqs.weight": struct.pack(f"<{size}f", *divisors)}


STEP35 = Family(
    "step35",
    {
        **ATTENTION,
        **MLP,
        **_EXPERTS,
        "model.embed_tokens": "token_embd",
        "model.norm": AddOne("output_norm"),
        "lm_head": "output",
        LAYER + "input_layernorm": AddOne("blk.{}.attn_norm"),
        LAYER + "post_attention_layernorm": AddOne("blk.{}.ffn_norm"),
        LAYER + "self_attn.q_norm": AddOne("blk.{}.attn_q_norm"),
        LAYER + "self_attn.k_norm": AddOne("blk.{}.attn_k_norm"),
        LAYER + "self_attn.g_proj": "blk.{}.attn_gate",
    },
    (
        *(writer for writer in BASIC if writer is not rope_base),
        _heads,
        _experts,
        _ropes,
        count("expert_feed_forward_length", "moe_intermediate_size", required=True),
        count("expert_shared_feed_forward_length", "share_expert_dim", required=True),
        number("expert_weights_scale", "moe_router_scaling_factor", required=True),
        always("expert_weights_norm", Field.boolean(True)),
        always("moe_every_n_layers", Field.uint32(1)),
    ),
    key_aliases={
        "moe_num_experts": "num_experts",
        "moe_top_k": "num_experts_per_tok",
        "num_attention_groups": "num_key_value_heads",
        "attention_other_setting.num_attention_heads": "swa_num_attention_heads",
        "attention_other_setting.num_attention_groups": "swa_num_key_value_heads",
        "attention_other_setting.head_dim": "swa_head_dim",
        "attention_other_setting.true_head_dim": "swa_true_head_dim",
        "attention_other_setting.attention_type": "swa_attention_type",
    },
    defaults={"rms_norm_eps": 1e-5},
    computed_tensors=_divisors,
    rope_types=frozenset({"default", "llama3"}),
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "att_impl_type": ("GQA", None),
        "moe_every_n_layer": (1, None),
        "moe_router_activation": ("sigmoid",),
        "norm_expert_weight": (True, None),
        "sink": (False, None),
        "swa_attention_type": (_SLIDING, None),
        "use_head_wise_attn_gate": (True,),
        "use_mfa": (False, None),
        "use_moe": (True, None),
        "use_moe_router_bias": (True,),
        "use_qk_norm": (True, None),
        "use_rope_layers": ([], None),
        "zero_centered": (True, None),
    },
    # Nothing reads them, or another key has their meaning; the router calculates in F32 in llama.cpp too.
    harmless_keys=frozenset({"max_seq_len", "moe_layer_offset", "need_fp32_gate"}),
    optional_biases=frozenset(),
    absent_tensors=_absent_tensors,
    has_mixed_layers=True,
    has_transformers_class=False,
    skips_extra_layers=True,
    shapes={"attn_gate": "n_embd n_head"},
)
