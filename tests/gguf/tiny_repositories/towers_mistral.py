"""The towers of Mistral's models, and of SmolVLM and LLaVA, for tiny repositories."""

from typing import TYPE_CHECKING, Any

from tests.gguf.tiny_repositories.towers import (
    CLIP_MEAN,
    CLIP_STD,
    FEED_FORWARD,
    HALF,
    HEADS,
    HIDDEN,
    LAYERS,
    PATCH,
    TinyTower,
    siglip,
)

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

_LAYERS = 3
"""llama.cpp's converter knows `linear_2` only with so many."""


def _pixtral_encoder(weights: "Weights", prefix: str) -> None:
    weights.add(f"{prefix}patch_conv.weight", HIDDEN, 3, PATCH, PATCH)
    weights.norm(f"{prefix}ln_pre", HIDDEN)
    for layer in range(_LAYERS):
        name = f"{prefix}transformer.layers.{layer}."
        for part in "qkvo":
            weights.linear(f"{name}attention.{part}_proj", HIDDEN, HIDDEN)
        weights.norms(name, "attention_norm", "ffn_norm", size=HIDDEN)
        weights.linear(f"{name}feed_forward.gate_proj", FEED_FORWARD, HIDDEN)
        weights.linear(f"{name}feed_forward.up_proj", FEED_FORWARD, HIDDEN)
        weights.linear(f"{name}feed_forward.down_proj", HIDDEN, FEED_FORWARD)


def _merged(weights: "Weights", encoder: str, projector: str) -> None:
    weights.norm(f"{projector}norm", HIDDEN)
    weights.linear(f"{projector}patch_merger.merging_layer", HIDDEN, 4 * HIDDEN)
    weights.linear(f"{projector}linear_1", weights.text, HIDDEN)
    weights.linear(f"{projector}linear_2", weights.text, weights.text)
    _pixtral_encoder(weights, encoder)


_PIXTRAL: dict[str, Any] = {
    "attention_dropout": 0.0,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "image_size": 8 * PATCH,
    "initializer_range": 0.02,
    "intermediate_size": FEED_FORWARD,
    "model_type": "pixtral",
    "num_attention_heads": HEADS,
    "num_channels": 3,
    "num_hidden_layers": _LAYERS,
    "patch_size": PATCH,
    "rope_theta": 10000.0,
}
_CLIP = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
MISTRAL3_TOWER = TinyTower(
    lambda weights: _merged(weights, "vision_tower.", "multi_modal_projector."),
    _PIXTRAL,
    {
        "image_token_index": 10,
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
    },
    images={**_CLIP, "patch_size": PATCH, "size": {"longest_edge": 8 * PATCH}},
)


def _idefics3(weights: "Weights") -> None:
    weights.linear("model.connector.modality_projection.proj", weights.text, 4 * HIDDEN)
    siglip(weights, "model.vision_model.")


def idefics3_tower(image_token: int, model_type: str) -> TinyTower:
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "image_size": 8 * PATCH,
        "patch_size": PATCH,
        "max_image_size": {"longest_edge": 8 * PATCH},
        "size": {"longest_edge": 16 * PATCH},
        "model_type": model_type,
    }
    return TinyTower(
        _idefics3,
        vision,
        {"image_token_id": image_token, "scale_factor": 2},
        images={
            "image_mean": HALF,
            "image_std": HALF,
            "do_image_splitting": True,
            "max_image_size": {"longest_edge": 8 * PATCH},
            "size": {"longest_edge": 16 * PATCH},
        },
    )
