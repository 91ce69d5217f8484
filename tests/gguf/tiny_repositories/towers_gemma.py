"""The encoders of Gemma 4 and Llama 4."""

from typing import TYPE_CHECKING

import numpy as np

from tests.gguf.tiny_repositories.towers import FEED_FORWARD, HEADS, HIDDEN, LAYERS, PATCH, TinyTower

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

_PATCH, _POSITIONS, _OUTPUT = 16, 1024, 96
_CHANNELS = (128, 8)
"""Of the convolutions in front of the encoder of sounds; the first is always the number of bins."""


def _limited(weights: "Weights", name: str, rows: int, columns: int) -> None:
    """A matrix with limits, which cut some of the numbers."""
    weights.linear(f"{name}.linear", rows, columns)
    for limit, value in (("input_max", 1.5), ("input_min", -1.25), ("output_max", 0.75), ("output_min", -1.0)):
        weights.tensors[f"{name}.{limit}"] = np.array(value, np.float32)


def _gemma4_eyes(weights: "Weights") -> None:
    tower = "model.vision_tower."
    weights.linear(f"{tower}patch_embedder.input_proj", HIDDEN, 3 * _PATCH * _PATCH)
    weights.add(f"{tower}patch_embedder.position_embedding_table", 2, _POSITIONS, HIDDEN)
    for layer in range(LAYERS):
        name = f"{tower}encoder.layers.{layer}."
        for part in "qkvo":
            _limited(weights, f"{name}self_attn.{part}_proj", HIDDEN, HIDDEN)
        weights.norms(name, "self_attn.q_norm", "self_attn.k_norm", size=HIDDEN // HEADS)
        weights.norms(name, "input_layernorm", "post_attention_layernorm", size=HIDDEN)
        weights.norms(name, "pre_feedforward_layernorm", "post_feedforward_layernorm", size=HIDDEN)
        _limited(weights, f"{name}mlp.gate_proj", FEED_FORWARD, HIDDEN)
        _limited(weights, f"{name}mlp.up_proj", FEED_FORWARD, HIDDEN)
        _limited(weights, f"{name}mlp.down_proj", HIDDEN, FEED_FORWARD)
    weights.add(f"{tower}std_bias", HIDDEN)
    weights.norm(f"{tower}std_scale", HIDDEN)
    weights.tensors[f"{tower}std_scale"] = weights.tensors.pop(f"{tower}std_scale.weight")
    weights.linear("model.embed_vision.embedding_projection", weights.text, HIDDEN)


def _gemma4_ears(weights: "Weights") -> None:
    tower = "model.audio_tower."
    first, second = _CHANNELS
    for number, shape in enumerate(((first, 1, 3, 3), (second, first, 3, 3))):
        weights.add(f"{tower}subsample_conv_projection.layer{number}.conv.weight", *shape)
        weights.norm(f"{tower}subsample_conv_projection.layer{number}.norm", shape[0])
    weights.linear(f"{tower}subsample_conv_projection.input_proj_linear", HIDDEN, first // 4 * second)
    for layer in range(LAYERS):
        name = f"{tower}layers.{layer}."
        for part in ("feed_forward1", "feed_forward2"):
            _limited(weights, f"{name}{part}.ffw_layer_1", 4 * HIDDEN, HIDDEN)
            _limited(weights, f"{name}{part}.ffw_layer_2", HIDDEN, 4 * HIDDEN)
            weights.norms(name, f"{part}.pre_layer_norm", f"{part}.post_layer_norm", size=HIDDEN)
        for part in ("q_proj", "k_proj", "v_proj", "post"):
            _limited(weights, f"{name}self_attn.{part}", HIDDEN, HIDDEN)
        weights.linear(f"{name}self_attn.relative_k_proj", HIDDEN, HIDDEN)
        weights.add(f"{name}self_attn.per_dim_scale", HIDDEN // HEADS)
        _limited(weights, f"{name}lconv1d.linear_start", 2 * HIDDEN, HIDDEN)
        _limited(weights, f"{name}lconv1d.linear_end", HIDDEN, HIDDEN)
        weights.add(f"{name}lconv1d.depthwise_conv1d.weight", HIDDEN, 1, 5)
        weights.norms(name, "lconv1d.pre_layer_norm", "lconv1d.conv_norm", size=HIDDEN)
        weights.norms(name, "norm_pre_attn", "norm_post_attn", "norm_out", size=HIDDEN)
    weights.linear(f"{tower}output_proj", _OUTPUT, HIDDEN, bias=True)
    weights.linear("model.embed_audio.embedding_projection", weights.text, _OUTPUT)


GEMMA4_TOWERS = (
    TinyTower(
        _gemma4_eyes,
        {
            "model_type": "gemma4_vision",
            "attention_bias": False,
            "default_output_length": 280,
            "global_head_dim": HIDDEN // HEADS,
            "head_dim": HIDDEN // HEADS,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "max_position_embeddings": 131072,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS,
            "patch_size": _PATCH,
            "pooling_kernel_size": 3,
            "position_embedding_size": _POSITIONS,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
            "standardize": True,
            "use_clipped_linears": True,
        },
        {"image_token_id": 70, "boi_token_id": 71, "eoi_token_id": 72, "video_token_id": 73},
        images={"do_normalize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3},
    ),
    TinyTower(
        _gemma4_ears,
        {
            "model_type": "gemma4_audio",
            "attention_chunk_size": 12,
            "attention_context_left": 13,
            "attention_context_right": 0,
            "attention_invalid_logits_value": -1e9,
            "attention_logit_cap": 50.0,
            "conv_kernel_size": 5,
            "gradient_clipping": 1e10,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "output_proj_dims": _OUTPUT,
            "residual_weight": 0.5,
            "rms_norm_eps": 1e-6,
            "subsampling_conv_channels": list(_CHANNELS),
            "use_clipped_linears": True,
        },
        {"audio_token_id": 74, "boa_token_id": 75, "eoa_token_index": 76},
        name="audio_config",
        images={},
    ),
)


_SIDE, _SHUFFLED, _BLOCKS = 8, 2, 3
"""llama.cpp's converter knows `mlp.fc2` only beside at least three layers."""


def _llama4_eyes(weights: "Weights") -> None:
    tower, inside = "vision_model.", HIDDEN * _SHUFFLED * _SHUFFLED
    weights.add(f"{tower}class_embedding", HIDDEN)
    weights.add(f"{tower}positional_embedding_vlm", _SIDE * _SIDE + 1, HIDDEN)
    weights.linear(f"{tower}patch_embedding.linear", HIDDEN, 3 * PATCH * PATCH)
    for layer in range(_BLOCKS):
        name = f"{tower}model.layers.{layer}."
        for part in "qkvo":
            weights.linear(f"{name}self_attn.{part}_proj", HIDDEN, HIDDEN, bias=True)
        weights.norms(name, size=HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc1", inside, HIDDEN, bias=True)
        weights.linear(f"{name}mlp.fc2", HIDDEN, inside, bias=True)
    weights.norms(tower, "layernorm_pre", "layernorm_post", size=HIDDEN, bias=True)
    weights.linear(f"{tower}vision_adapter.mlp.fc1", _OUTPUT, inside)
    weights.linear(f"{tower}vision_adapter.mlp.fc2", _OUTPUT, _OUTPUT)
    weights.linear("multi_modal_projector.linear_1", weights.text, _OUTPUT)
    for name in ("vision_adapter.mlp.fc1", "vision_adapter.mlp.fc2"):
        weights.tensors[f"{tower}{name}.weight"] *= np.float32(8)


LLAMA4_TOWER = TinyTower(
    _llama4_eyes,
    {
        "model_type": "llama4_vision_model",
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "image_size": _SIDE * PATCH,
        "initializer_range": 0.02,
        "intermediate_size": HIDDEN * _SHUFFLED * _SHUFFLED,
        "multi_modal_projector_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": HEADS,
        "num_channels": 3,
        "num_hidden_layers": _BLOCKS,
        "patch_size": PATCH,
        "pixel_shuffle_ratio": 1 / _SHUFFLED,
        "projector_dropout": 0.0,
        "projector_input_dim": _OUTPUT,
        "projector_output_dim": _OUTPUT,
        "rope_theta": 10000,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vision_output_dim": _OUTPUT,
    },
    {"boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7},
)
