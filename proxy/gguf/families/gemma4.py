"""The text part of Google's Gemma 4. Pure."""

import struct
from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import rope_bases, sliding_by_layer
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    PER_LAYER_INPUT_SHAPES,
    PER_LAYER_INPUTS,
    POST_NORMS,
    QK_NORMS,
    same_shape,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, stems_of
from proxy.gguf.families.text_part import VISION_AUDIO_TEXT
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, Pairs, nonzero
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

_EXPERTS: Mapping[str, Rule | str] = {
    LAYER + "router.proj": "blk.{}.ffn_gate_inp",
    LAYER + "router.scale": Reshaped("blk.{}.ffn_gate_inp.scale", same_shape),
    LAYER + "router.per_expert_scale": Reshaped("blk.{}.ffn_down_exps.scale", same_shape),
    LAYER + "experts.gate_up_proj": "blk.{}.ffn_gate_up_exps",
    LAYER + "experts.down_proj": "blk.{}.ffn_down_exps",
    LAYER + "post_feedforward_layernorm_1": "blk.{}.post_ffw_norm_1",
    LAYER + "pre_feedforward_layernorm_2": "blk.{}.pre_ffw_norm_2",
    LAYER + "post_feedforward_layernorm_2": "blk.{}.post_ffw_norm_2",
}
"""In addition to the dense MLP of each layer."""

_INPUT_STEMS, _EXPERT_STEMS = stems_of(PER_LAYER_INPUTS), stems_of(_EXPERTS)

_NO_ROTATION = 1e30
"""A divisor that makes a RoPE frequency practically zero."""

_INPUT_SIZE = "hidden_size_per_layer_input"

_KV_HEADS = "num_key_value_heads"

_LAYER_KEYS = {"head_dim", _KV_HEADS}


def _sliding(config: ModelConfig) -> list[bool]:
    """For each layer whether it has a sliding window. transformers gives the last one full attention in any case."""
    return [*sliding_by_layer(config)[:-1], False]


def _full_heads(config: ModelConfig) -> tuple[int, int | None]:
    """Head size and number of K and V heads in full-attention layers; None for the usual number."""
    layers = config.find("per_layer_config")
    if layers is None:
        shares_kv = config.flag("attention_k_eq_v", default=False)
        kv_heads = config.optional_count("num_global_key_value_heads") if shares_kv else None
        return config.positive("global_head_dim"), kv_heads
    full = {number for number, slides in enumerate(_sliding(config)) if not slides}
    is_known = isinstance(layers, dict) and {int(key) if key.isdecimal() else -1 for key in layers} == full
    first = next(iter(layers.values())) if is_known else None
    if not isinstance(first, dict) or first.keys() - _LAYER_KEYS or any(layer != first for layer in layers.values()):
        raise CannotConvert(f"config.json has per_layer_config = {shown(layers)}, unknown for this architecture")
    settings = ModelConfig(first)
    return settings.optional_count("head_dim") or config.head_size, settings.optional_count(_KV_HEADS)


def _layers(config: ModelConfig) -> Pairs:
    windows = _sliding(config)
    yield "attention.shared_kv_layers", Field.uint32(_shared_kv_layers(config, windows))
    yield "embedding_length_per_layer_input", Field.uint32(config.optional_count(_INPUT_SIZE) or 0)
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))
    yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, windows)


def _heads(config: ModelConfig) -> Pairs:
    windows, (size, kv_heads) = _sliding(config), _full_heads(config)
    for suffix, length in (("", size), ("_swa", config.head_size)):
        yield f"attention.key_length{suffix}", Field.uint32(length)
        yield f"attention.value_length{suffix}", Field.uint32(length)
        yield f"rope.dimension_count{suffix}", Field.uint32(length)
    if size % 2 or (kv_heads is not None and (not kv_heads or config.heads % kv_heads)):
        raise CannotConvert(
            f"config.json has {config.heads} heads of {size}, and {kv_heads} of K and V, for full attention"
        )
    if kv_heads is not None:
        # Ollama before 0.30 applies the first layer's number to all layers with a window.
        if not windows[0]:
            raise CannotConvert("config.json has layer_types whose first is full_attention")
        heads = [config.kv_heads if slides else kv_heads for slides in windows]
        yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)


def _mlp_sizes(config: ModelConfig) -> Pairs:
    """With `use_double_wide_mlp` the layers that reuse K and V have an MLP of twice the size."""
    if config.flag("use_double_wide_mlp", default=False):
        size, first_wide = config.positive("intermediate_size"), config.blocks - config.count("num_kv_shared_layers")
        sizes = [size if layer < first_wide else 2 * size for layer in range(config.blocks)]
        yield "feed_forward_length", Field.array(ValueType.INT32, sizes)


