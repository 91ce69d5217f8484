"""NVIDIA's Llama Nemotron Super and Ultra, whose layers differ from each other. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.gguf.families.common_keys import ANY_SILU, check_head_size, head_dim, rope_frequencies
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, MLP, NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import PermutedHeads, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import VOCABULARY_SIZE, Pairs, count, number, rope_base, rope_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite
from proxy.gguf.tensors import shown

_MULTIPLE = 256
_OF_ATTENTION = stems_of(ATTENTION) | {"attn_norm"}
_OF_FEED_FORWARD = stems_of(MLP) | {"ffn_norm"}


class _Layer(NamedTuple):
    """The sizes of a layer; 0 for what it does not have."""

    heads: int
    kv_heads: int
    feed_forward: int


def _layers(config: ModelConfig) -> list[_Layer]:
    """Raises CannotConvert for a layer that llama.cpp does not compute."""
    blocks = config.find("block_configs")
    if not isinstance(blocks, list) or len(blocks) != config.blocks:
        raise CannotConvert(f"config.json has no block_configs for {config.blocks} layers")
    layers = [_layer(config, block) for block in blocks]
    # llama.cpp drops the attention of a layer without a feed-forward, and fails if such a layer is the last one.
    for at, layer in enumerate(layers):
        if not layer.feed_forward and (layer.heads or at == config.blocks - 1):
            raise CannotConvert(
                f"config.json has block_configs without an ffn in layer {at}, where llama.cpp needs one"
            )
    return layers


def _layer(config: ModelConfig, block: object) -> _Layer:
    attention, ffn = _part(block, "attention", "n_heads_in_group"), _part(block, "ffn", "ffn_mult")
    if attention is None:
        heads = kv_heads = 0
    else:
        heads = config.heads
        if type(attention) is not int or attention <= 0 or heads % attention:
            raise CannotConvert(f"config.json has block_configs with n_heads_in_group = {shown(attention)}")
        kv_heads = heads // attention
    size = 0 if ffn is None else int(2 * finite("config.json has ffn_mult", ffn) * config.hidden / 3)
    return _Layer(heads, kv_heads, -(-size // _MULTIPLE) * _MULTIPLE)


def _part(block: object, name: str, key: str) -> Any:
    """The number of a part of a layer; None if the layer does not have the part."""
    part = block.get(name) if isinstance(block, dict) else None
    if not isinstance(part, dict) or key not in part:
        raise CannotConvert(f"config.json has block_configs without {name}.{key}")
    others = {other: value for other, value in part.items() if value and other not in (key, "no_op")}
    if others or part.get("no_op", False) is not (part[key] is None):
        raise CannotConvert(f"config.json has block_configs with {name} = {shown(part)}, which llama.cpp does not run")
    return part[key]


def _write_layers(config: ModelConfig) -> Pairs:
    heads, kv_heads, feed_forwards = zip(*_layers(config), strict=True)
    yield "attention.head_count", Field.array(ValueType.INT32, heads)
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "feed_forward_length", Field.array(ValueType.INT32, feed_forwards)


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    sizes = _layers(config)[layer]
    absent = (frozenset() if sizes.heads else _OF_ATTENTION) | (frozenset() if sizes.feed_forward else _OF_FEED_FORWARD)
    return dict.fromkeys(absent, False)


DECI = Family(
    "deci",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **MLP,
        LAYER + "self_attn.q_proj": PermutedHeads("blk.{}.attn_q", lambda config: config.head_size),
        LAYER + "self_attn.k_proj": PermutedHeads("blk.{}.attn_k", lambda config: config.head_size),
    },
    (
        count("block_count", "num_hidden_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        _write_layers,
        rope_base,
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        head_dim,
        VOCABULARY_SIZE,
        rope_dimensions,
        check_head_size,
    ),
    computed_tensors=rope_frequencies,
    rope_types=frozenset({"default", "llama3"}),
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "intermediate_size": (None,),
        "num_key_value_heads": (None,),
    },
    absent_tensors=_absent_tensors,
    has_transformers_class=False,
)
