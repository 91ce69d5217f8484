"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: an encoder with a RoPE of rows and columns; four neighbours become one.

A kernel for two frames of a video sees a picture as two equal frames. Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.qwen_vl import DEEPSTACK, deepstack_layers
from proxy.gguf.families.rules import Frames, Named, Rule
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, always, count
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import TANH_GELU, split_qkv
from proxy.gguf.projectors.tower import USE_GELU, USE_SILU, VISION_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_BLOCK = "visual.blocks.{}."
_TENSORS: Mapping[str, Rule | str] = {
    "visual.patch_embed.proj.weight": Frames(("v.patch_embd.weight", "v.patch_embd.weight.1")),
    _BLOCK + "norm1": "v.blk.{}.ln1",
    _BLOCK + "norm2": "v.blk.{}.ln2",
    _BLOCK + "attn.proj": "v.blk.{}.attn_out",
}
_EPSILON = always("vision.attention.layer_norm_epsilon", Field.float32(1e-6))
"""In transformers it is fixed, whatever config.json has for the text."""
_WINDOW = 112
"""The side of a window, in pixels (clip.cpp)."""
_BASE = 10000.0


def _check_rope(config: ModelConfig) -> Pairs:
    rope = config.find("rope_parameters")
    base = rope.get("rope_theta", _BASE) if isinstance(rope, dict) else _BASE
    if base != _BASE or config.head_size % 4:
        raise CannotConvert(
            f"config.json has a vision_config with rope_theta = {shown(base)} and heads of {config.head_size}, and "
            f"llama.cpp rotates pairs of pairs by {_BASE}"
        )
    yield from ()


def _full_attention(config: ModelConfig) -> Pairs:
    """The period of the layers in which all patches attend to each other; the others have windows."""
    full = config.find("fullatt_block_indexes")
    period = full[0] + 1 if isinstance(full, list | tuple) and full and type(full[0]) is int else 0
    if period < 1 or list(full) != list(range(period - 1, config.blocks, period)):
        raise CannotConvert(
            f"config.json has fullatt_block_indexes = {shown(full)}, which are not every n-th of {config.blocks} layers"
        )
    yield "vision.n_wa_pattern", Field.uint32(period)


def _positions(config: ModelConfig) -> Pairs:
    """The side of the picture whose patches have a learned position each."""
    count = config.positive("num_position_embeddings")
    if math.isqrt(count) ** 2 != count:
        raise CannotConvert(f"config.json has num_position_embeddings = {count}, which is not a square")
    yield "vision.image_size", Field.uint32(math.isqrt(count) * config.positive("patch_size"))


def _is_deepstack(config: ModelConfig) -> Pairs:
    layers = deepstack_layers(config)
    yield "vision.is_deepstack_layers", Field.array(ValueType.BOOL, [one in layers for one in range(config.blocks)])


_MERGER: Mapping[str, str] = {
    "visual.merger.ln_q": "v.post_ln",
    "visual.merger.mlp.0": "mm.0",
    "visual.merger.mlp.2": "mm.2",
}
_DEEPSTACK_TENSORS: Mapping[str, str] = {
    "visual.deepstack_merger_list.{}.norm": "v.deepstack.{}.norm",
    "visual.deepstack_merger_list.{}.linear_fc1": "v.deepstack.{}.fc1",
    "visual.deepstack_merger_list.{}.linear_fc2": "v.deepstack.{}.fc2",
}
_UNREAD_SIZE = 560
"""What llama.cpp's converter writes as the size of pictures, which may have any."""
_CONNECTOR_SHAPES: Mapping[str, str] = {
    "post_ln.weight": "n_embd",
    "post_ln.bias": "n_embd",
    "mm.0.weight": "4n_embd 4n_embd",
    "mm.0.bias": "4n_embd",
    "mm.2.weight": "4n_embd n_text",
    "mm.2.bias": "n_text",
}
_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "in_channels": 3,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_ACCEPTED: Mapping[str, tuple[object, ...]] = {
    "in_channels": (3,),
    "spatial_merge_size": (2,),
    "temporal_patch_size": (2,),
}
_HARMLESS = frozenset({"spatial_patch_size"})
_OWN_KEYS = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads", "in_chans": "in_channels"}

