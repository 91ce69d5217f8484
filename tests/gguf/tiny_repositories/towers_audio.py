"""Encoders of sounds for tiny repositories."""

from typing import TYPE_CHECKING, Any

from tests.gguf.tiny_repositories.towers import FEED_FORWARD, HEADS, HIDDEN, TinyTower

if TYPE_CHECKING:
    from tests.gguf.tiny_repositories.repository import Weights

LAYERS = 3
"""llama.cpp's converter maps the second convolution only for encoders with at least three layers."""
MEL = 128
POSITIONS = 1500
WHISPER_SOUNDS: dict[str, Any] = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": MEL,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def _whisper(weights: "Weights", hidden: int = HIDDEN, feed_forward: int = FEED_FORWARD, strength: float = 4.0) -> None:
    """`strength` multiplies the kernels, or the sound would be lost in the positions."""
    tower = "audio_tower."
    for name, inputs in (("conv1", MEL), ("conv2", hidden)):
        weights.add(f"{tower}{name}.weight", hidden, inputs, 3)
        weights.tensors[f"{tower}{name}.weight"] *= strength
        weights.add(f"{tower}{name}.bias", hidden)
    weights.add(f"{tower}embed_positions.weight", POSITIONS, hidden)
    for layer in range(LAYERS):
        name = f"{tower}layers.{layer}."
        for part in "qkvo":
            end = "out_proj" if part == "o" else f"{part}_proj"
            weights.linear(f"{name}self_attn.{end}", hidden, hidden, bias=part != "k")
        weights.norms(name, "self_attn_layer_norm", "final_layer_norm", size=hidden, bias=True)
        weights.linear(f"{name}fc1", feed_forward, hidden, bias=True)
        weights.linear(f"{name}fc2", hidden, feed_forward, bias=True)
    weights.norm(f"{tower}layer_norm", hidden, bias=True)


def _qwen2_audio(weights: "Weights") -> None:
    _whisper(weights)
    weights.linear("multi_modal_projector.linear", weights.text, HIDDEN, bias=True)


QWEN2_AUDIO_TOWER = TinyTower(
    _qwen2_audio,
    {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": MEL,
        "encoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": FEED_FORWARD,
        "encoder_layerdrop": 0.0,
        "d_model": HIDDEN,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_function": "gelu",
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "init_std": 0.02,
        "max_source_positions": POSITIONS,
    },
    {"audio_token_index": 6, "ignore_index": -100},
    name="audio_config",
    images=WHISPER_SOUNDS,
)


_WIDE = 80
"""llama.cpp stacks as many frames as it announces only for sizes like Whisper's, which are no powers of two."""


def _voxtral(weights: "Weights") -> None:
    _whisper(weights, _WIDE, 4 * _WIDE)
    weights.linear("multi_modal_projector.linear_1", weights.text, 4 * _WIDE)
    weights.linear("multi_modal_projector.linear_2", weights.text, weights.text)


VOXTRAL_TOWER = TinyTower(
    _voxtral,
    {
        "model_type": "voxtral_encoder",
        "vocab_size": 51866,
        "num_mel_bins": MEL,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 5,
        "intermediate_size": 4 * _WIDE,
        "layerdrop": 0.0,
        "hidden_size": _WIDE,
        "head_dim": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_function": "gelu",
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "initializer_range": 0.02,
        "max_source_positions": POSITIONS,
        "num_key_value_heads": 5,
    },
    {"audio_token_id": 6, "projector_hidden_act": "gelu", "hidden_size": 256, "vocab_size": 51866},
    name="audio_config",
    images=WHISPER_SOUNDS,
)
