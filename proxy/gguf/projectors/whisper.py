"""The encoder of Whisper with the connectors of Qwen2-Audio and Voxtral. Pure.

llama.cpp computes the mel spectrogram itself (tools/mtmd/mtmd-audio.cpp), of 30 seconds at a time.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.gguf.families.rules import Named, Reshaped, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, Writer, always
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.tower import AUDIO, AUDIO_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_TOWER, _CONNECTOR = "audio_tower.", "multi_modal_projector."
_POSITIONS = 1500
_SPECTROGRAM: Mapping[str, object] = {
    "sampling_rate": 16000,
    "n_fft": 400,
    "hop_length": 160,
    "chunk_length": 30,
    "padding_value": 0.0,
    "dither": 0.0,
}
"""transformers' defaults, and the only values that llama.cpp has."""


def whisper_spectrogram(config: ModelConfig) -> Pairs:
    """Raises CannotConvert if preprocessor_config.json asks for another spectrogram than that of Whisper."""
    for key, value in {**_SPECTROGRAM, "feature_size": config.find("num_mel_bins")}.items():
        found = config.find(f"images.{key}")
        if found is not None and found != value:
            raise CannotConvert(
                f"preprocessor_config.json has {key} = {shown(found)}, and llama.cpp computes the spectrogram "
                f"with {shown(value)}"
            )
    yield from ()


def _column(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1)


def with_bias(source: str, name: str) -> Iterator[tuple[str, Rule]]:
    """llama.cpp demands both."""
    for end in ("weight", "bias"):
        yield f"{source}.{end}", Named(f"{name}.{end}")


def whisper_layers(layer: str) -> Mapping[str, Rule]:
    """`layer` is how the names of a layer's tensors begin."""
    return dict(
        pair
        for source, name in (
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.out_proj", "attn_out"),
            ("self_attn_layer_norm", "ln1"),
            ("final_layer_norm", "ln2"),
            ("fc1", "ffn_up"),
            ("fc2", "ffn_down"),
        )
        for pair in with_bias(layer + source, "a.blk.{}." + name)
    )


_LAYER = _TOWER + "layers.{}."
_ENCODER: Mapping[str, Rule | str] = {
    **whisper_layers(_LAYER),
    # llama.cpp ends with an assertion if K has a bias.
    _LAYER + "self_attn.k_proj.weight": Named("a.blk.{}.attn_k.weight"),
    _TOWER + "conv1.weight": Named("a.conv1d.1.weight"),
    _TOWER + "conv1.bias": Reshaped("a.conv1d.1.bias", _column),
    _TOWER + "conv2.weight": Named("a.conv1d.2.weight"),
    _TOWER + "conv2.bias": Reshaped("a.conv1d.2.bias", _column),
    _TOWER + "embed_positions.weight": Named("a.position_embd.weight"),
    **dict(with_bias(_TOWER + "layer_norm", "a.post_ln")),
}
LAYER_NORM_EPSILON: Writer = always("audio.attention.layer_norm_epsilon", Field.float32(1e-5))
"""PyTorch's default, which transformers uses whatever config.json says."""
WHISPER_KEYS = {
    "d_model": "hidden_size",
    "encoder_ffn_dim": "intermediate_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}
_ACCEPTED_VALUES: Mapping[str, tuple[object, ...]] = {
    "activation_function": ("gelu",),
    "max_source_positions": (_POSITIONS,),
    "layer_norm_eps": (None, 1e-5),
}
_HARMLESS = frozenset({"scale_embedding", "encoder_layerdrop", "layerdrop", "dropout", "vocab_size"})
"""transformers computes a factor by `scale_embedding` and does not use it."""
_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "num_mel_bins": 128,
    "max_source_positions": _POSITIONS,
    "activation_function": "gelu",
}
"""Those of transformers' Qwen2AudioEncoderConfig and VoxtralEncoderConfig."""
_PREFIXES = {"model." + prefix: prefix for prefix in (_TOWER, _CONNECTOR)}
"""transformers 5.24 writes names with `model.`."""
_SHAPES = {"position_embd.weight": f"n_embd {_POSITIONS}"}


def _silence(_: ModelConfig) -> str:
    return (
        "llama.cpp gives the model each sound with silence up to 30 seconds; transformers leaves the silence out, so "
        "that answers about shorter sounds differ"
    )


QWEN2_AUDIO = Tower(
    "qwen2a",
    {**_ENCODER, **dict(with_bias(_CONNECTOR + "linear", "mm.a.fc"))},
    (*AUDIO_KEYS, projector_type("qwen2a"), LAYER_NORM_EPSILON, whisper_spectrogram),
    section=AUDIO,
    prefixes=(_TOWER, _CONNECTOR),
    prefix_aliases=_PREFIXES,
    # Qwen's own config.json leaves out hidden_size of the text model.
    defaults={**_DEFAULTS, "text.hidden_size": 4096},
    key_aliases=WHISPER_KEYS,
    accepted_values=_ACCEPTED_VALUES,
    harmless_keys=_HARMLESS,
    f16=("a.conv1d.*.weight",),
    shapes={**_SHAPES, "mm.a.fc.weight": "n_embd n_text", "mm.a.fc.bias": "n_text"},
    caveat=_silence,
)

_STACKED = 4


def _stack(config: ModelConfig) -> Pairs:
    """llama.cpp's converter writes 4; transformers stacks as many frames as fill `intermediate_size`."""
    if config.positive("intermediate_size") != _STACKED * config.positive("hidden_size"):
        raise CannotConvert(
            f"config.json has intermediate_size = {config.positive('intermediate_size')}, and llama.cpp stacks "
            f"{_STACKED} frames of {config.positive('hidden_size')} numbers"
        )
    yield "audio.projector.stack_factor", Field.uint32(_STACKED)


def _connector(config: ModelConfig) -> Pairs:
    """llama.cpp computes GELU exactly."""
    if (activation := config.find("model.projector_hidden_act")) != "gelu":
        raise CannotConvert(f"config.json has projector_hidden_act = {shown(activation)}, unknown for voxtral")
    yield from ()


def _blur(_: ModelConfig) -> str:
    return (
        "llama.cpp averages each two frames of a sound before it stacks them for the connector, which transformers "
        "does not: the model hears half as many frames, and answers differ"
    )


VOXTRAL = Tower(
    "voxtral",
    {
        **_ENCODER,
        _CONNECTOR + "linear_1.weight": Named("mm.a.mlp.1.weight"),
        _CONNECTOR + "linear_2.weight": Named("mm.a.mlp.2.weight"),
    },
    (*AUDIO_KEYS, projector_type("voxtral"), LAYER_NORM_EPSILON, _stack, _connector, whisper_spectrogram),
    section=AUDIO,
    prefixes=(_TOWER, _CONNECTOR),
    prefix_aliases=_PREFIXES,
    defaults={**_DEFAULTS, "text.hidden_size": 3072, "model.projector_hidden_act": "gelu"},
    key_aliases=WHISPER_KEYS,
    accepted_values=_ACCEPTED_VALUES,
    harmless_keys=_HARMLESS,
    f16=("a.conv1d.*.weight",),
    shapes={**_SHAPES, "mm.a.mlp.1.weight": "n_ff n_text", "mm.a.mlp.2.weight": "n_text n_text"},
    caveat=_blur,
)
