"""The OLMo models, and EXAONE 4, which has its norms where OLMo 2 has them. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    FUSED_EXPERTS,
    HEAD_NORMS,
    LLAMA_ROPES,
    MLP,
    NORMS,
    POST_NORMS,
    ROUTED,
    TURNED,
    UNTIED,
    sliding_layers,
    two_ropes,
)
from proxy.gguf.families.rules import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, always, llama3_frequencies, number

OLMO = Family(
    "olmo",
    # Its norms have no weights.
    {**TURNED, **MLP, "model.embed_tokens": "token_embd", "lm_head": "output"},
    (*BASIC, always("attention.layer_norm_epsilon", Field.float32(1e-5)), number("attention.clamp_kqv", "clip_qkv")),
    defaults={"max_position_embeddings": 2048, "rope_theta": 10000.0},
    flags=ATTENTION_BIAS,
    only=ANY_SILU,
)

_OLMO2_TENSORS = {**ENDS, **ATTENTION, **HEAD_NORMS, **MLP, **POST_NORMS}

OLMO2 = Family(
    "olmo2",
    _OLMO2_TENSORS,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    flags=ATTENTION_BIAS,
    only={**ANY_SILU, **UNTIED},
)


def _one_base(config: ModelConfig) -> Pairs:
    """llama.cpp takes one for all layers, and scales it in those that see all."""
    given = config.find("rope_scaling") or config.find("rope_parameters") or {}
    if "full_attention" not in given:
        return
    bases = dict(two_ropes(config))
    if bases["rope.freq_base"] != bases["rope.freq_base_swa"]:
        raise CannotConvert("config.json has another rope_theta for sliding_attention, which llama.cpp does not know")
    yield from bases.items()


OLMO3 = Family(
    "olmo2",
    _OLMO2_TENSORS,
    (*BASIC, sliding_layers, _one_base),
    defaults={**OLMO2.defaults, "rope_theta": 500000.0, "sliding_window": 4096, "sliding_window_pattern": 4},
    flags=ATTENTION_BIAS,
    only={**ANY_SILU, **UNTIED},
    local_rope=True,
)


def _no_groups(config: ModelConfig) -> Pairs:
    """llama.cpp takes the norm of K to be as wide as the embedding."""
    if config.kv_heads != config.heads:
        raise CannotConvert(
            f"config.json has num_key_value_heads = {config.kv_heads} and num_attention_heads = {config.heads}, "
            "which llama.cpp takes to be alike for this architecture"
        )
    yield from ()


OLMOE = Family(
    "olmoe",
    {**ENDS, **NORMS, **ATTENTION, **HEAD_NORMS, **ROUTED, **FUSED_EXPERTS},
    (*BASIC, _no_groups),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    flags=ATTENTION_BIAS,
    only={**ANY_SILU, **UNTIED, "norm_topk_prob": (False, None), "clip_qkv": (None,)},
)


def _exaone_frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    made = llama3_frequencies(config, default_factor=16.0)
    return {} if made is None else {"rope_freqs.weight": made}


_WINDOWED_BLOCKS = 64
"""By its number of layers llama.cpp knows the EXAONE 4 that has windows."""


def _windows_by_layers(config: ModelConfig) -> Pairs:
    """Beside windows, a layer that sees all has no rope."""
    window = config.optional_count("sliding_window")
    if (window is not None) is not (config.blocks == _WINDOWED_BLOCKS):
        raise CannotConvert(
            f"config.json has sliding_window = {window} and {config.blocks} layers; llama.cpp has windows with "
            f"{_WINDOWED_BLOCKS} layers, and only then"
        )
    yield from ()


EXAONE4 = Family(
    "exaone4",
    _OLMO2_TENSORS,
    (*BASIC, VOCABULARY_SIZE, sliding_layers, _windows_by_layers),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    made=_exaone_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=frozenset(),
    # Where no layer_types are told, for which it stands.
    harmless=frozenset({"sliding_window_pattern"}),
    only=ANY_SILU,
)