QWEN2_VL = Tower(
    "qwen2vl_merger",
    {
        **_TENSORS,
        **_MERGER,
        _BLOCK + "attn.qkv": split_qkv(),
        _BLOCK + "mlp.fc1": "v.blk.{}.ffn_up",
        _BLOCK + "mlp.fc2": "v.blk.{}.ffn_down",
    },
    (*VISION_KEYS, projector_type("qwen2vl_merger"), _EPSILON, _check_rope),
    prefixes=("visual.",),
    prefix_aliases={"model.visual.": "visual."},
    defaults={
        **_DEFAULTS,
        "hidden_size": 1280,
        "intermediate_size": 3584,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "mlp_ratio": 4,
        "image_size": _UNREAD_SIZE,
    },
    # Its `hidden_size` is that of the text model. llama.cpp's converter writes it as the size of the MLP, which
    # llama.cpp does not read.
    key_aliases={**_OWN_KEYS, "embed_dim": "hidden_size", "hidden_size": "intermediate_size"},
    accepted_values={**_ACCEPTED, "hidden_act": ("quick_gelu",), "mlp_ratio": (4,)},
    harmless_keys=_HARMLESS,
    shapes={
        **_CONNECTOR_SHAPES,
        "blk.ffn_up.weight": "n_embd 4n_embd",
        "blk.ffn_up.bias": "4n_embd",
        "blk.ffn_down.weight": "4n_embd n_embd",
    },
)

QWEN2_5_VL = replace(
    QWEN2_VL,
    kind="qwen2.5vl_merger",
    tensors={
        **_TENSORS,
        **_MERGER,
        _BLOCK + "attn.qkv": split_qkv(),
        _BLOCK + "mlp.gate_proj": "v.blk.{}.ffn_gate",
        _BLOCK + "mlp.up_proj": "v.blk.{}.ffn_up",
        _BLOCK + "mlp.down_proj": "v.blk.{}.ffn_down",
    },
    keys=(*VISION_KEYS, projector_type("qwen2.5vl_merger"), USE_SILU, _EPSILON, _check_rope, _full_attention),
    defaults={
        **_DEFAULTS,
        "hidden_size": 3584,
        "intermediate_size": 3420,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "hidden_act": "silu",
        "window_size": _WINDOW,
        "fullatt_block_indexes": (7, 15, 23, 31),
        "image_size": _UNREAD_SIZE,
    },
    key_aliases=_OWN_KEYS,
    accepted_values={**_ACCEPTED, "hidden_act": ("silu",), "window_size": (_WINDOW,)},
    harmless_keys=_HARMLESS | {"out_hidden_size", "tokens_per_second"},
    without_bias=frozenset({"v.blk.{}.ln1", "v.blk.{}.ln2", "v.post_ln"}),
    shapes=_CONNECTOR_SHAPES,
)

QWEN3_VL = replace(
    QWEN2_VL,
    kind="qwen3vl_merger",
    tensors={
        **_TENSORS,
        "visual.patch_embed.proj.bias": Named("v.patch_embd.bias"),
        "visual.pos_embed": "v.position_embd",
        _BLOCK + "attn.qkv": "v.blk.{}.attn_qkv",
        _BLOCK + "mlp.linear_fc1": "v.blk.{}.ffn_up",
        _BLOCK + "mlp.linear_fc2": "v.blk.{}.ffn_down",
        "visual.merger.norm": "v.post_ln",
        "visual.merger.linear_fc1": "mm.0",
        "visual.merger.linear_fc2": "mm.2",
        **_DEEPSTACK_TENSORS,
    },
    keys=(
        *VISION_KEYS,
        projector_type("qwen3vl_merger"),
        USE_GELU,
        count("vision.spatial_merge_size", "spatial_merge_size"),
        _EPSILON,
        _positions,
        _is_deepstack,
        _check_rope,
    ),
    defaults={
        **_DEFAULTS,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": DEEPSTACK,
        "image_size": 768,
    },
    key_aliases=_OWN_KEYS,
    accepted_values={**_ACCEPTED, "hidden_act": TANH_GELU},
    harmless_keys=_HARMLESS | {"out_hidden_size"},
    shapes={
        **_CONNECTOR_SHAPES,
        "position_embd.weight": "n_embd n_pos",
        "deepstack.norm.weight": "4n_embd",
        "deepstack.norm.bias": "4n_embd",
        "deepstack.fc1.weight": "4n_embd 4n_embd",
        "deepstack.fc1.bias": "4n_embd",
        "deepstack.fc2.weight": "4n_embd n_text",
        "deepstack.fc2.bias": "n_text",
    },
    numbers=dict.fromkeys(_DEEPSTACK_TENSORS, deepstack_layers),
)

QWEN3_5 = replace(
    QWEN3_VL,
    tensors={name: rule for name, rule in QWEN3_VL.tensors.items() if name not in _DEEPSTACK_TENSORS},
    defaults={**QWEN3_VL.defaults, "deepstack_visual_indexes": ()},
    accepted_values={**QWEN3_VL.accepted_values, "deepstack_visual_indexes": ((), [])},
)
