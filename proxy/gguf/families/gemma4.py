"""The text part of Google's Gemma 4. Pure."""

import struct
from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.config import CannotConvert, ModelConfig, finite
from proxy.gguf.families.common_keys import rope_bases, sliding_by_layer
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
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
"""Beside the dense part of each layer."""

_OF_INPUTS, _OF_EXPERTS = stems_of(PER_LAYER_INPUTS), stems_of(_EXPERTS)

_UNTURNED = 1e30
"""By which a frequency is divided so that nothing turns."""

_INPUT_SIZE = "hidden_size_per_layer_input"

_KV_HEADS = "num_key_value_heads"

_TOLD = {"head_dim", _KV_HEADS}


def _sliding(config: ModelConfig) -> list[bool]:
    """Layer by layer; transformers has the last one see all, whatever the config says."""
    return [*sliding_by_layer(config)[:-1], False]


def _full_heads(config: ModelConfig) -> tuple[int, int | None]:
    """The size of a head in layers that see all, and how many of K and V they have where that is told."""
    layers = config.find("per_layer_config")
    if layers is None:
        shares = config.flag("attention_k_eq_v", default=False)
        told = config.optional_count("num_global_key_value_heads") if shares else None
        return config.positive("global_head_dim"), told
    full = {at for at, slides in enumerate(_sliding(config)) if not slides}
    known = isinstance(layers, dict) and {int(at) if at.isdecimal() else -1 for at in layers} == full
    same = next(iter(layers.values())) if known else None
    if not isinstance(same, dict) or same.keys() - _TOLD or any(layer != same for layer in layers.values()):
        raise CannotConvert(f"config.json has per_layer_config = {shown(layers)}, unknown for this architecture")
    return ModelConfig(same).optional_count("head_dim") or config.head_size, ModelConfig(same).optional_count(_KV_HEADS)


def _layers(config: ModelConfig) -> Pairs:
    windows, (size, kv_heads) = _sliding(config), _full_heads(config)
    shared = _shared(config, windows)
    yield "attention.shared_kv_layers", Field.uint32(shared)
    yield "embedding_length_per_layer_input", Field.uint32(config.optional_count(_INPUT_SIZE) or 0)
    yield "attention.sliding_window", Field.uint32(config.positive("sliding_window"))
    yield "attention.sliding_window_pattern", Field.array(ValueType.BOOL, windows)
    for key, length in (("", size), ("_swa", config.head_size)):
        yield f"attention.key_length{key}", Field.uint32(length)
        yield f"attention.value_length{key}", Field.uint32(length)
        yield f"rope.dimension_count{key}", Field.uint32(length)
    if config.flag("use_double_wide_mlp", default=False):
        width, first = config.positive("intermediate_size"), config.blocks - shared
        wide = [width if at < first else 2 * width for at in range(config.blocks)]
        yield "feed_forward_length", Field.array(ValueType.INT32, wide)
    if size % 2 or (kv_heads is not None and (not kv_heads or config.heads % kv_heads)):
        raise CannotConvert(
            f"config.json has {config.heads} heads of {size}, and {kv_heads} of K and V, for all to see"
        )
    if kv_heads is not None:
        # Ollama before 0.30 takes the first layer's number for that of all with a window.
        if not windows[0]:
            raise CannotConvert("config.json has layer_types of which the first is full_attention")
        heads = [config.kv_heads if slides else kv_heads for slides in windows]
        yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)


def _shared(config: ModelConfig, windows: list[bool]) -> int:
    """How many layers at the end have the K and V of the last layers of their kinds that have their own.

    llama.cpp takes the last but one of these for the one with a window, and the last for the one that sees all.
    """
    shared = config.count("num_kv_shared_layers")
    last = windows[: max(config.blocks - shared, 0)][-2:]
    if len(last) < 2 or not any(windows) or (shared and last != [True, False]):  # noqa: PLR2004
        raise CannotConvert(
            f"config.json has num_kv_shared_layers = {shared} and layer_types that llama.cpp does not run with them"
        )
    return shared


def _experts(config: ModelConfig) -> Pairs:
    if not _mixes(config) and any(map(config.find, ("num_experts", "top_k_experts"))):
        raise CannotConvert("config.json has experts, and enable_moe_block = False")
    size = config.optional_count("expert_intermediate_size", "moe_intermediate_size")
    if size is not None:
        yield "expert_feed_forward_length", Field.uint32(size)


def _mixes(config: ModelConfig) -> bool:
    return config.flag("enable_moe_block", default=False)


def _frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    """Where all is seen, only the first part of each half of a head turns."""
    size, _ = _full_heads(config)
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    if not 0 <= share <= 1:
        raise CannotConvert(f"config.json has partial_rotary_factor = {share}")
    turned = int(share * size / 2)
    divisors = [1.0] * turned + [_UNTURNED] * (size // 2 - turned)
    return {"rope_freqs.weight": struct.pack(f"<{len(divisors)}f", *divisors)}


def _absent(config: ModelConfig, block: int | None) -> Mapping[str, bool]:
    absent: dict[str, bool] = {}
    if not config.optional_count(_INPUT_SIZE):
        absent |= dict.fromkeys(_OF_INPUTS, False)
    if not _mixes(config):
        absent |= dict.fromkeys(_OF_EXPERTS, False)
    if block is not None and block >= config.blocks - config.count("num_kv_shared_layers"):
        return absent | dict.fromkeys(("attn_k", "attn_k_norm", "attn_v"), True)
    if block is not None and config.flag("attention_k_eq_v", default=False) and not _sliding(config)[block]:
        return absent | {"attn_v": False}
    return absent


def _vocabulary(_config: ModelConfig, _files: TokenizerFiles) -> Pairs:
    yield "add_space_prefix", Field.boolean(False)
    yield "add_bos_token", Field.boolean(True)


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
    (*BASIC, nonzero("final_logit_softcapping", "final_logit_softcapping"), _layers, _experts, rope_bases),
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
        # What is seen looks both ways, texts do not.
        "use_bidirectional_attention": ("vision", None),
    },
    # The weights show it.
    harmless_keys=frozenset({"vocab_size_per_layer_input"}),
    vocabulary=_vocabulary,
    optional_tensors=frozenset({"layer_output_scale"}),
    optional_biases=frozenset(),
    has_local_rope=True,
    absent_tensors=_absent,
)

GEMMA4_MULTIMODAL = replace(GEMMA4, text_part=VISION_AUDIO_TEXT)
