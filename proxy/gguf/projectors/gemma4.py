"""Gemma 4: a vision transformer with RoPE over rows and columns, and a conformer for sounds. Pure.

The limits of a matrix are four numbers: what it gets and what it makes are cut to them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from proxy.gguf.families.common_tensors import same_shape
from proxy.gguf.families.rules import Named, Patches, Reshaped, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.projectors.common import TANH_GELU
from proxy.gguf.projectors.tower import AUDIO, AUDIO_KEYS, USE_GELU, VISION_KEYS, Tower, projector_type
from proxy.gguf.tensors import shown

_LIMITS = ("input_max", "input_min", "output_max", "output_min")
_NORM_EPSILON = 1e-6
_ROPE_BASE = 100.0
_LONGEST_SIDE = 840
"""Patches on one side of the longest picture: 280 tokens in a row of squares with 3 patches a side (clip.cpp)."""
_MEL_BINS = 128


def _limited(matrices: Mapping[str, str]) -> Mapping[str, Rule | str]:
    """The rules of matrices with limits, by the beginning of their names."""
    rules: dict[str, Rule | str] = {}
    for name, in_gguf in matrices.items():
        rules[f"{name}.linear"] = in_gguf
        for limit in _LIMITS:
            rules[f"{name}.{limit}"] = Reshaped(f"{in_gguf}.{limit}", lambda _config, _shape: (1,))
    return rules


def _absent_limits(config: ModelConfig, matrices: Iterable[str]) -> frozenset[str]:
    if config.flag("use_clipped_linears", default=False):
        return frozenset()
    return frozenset(f"{name}.{limit}" for name in matrices for limit in _LIMITS)


_LAYER = "model.vision_tower.encoder.layers.{}."
_VISION_MATRICES: Mapping[str, str] = {
    f"{_LAYER}self_attn.q_proj": "v.blk.{}.attn_q",
    f"{_LAYER}self_attn.k_proj": "v.blk.{}.attn_k",
    f"{_LAYER}self_attn.v_proj": "v.blk.{}.attn_v",
    f"{_LAYER}self_attn.o_proj": "v.blk.{}.attn_out",
    f"{_LAYER}mlp.gate_proj": "v.blk.{}.ffn_gate",
    f"{_LAYER}mlp.up_proj": "v.blk.{}.ffn_up",
    f"{_LAYER}mlp.down_proj": "v.blk.{}.ffn_down",
}
_STANDARD = ("v.std_bias", "v.std_scale")


def _positions(config: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    count = config.positive("position_embedding_size")
    if shape != (2, count, config.hidden) or count < _LONGEST_SIDE:
        raise CannotConvert(
            f"position_embedding_table has the shape {list(shape)}, not {[2, count, config.hidden]} with at least "
            f"{_LONGEST_SIDE} positions"
        )
    return shape


def _check_vision(config: ModelConfig) -> Pairs:
    heads, head_size = config.heads, config.positive("head_dim")
    if config.kv_heads != heads or head_size * heads != config.hidden or head_size % 4:
        raise CannotConvert(
            f"config.json has {heads} attention heads of {head_size}, and {config.kv_heads} of K and V, to see"
        )
    rope = config.rope
    if rope.get("rope_theta", _ROPE_BASE) != _ROPE_BASE or rope.get("rope_type", "axial") not in ("default", "axial"):
        raise CannotConvert(
            f"config.json has vision_config.rope_parameters = {shown(rope.fields)}, unknown for gemma4v"
        )
    if config.find("images.do_normalize") is False and config.find("images.image_mean") != [0, 0, 0]:
        raise CannotConvert("processor_config.json has an image_mean, and do_normalize = false")
    yield from ()


def _absent_vision(config: ModelConfig) -> frozenset[str]:
    standardized = config.flag("standardize", default=False)
    return _absent_limits(config, _VISION_MATRICES.values()) | frozenset(() if standardized else _STANDARD)


def _caveat(_config: ModelConfig) -> str:
    return (
        "the tokens of a picture attend to each other in both directions in all layers of llama.cpp, otherwise than in "
        "transformers"
    )


_VISION_TENSORS: Mapping[str, Rule | str] = {
    **_limited(_VISION_MATRICES),
    f"{_LAYER}self_attn.q_norm": "v.blk.{}.attn_q_norm",
    f"{_LAYER}self_attn.k_norm": "v.blk.{}.attn_k_norm",
    f"{_LAYER}input_layernorm": "v.blk.{}.ln1",
    f"{_LAYER}post_attention_layernorm": "v.blk.{}.attn_post_norm",
    f"{_LAYER}pre_feedforward_layernorm": "v.blk.{}.ln2",
    f"{_LAYER}post_feedforward_layernorm": "v.blk.{}.ffn_post_norm",
    "model.vision_tower.patch_embedder.input_proj": Patches(
        "v.patch_embd", lambda config: config.positive("patch_size")
    ),
    "model.vision_tower.patch_embedder.position_embedding_table": Reshaped("v.position_embd.weight", _positions),
    "model.vision_tower.std_bias": Named("v.std_bias"),
    "model.vision_tower.std_scale": Named("v.std_scale"),
    "model.embed_vision.embedding_projection": "mm.input_projection",
}

GEMMA4_VISION = Tower(
    "gemma4v",
    _VISION_TENSORS,
    (
        *VISION_KEYS,
        projector_type("gemma4v", "vision."),
        always("vision.attention.layer_norm_epsilon", Field.float32(_NORM_EPSILON)),
        # llama.cpp's converter leaves it out, and llama.cpp then computes another approximation than transformers.
        USE_GELU,
        _check_vision,
    ),
    prefixes=("model.vision_tower.", "model.embed_vision."),
    absent_tensors=_absent_vision,
    without_bias=frozenset(rule for rule in _VISION_TENSORS.values() if isinstance(rule, str)),
    # Those of transformers' Gemma4VisionConfig. The converter writes an image size that llama.cpp does not use.
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
        "image_size": 224,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 10240,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": _NORM_EPSILON,
        "attention_bias": False,
        "use_clipped_linears": False,
        "standardize": False,
    },
    accepted_values={
        "hidden_activation": TANH_GELU,
        "rms_norm_eps": (_NORM_EPSILON,),
        "pooling_kernel_size": (3,),
        "attention_bias": (False, None),
        "image_size": (224,),
    },
    harmless_keys=frozenset({"max_position_embeddings", "default_output_length", "global_head_dim"}),
    shapes={
        "blk.attn_q_norm.weight": "head",
        "blk.attn_k_norm.weight": "head",
        "blk.attn_post_norm.weight": "n_embd",
        "blk.ffn_post_norm.weight": "n_embd",
        "std_bias": "n_embd",
        "std_scale": "n_embd",
        "mm.input_projection.weight": "n_embd n_text",
    },
    caveat=_caveat,
)

_SOUND = "model.audio_tower.layers.{}."
_SUBSAMPLING = "model.audio_tower.subsample_conv_projection."
_AUDIO_MATRICES: Mapping[str, str] = {
    f"{_SOUND}feed_forward1.ffw_layer_1": "a.blk.{}.ffn_up",
    f"{_SOUND}feed_forward1.ffw_layer_2": "a.blk.{}.ffn_down",
    f"{_SOUND}feed_forward2.ffw_layer_1": "a.blk.{}.ffn_up_1",
    f"{_SOUND}feed_forward2.ffw_layer_2": "a.blk.{}.ffn_down_1",
    f"{_SOUND}self_attn.q_proj": "a.blk.{}.attn_q",
    f"{_SOUND}self_attn.k_proj": "a.blk.{}.attn_k",
    f"{_SOUND}self_attn.v_proj": "a.blk.{}.attn_v",
    f"{_SOUND}self_attn.post": "a.blk.{}.attn_out",
    f"{_SOUND}lconv1d.linear_start": "a.blk.{}.conv_pw1",
    f"{_SOUND}lconv1d.linear_end": "a.blk.{}.conv_pw2",
}
_FEATURES: Mapping[str, Any] = {
    "feature_size": _MEL_BINS,
    "sampling_rate": 16000,
    "frame_length": 320,
    "frame_length_ms": 20.0,
    "hop_length": 160,
    "hop_length_ms": 10.0,
    "fft_length": 512,
    "fft_overdrive": False,
    "min_frequency": 0.0,
    "max_frequency": 8000.0,
    "preemphasis": 0.0,
    "dither": 0.0,
    "input_scale_factor": 1.0,
    "mel_floor": 0.001,
    "per_bin_mean": None,
    "per_bin_stddev": None,
}
"""How llama.cpp turns a sound into numbers (mtmd-audio.cpp), by the names of transformers' feature extractor."""


