"""Encoders of images for tiny repositories: their settings, and their random weights, the same in every run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

HIDDEN, FEED_FORWARD, LAYERS, HEADS = 64, 128, 2, 4
PATCH = 14
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class TinyTower:
    """`section` is the tower's object in config.json, and `outer` what config.json has beside it."""

    weights: Callable[["Weights"], None]
    section: Mapping[str, Any]
    outer: Mapping[str, Any] = field(default_factory=dict)
    name: str = "vision_config"
    images: Mapping[str, Any] = field(default_factory=lambda: {"image_mean": HALF, "image_std": HALF})
    """preprocessor_config.json."""


def clip_layers(
    weights: "Weights", prefix: str, *, hidden: int = HIDDEN, feed_forward: int = FEED_FORWARD, layers: int = LAYERS
) -> None:
    for layer in range(layers):
        name = f"{prefix}encoder.layers.{layer}."
        for part in ("q", "k", "v", "out"):
            weights.linear(f"{name}self_attn.{part}_proj", hidden, hidden, bias=True)
        weights.norms(name, "layer_norm1", "layer_norm2", size=hidden, bias=True)
        weights.linear(f"{name}mlp.fc1", feed_forward, hidden, bias=True)
        weights.linear(f"{name}mlp.fc2", hidden, feed_forward, bias=True)


def siglip(weights: "Weights", encoder: str, layers: int = LAYERS) -> None:
    """SigLIP for pictures of 8 x 8 patches."""
    weights.add(f"{encoder}embeddings.patch_embedding.weight", HIDDEN, 3, PATCH, PATCH)
    weights.add(f"{encoder}embeddings.patch_embedding.bias", HIDDEN)
    weights.add(f"{encoder}embeddings.position_embedding.weight", 64, HIDDEN)
    clip_layers(weights, encoder, layers=layers)
    weights.norm(f"{encoder}post_layernorm", HIDDEN, bias=True)


def _gemma3(weights: "Weights") -> None:
    weights.linear("multi_modal_projector.mm_input_projection", HIDDEN, weights.text)
    weights.tensors["multi_modal_projector.mm_input_projection_weight"] = weights.tensors.pop(
        "multi_modal_projector.mm_input_projection.weight"
    )
    weights.add("multi_modal_projector.mm_soft_emb_norm.weight", HIDDEN)
    siglip(weights, "vision_tower.vision_model.")


_VIT = {
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "image_size": 8 * PATCH,
    "patch_size": PATCH,
}
GEMMA3_TOWER = TinyTower(
    _gemma3,
    {**_VIT, "model_type": "siglip_vision_model", "vision_use_head": False},
    {"boi_token_index": 3, "eoi_token_index": 3, "image_token_index": 6, "mm_tokens_per_image": 4},
)