def _shared_kv_layers(config: ModelConfig, windows: list[bool]) -> int:
    """How many of the last layers reuse K and V: those of the last earlier layer with the same attention type.

    Of the layers before them, llama.cpp expects a window in the last but one, and full attention in the last.
    """
    shared = config.count("num_kv_shared_layers")
    last = windows[: max(config.blocks - shared, 0)][-2:]
    if len(last) < 2 or not any(windows) or (shared and last != [True, False]):  # noqa: PLR2004
        raise CannotConvert(
            f"config.json has num_kv_shared_layers = {shared} and layer_types that llama.cpp does not run with them"
        )
    return shared


def _experts(config: ModelConfig) -> Pairs:
    if not _has_experts(config) and any(map(config.find, ("num_experts", "top_k_experts"))):
        raise CannotConvert("config.json has experts, and enable_moe_block = False")
    size = config.optional_count("expert_intermediate_size", "moe_intermediate_size")
    if size is not None:
        yield "expert_feed_forward_length", Field.uint32(size)


def _has_experts(config: ModelConfig) -> bool:
    return config.flag("enable_moe_block", default=False)


def _frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    """In full-attention layers RoPE rotates only the first part of each half of a head."""
    size, _ = _full_heads(config)
    factor = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    if not 0 <= factor <= 1:
        raise CannotConvert(f"config.json has partial_rotary_factor = {factor}")
    rotated = int(factor * size / 2)
    divisors = [1.0] * rotated + [_NO_ROTATION] * (size // 2 - rotated)
    return {"rope_freqs.weight": struct.pack(f"<{len(divisors)}f", *divisors)}


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    absent: dict[str, bool] = {}
    if not config.optional_count(_INPUT_SIZE):
        absent |= dict.fromkeys(_INPUT_STEMS, False)
    if not _has_experts(config):
        absent |= dict.fromkeys(_EXPERT_STEMS, False)
    if layer is not None and layer >= config.blocks - config.count("num_kv_shared_layers"):
        return absent | dict.fromkeys(("attn_k", "attn_k_norm", "attn_v"), True)
    if layer is not None and config.flag("attention_k_eq_v", default=False) and not _sliding(config)[layer]:
        return absent | {"attn_v": False}
    return absent


def _vocabulary(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "add_space_prefix", Field.boolean(False)
    yield "add_bos_token", Field.boolean(True)


_SHAPES: Mapping[str, str] = {
    **PER_LAYER_INPUT_SHAPES,
    "layer_output_scale": "1",
    "pre_ffw_norm_2": "n_embd",
    "post_ffw_norm_1": "n_embd",
    "post_ffw_norm_2": "n_embd",
    "ffn_gate_inp.scale": "n_embd",
    "ffn_gate_up_exps": "n_embd 2n_ff_exp n_expert",
    "ffn_down_exps.scale": "n_expert",
}

GEMMA4 = Family(
    "gemma4",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **QK_NORMS,
        **MLP,
        **POST_NORMS,
        **PER_LAYER_INPUTS,
        **_EXPERTS,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "pre_feedforward_layernorm": "blk.{}.ffn_norm",
        LAYER + "layer_scalar": "blk.{}.layer_output_scale",
    },
    (
        *BASIC,
        nonzero("final_logit_softcapping", "final_logit_softcapping"),
        _layers,
        _heads,
        _mlp_sizes,
        _experts,
        rope_bases,
    ),
    tokenizers=("merged pieces",),
    defaults={
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "global_head_dim": 512,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
        "vocab_size": 262144,
        _INPUT_SIZE: 256,
        "num_kv_shared_layers": 0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        },
    },
    computed_tensors=_frequencies,
    rope_types=frozenset({"proportional"}),
    accepted_values={
        "hidden_activation": ("gelu_pytorch_tanh", None),
        "attention_bias": (False, None),
        "tie_word_embeddings": (True,),
        "sliding_window_pattern": (6,),
        "factor": (1.0, None),
        # Image tokens attend in both directions, text tokens do not.
        "use_bidirectional_attention": ("vision", None),
    },
    # The weights show it anyway.
    harmless_keys=frozenset({"vocab_size_per_layer_input"}),
    vocabulary=_vocabulary,
    optional_tensors=frozenset({"layer_output_scale"}),
    optional_biases=frozenset(),
    has_local_rope=True,
    absent_tensors=_absent_tensors,
    shapes=_SHAPES,
    has_mixed_layers=True,
)

GEMMA4_MULTIMODAL = replace(GEMMA4, text_part=VISION_AUDIO_TEXT)
