"""Encoders of Qwen-VL."""

import json
from collections.abc import Mapping
from typing import Any

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import Weights
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.gguf.tiny_repositories.towers import (
    CLIP_MEAN,
    CLIP_STD,
    FEED_FORWARD,
    HALF,
    HEADS,
    HIDDEN,
    TinyTower,
)

_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_DEPTH = 4
"""Two layers with windows and two without; or layers before, at and after those of the deepstack. llama.cpp's converter
takes the number of a connector's matrix for that of a layer, and knows them up to its depth."""
_MERGED = 4 * HIDDEN
_POSITIONS = 64


def seeing() -> Tokenizer:
    return byte_pairs("qwen2", merge_lists=True, more=_TOKENS)


def _token_ids() -> Mapping[str, int]:
    ids = {one["content"]: one["id"] for one in json.loads(seeing().files["tokenizer.json"])["added_tokens"]}
    keys = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {key: ids[text] for key, text in zip(keys, _TOKENS, strict=True)}


TOKENS = _token_ids()


def _attention(weights: Weights, layer: str, *, bias: bool) -> None:
    weights.norms(layer, "norm1", "norm2", size=HIDDEN, bias=bias)
    weights.linear(f"{layer}attn.qkv", 3 * HIDDEN, HIDDEN, bias=True)
    weights.linear(f"{layer}attn.proj", HIDDEN, HIDDEN, bias=True)


def _merger(weights: Weights, *, bias: bool) -> None:
    weights.norm("visual.merger.ln_q", HIDDEN, bias=bias)
    weights.linear("visual.merger.mlp.0", _MERGED, _MERGED, bias=True)
    weights.linear("visual.merger.mlp.2", weights.text, _MERGED, bias=True)


def _qwen2(weights: Weights) -> None:
    weights.add("visual.patch_embed.proj.weight", HIDDEN, 3, 2, 14, 14)
    for number in range(_DEPTH):
        layer = f"visual.blocks.{number}."
        _attention(weights, layer, bias=True)
        weights.linear(f"{layer}mlp.fc1", 4 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.fc2", HIDDEN, 4 * HIDDEN, bias=True)
    _merger(weights, bias=True)


def _qwen2_5(weights: Weights) -> None:
    feed_forward = weights.config["vision_config"]["intermediate_size"]
    weights.add("visual.patch_embed.proj.weight", HIDDEN, 3, 2, 14, 14)
    for number in range(_DEPTH):
        layer = f"visual.blocks.{number}."
        _attention(weights, layer, bias=False)
        for part in ("gate", "up"):
            weights.linear(f"{layer}mlp.{part}_proj", feed_forward, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.down_proj", HIDDEN, feed_forward, bias=True)
    _merger(weights, bias=False)


def _qwen3(weights: Weights) -> None:
    weights.add("model.visual.patch_embed.proj.weight", HIDDEN, 3, 2, 16, 16)
    weights.add("model.visual.patch_embed.proj.bias", HIDDEN)
    weights.add("model.visual.pos_embed.weight", _POSITIONS, HIDDEN)
    for number in range(_DEPTH):
        layer = f"model.visual.blocks.{number}."
        _attention(weights, layer, bias=True)
        weights.linear(f"{layer}mlp.linear_fc1", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{layer}mlp.linear_fc2", HIDDEN, FEED_FORWARD, bias=True)
    stacked = len(weights.config["vision_config"]["deepstack_visual_indexes"])
    for name, size in (("merger", HIDDEN), *((f"deepstack_merger_list.{at}", _MERGED) for at in range(stacked))):
        weights.norm(f"model.visual.{name}.norm", size, bias=True)
        weights.linear(f"model.visual.{name}.linear_fc1", _MERGED, _MERGED, bias=True)
        weights.linear(f"model.visual.{name}.linear_fc2", weights.text, _MERGED, bias=True)


_SIZES: Mapping[str, Any] = {"num_heads": HEADS, "spatial_merge_size": 2, "temporal_patch_size": 2}
_OLDER: Mapping[str, Any] = {**_SIZES, "in_chans": 3, "patch_size": 14, "spatial_patch_size": 14}
_CLIP: Mapping[str, Any] = {
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_processor_type": "Qwen2VLImageProcessor",
}
QWEN2_VL_TOWER = TinyTower(
    _qwen2,
    {**_OLDER, "depth": _DEPTH, "embed_dim": HIDDEN, "hidden_size": 256, "mlp_ratio": 4},
    TOKENS,
    images=_CLIP,
)
QWEN2_5_VL_TOWER = TinyTower(
    _qwen2_5,
    {
        **_OLDER,
        "depth": _DEPTH,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 172,
        "out_hidden_size": 256,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
    },
    TOKENS,
    images=_CLIP,
)


def qwen3_tower(model_type: str, tokens: Mapping[str, int], *, deepstack: bool) -> TinyTower:
    section = {
        **_SIZES,
        "depth": _DEPTH,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": FEED_FORWARD,
        "model_type": model_type,
        "num_position_embeddings": _POSITIONS,
        "out_hidden_size": 256,
        "patch_size": 16,
        "deepstack_visual_indexes": [1, 2] if deepstack else [],
    }
    images = {**_CLIP, "image_mean": HALF, "image_std": HALF, "patch_size": 16}
    return TinyTower(_qwen3, section, tokens, images=images)