def _check_audio(config: ModelConfig) -> Pairs:
    if config.hidden % config.heads:
        raise CannotConvert(
            f"config.json has {config.heads} attention heads for {config.hidden} numbers in audio_config"
        )
    extractor = config.find("images.feature_extractor")
    for key, value in (extractor if isinstance(extractor, dict) else {}).items():
        if key in _FEATURES and value != _FEATURES[key]:
            raise CannotConvert(f"processor_config.json has {key} = {shown(value)}, unknown for gemma4a")
    yield from ()


def _feed_forward(config: ModelConfig) -> Pairs:
    """Whatever `intermediate_size` says."""
    yield "audio.feed_forward_length", Field.uint32(4 * config.hidden)


def _channels(config: ModelConfig) -> tuple[int, int]:
    """Of the two convolutions before the first layer. Each halves the bins."""
    channels = config.find("subsampling_conv_channels")
    if not isinstance(channels, list) or len(channels) != 2 or any(type(one) is not int for one in channels):  # noqa: PLR2004
        raise CannotConvert(f"config.json has subsampling_conv_channels = {shown(channels)}, which are not two counts")
    return channels[0], channels[1]


def _first_kernels(config: ModelConfig) -> tuple[int, ...]:
    return (_channels(config)[0], 1, 3, 3)


