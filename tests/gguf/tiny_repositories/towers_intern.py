"""Encoders of images of InternVL, PaddleOCR, dots.ocr, LFM2-VL, Kimi-VL and Phi-4."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.gguf.tiny_repositories.towers import FEED_FORWARD, HEADS, HIDDEN, PATCH, TinyTower

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

_INTERNVL_LAYERS = 4
"""llama.cpp's converter does not find the matrix number 3 of the connector with fewer."""
_SIDE = 8
"""Patches on each side of a picture."""
_IMAGENET: Mapping[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _internvl(weights: "Weights") -> None:
    encoder = "model.vision_tower."
    weights.add(f"{encoder}embeddings.cls_token", 1, 1, HIDDEN)
    weights.add(f"{encoder}embeddings.position_embeddings", 1, _SIDE**2 + 1, HIDDEN)
    weights.add(f"{encoder}embeddings.patch_embeddings.projection.weight", HIDDEN, 3, PATCH, PATCH)
    weights.add(f"{encoder}embeddings.patch_embeddings.projection.bias", HIDDEN)
    for layer in range(_INTERNVL_LAYERS):
        name = f"{encoder}encoder.layer.{layer}."
        weights.add(f"{name}lambda_1", HIDDEN)
        weights.add(f"{name}lambda_2", HIDDEN)
        for part in ("q_proj", "k_proj", "v_proj", "projection_layer"):
            weights.linear(f"{name}attention.{part}", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc1", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc2", HIDDEN, FEED_FORWARD, bias=True)
        weights.norms(name, "layernorm_before", "layernorm_after", size=HIDDEN, bias=True)
    _scale(weights, f"{encoder}encoder.", "lambda_")
    connector = "model.multi_modal_projector."
    weights.norm(f"{connector}layer_norm", 4 * HIDDEN, bias=True)
    weights.linear(f"{connector}linear_1", weights.text, 4 * HIDDEN, bias=True)
    weights.linear(f"{connector}linear_2", weights.text, weights.text, bias=True)


def _internvl_chat(weights: "Weights") -> None:
    encoder = "vision_model."
    weights.add(f"{encoder}embeddings.class_embedding", 1, 1, HIDDEN)
    weights.add(f"{encoder}embeddings.position_embedding", 1, _SIDE**2 + 1, HIDDEN)
    weights.add(f"{encoder}embeddings.patch_embedding.weight", HIDDEN, 3, PATCH, PATCH)
    weights.add(f"{encoder}embeddings.patch_embedding.bias", HIDDEN)
    for layer in range(_INTERNVL_LAYERS):
        name = f"{encoder}encoder.layers.{layer}."
        weights.add(f"{name}ls1", HIDDEN)
        weights.add(f"{name}ls2", HIDDEN)
        weights.linear(f"{name}attn.qkv", 3 * HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{name}attn.proj", HIDDEN, HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc1", FEED_FORWARD, HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc2", HIDDEN, FEED_FORWARD, bias=True)
        weights.norms(name, "norm1", "norm2", size=HIDDEN, bias=True)
    _scale(weights, f"{encoder}encoder.", ".ls")
    weights.norm("mlp1.0", 4 * HIDDEN, bias=True)
    weights.linear("mlp1.1", weights.text, 4 * HIDDEN, bias=True)
    weights.linear("mlp1.3", weights.text, weights.text, bias=True)


def _scale(weights: "Weights", prefix: str, part: str) -> None:
    """Makes the factors of a layer's results near 1, so that the layers count."""
    for name in weights.tensors:
        if name.startswith(prefix) and part in name:
            weights.tensors[name] = 1 + weights.tensors[name]


_INTERNVL_OUTER = {
    "downsample_ratio": 0.5,
    "image_token_id": 0,
    "image_seq_length": _SIDE**2 // 4,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
_VIT = {
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": HEADS,
    "num_hidden_layers": _INTERNVL_LAYERS,
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "architectures": ["InternVisionModel"],
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
    "torch_dtype": "bfloat16",
}


def internvl_tower(image_token: int) -> TinyTower:
    return TinyTower(
        _internvl,
        {
            **_VIT,
            "model_type": "internvl_vision",
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_dropout_prob": 0.0,
            "image_size": [_SIDE * PATCH] * 2,
            "layer_scale_init_value": 0.1,
            "num_channels": 3,
            "patch_size": [PATCH] * 2,
            "projection_dropout": 0.0,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        {**_INTERNVL_OUTER, "image_token_id": image_token},
        images={**_IMAGENET, "size": {"height": _SIDE * PATCH, "width": _SIDE * PATCH}},
    )


INTERNVL_CHAT_TOWER = TinyTower(
    _internvl_chat,
    {
        **_VIT,
        "model_type": "intern_vit_6b",
        "attention_dropout": 0.0,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "image_size": _SIDE * PATCH,
        "patch_size": PATCH,
        "qk_normalization": False,
        "qkv_bias": True,
        "use_flash_attn": True,
    },
    {
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": _SIDE * PATCH,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
    },
    images=_IMAGENET,
)
