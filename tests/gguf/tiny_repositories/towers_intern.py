"""Encoders of images of InternVL, PaddleOCR, dots.ocr, LFM2-VL, Kimi-VL and Phi-4."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.gguf.tiny_repositories.towers import FEED_FORWARD, HALF, HEADS, HIDDEN, PATCH, TinyTower, clip_layers, siglip

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

_INTERNVL_LAYERS = 4
"""llama.cpp's converter does not find the matrix number 3 of the connector with fewer."""
_THREE_LAYERS = 3
"""The same for the connector's matrix number 2."""
_SIDE = 8
"""Patches on each side of a picture."""
_LARGE_SIDE, _LARGE_PATCH = 16, 16
"""The same for LFM2-VL, which makes smaller pictures larger."""
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


def _siglip2(weights: "Weights", prefix: str, side: int, patch: int, layers: int) -> None:
    weights.linear(f"{prefix}embeddings.patch_embedding", HIDDEN, 3 * patch**2, bias=True)
    weights.add(f"{prefix}embeddings.position_embedding.weight", side**2, HIDDEN)
    clip_layers(weights, prefix, layers=layers)


def _lfm2(weights: "Weights") -> None:
    encoder = "model.vision_tower.vision_model."
    _siglip2(weights, encoder, _LARGE_SIDE, _LARGE_PATCH, _THREE_LAYERS)
    weights.norm(f"{encoder}post_layernorm", HIDDEN, bias=True)
    connector = "model.multi_modal_projector."
    weights.norm(f"{connector}layer_norm", 4 * HIDDEN, bias=True)
    weights.linear(f"{connector}linear_1", FEED_FORWARD, 4 * HIDDEN, bias=True)
    weights.linear(f"{connector}linear_2", weights.text, FEED_FORWARD, bias=True)


_SIGLIP2 = {
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "model_type": "siglip2_vision_model",
    "num_channels": 3,
    "patch_size": _LARGE_PATCH,
}


def lfm2_tower(image_token: int) -> TinyTower:
    return TinyTower(
        _lfm2,
        {**_SIGLIP2, "num_hidden_layers": _THREE_LAYERS, "num_patches": _LARGE_SIDE**2, "vision_use_head": False},
        {
            "downsample_factor": 2,
            "image_token_id": image_token,
            "projector_bias": True,
            "projector_hidden_act": "gelu",
            "projector_hidden_size": FEED_FORWARD,
            "projector_use_layernorm": True,
            "vision_feature_layer": -1,
        },
        images={
            "image_mean": HALF,
            "image_std": HALF,
            "do_image_splitting": True,
            "max_image_tokens": 256,
            "min_image_tokens": 64,
            "max_num_patches": 1024,
            "max_pixels_tolerance": 2.0,
            "max_tiles": 10,
            "min_tiles": 2,
            "tile_size": 512,
            "use_thumbnail": True,
        },
    )


def _paddleocr(weights: "Weights") -> None:
    siglip(weights, "visual.vision_model.", _THREE_LAYERS)
    weights.norm("mlp_AR.pre_norm", HIDDEN, bias=True)
    weights.linear("mlp_AR.linear_1", 4 * HIDDEN, 4 * HIDDEN, bias=True)
    weights.linear("mlp_AR.linear_2", weights.text, 4 * HIDDEN, bias=True)


def paddleocr_tower(image_token: int, start: int, end: int) -> TinyTower:
    vision = {key: value for key, value in _SIGLIP2.items() if key not in ("model_type", "patch_size")}
    return TinyTower(
        _paddleocr,
        {
            **vision,
            "architectures": ["PaddleOCRVisionModel"],
            "model_type": "paddleocr_vl",
            "num_hidden_layers": _THREE_LAYERS,
            "image_size": _SIDE * PATCH,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
        },
        {"image_token_id": image_token, "vision_start_token_id": start, "vision_end_token_id": end},
        images={
            "image_mean": HALF,
            "image_std": HALF,
            "merge_size": 2,
            "min_pixels": 4 * (2 * PATCH) ** 2,
            "max_pixels": (_SIDE * PATCH) ** 2,
            "patch_size": PATCH,
            "temporal_patch_size": 1,
        },
    )