def _second_kernels(config: ModelConfig) -> tuple[int, ...]:
    first, second = _channels(config)
    return (second, first, 3, 3)


def _input_projection(config: ModelConfig) -> tuple[int, ...]:
    return (config.hidden, _MEL_BINS // 4 * _channels(config)[1])


def _exactly(name: str, shape: Callable[[ModelConfig], tuple[int, ...]]) -> Reshaped:
    """A tensor that has this shape already."""

    def checked(config: ModelConfig, found: tuple[int, ...]) -> tuple[int, ...]:
        if found != (expected := shape(config)):
            raise CannotConvert(f"{name} is to have the shape {list(expected)} by config.json, and has {list(found)}")
        return found

    return Reshaped(name, checked)


def _absent_audio(config: ModelConfig) -> frozenset[str]:
    return _absent_limits(config, _AUDIO_MATRICES.values())


_AUDIO_TENSORS: Mapping[str, Rule | str] = {
    **_limited(_AUDIO_MATRICES),
    f"{_SOUND}feed_forward1.pre_layer_norm": "a.blk.{}.ffn_norm",
    f"{_SOUND}feed_forward1.post_layer_norm": "a.blk.{}.ffn_post_norm",
    f"{_SOUND}feed_forward2.pre_layer_norm": "a.blk.{}.ffn_norm_1",
    f"{_SOUND}feed_forward2.post_layer_norm": "a.blk.{}.ffn_post_norm_1",
    f"{_SOUND}norm_pre_attn": "a.blk.{}.attn_pre_norm",
    f"{_SOUND}norm_post_attn": "a.blk.{}.attn_post_norm",
    f"{_SOUND}norm_out": "a.blk.{}.ln2",
    f"{_SOUND}self_attn.relative_k_proj": "a.blk.{}.attn_k_rel",
    f"{_SOUND}self_attn.per_dim_scale": Reshaped("a.blk.{}.per_dim_scale.weight", same_shape, softplus=True),
    f"{_SOUND}lconv1d.depthwise_conv1d.weight": Reshaped(
        "a.blk.{}.conv_dw.weight", lambda _config, shape: (shape[0], shape[-1])
    ),
    f"{_SOUND}lconv1d.pre_layer_norm": "a.blk.{}.conv_norm",
    f"{_SOUND}lconv1d.conv_norm": "a.blk.{}.norm_conv",
    f"{_SUBSAMPLING}layer0.conv.weight": _exactly("a.conv1d.0.weight", _first_kernels),
    f"{_SUBSAMPLING}layer0.norm": "a.conv1d.0.norm",
    f"{_SUBSAMPLING}layer1.conv.weight": _exactly("a.conv1d.1.weight", _second_kernels),
    f"{_SUBSAMPLING}layer1.norm": "a.conv1d.1.norm",
    f"{_SUBSAMPLING}input_proj_linear.weight": _exactly("a.input_projection.weight", _input_projection),
    "model.audio_tower.output_proj": "a.pre_encode.out",
    "model.embed_audio.embedding_projection": "mm.a.input_projection",
}

GEMMA4_AUDIO = Tower(
    "gemma4a",
    _AUDIO_TENSORS,
    (
        *AUDIO_KEYS,
        _feed_forward,
        projector_type("gemma4a", "audio."),
        always("audio.attention.layer_norm_epsilon", Field.float32(_NORM_EPSILON)),
        _check_audio,
    ),
    section=AUDIO,
    prefixes=("model.audio_tower.", "model.embed_audio."),
    absent_tensors=_absent_audio,
    key_aliases={"input_feat_size": "num_mel_bins"},
    without_bias=frozenset(rule for rule in _AUDIO_TENSORS.values() if isinstance(rule, str)) - {"a.pre_encode.out"},
    # Those of transformers' Gemma4AudioConfig.
    defaults={
        "hidden_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "hidden_act": "silu",
        "intermediate_size": 4096,
        "subsampling_conv_channels": [128, 32],
        "num_mel_bins": _MEL_BINS,
        "conv_kernel_size": 5,
        "residual_weight": 0.5,
        "attention_chunk_size": 12,
        "attention_context_left": 13,
        "attention_context_right": 0,
        "attention_logit_cap": 50.0,
        "attention_invalid_logits_value": -1e9,
        "use_clipped_linears": True,
        "rms_norm_eps": _NORM_EPSILON,
        "gradient_clipping": 1e10,
    },
    accepted_values={
        "hidden_act": ("silu",),
        "num_mel_bins": (_MEL_BINS,),
        "conv_kernel_size": (5,),
        "residual_weight": (0.5,),
        "attention_chunk_size": (12,),
        "attention_context_left": (13,),
        "attention_context_right": (0,),
        "attention_logit_cap": (50.0,),
        "attention_invalid_logits_value": (-1e9,),
        "rms_norm_eps": (_NORM_EPSILON,),
        "gradient_clipping": (1e10,),
    },
    # The weights show it anyway.
    harmless_keys=frozenset({"output_proj_dims"}),
    f32=("a.conv1d.*.weight", "a.blk.*.conv_dw.weight", "a.input_projection.weight"),
    shapes={
        **dict.fromkeys(
            (f"blk.{name}.weight" for name in ("ffn_norm", "ffn_post_norm", "ffn_norm_1", "ffn_post_norm_1")), "n_embd"
        ),
        **dict.fromkeys((f"blk.{name}.weight" for name in ("attn_pre_norm", "conv_norm", "norm_conv")), "n_embd"),
        **dict.fromkeys(("conv1d.0.weight", "conv1d.1.weight"), ""),  # their rules know it
        "blk.attn_k_rel.weight": "n_embd n_embd",
        "blk.per_dim_scale.weight": "head",
        "blk.ffn_up_1.weight": "n_embd n_ff",
        "blk.ffn_down_1.weight": "n_ff n_embd",
        "blk.conv_pw1.weight": "n_embd 2n_embd",
        "blk.conv_pw2.weight": "n_embd n_embd",
        "blk.conv_dw.weight": "5 n_embd",
    },
)
