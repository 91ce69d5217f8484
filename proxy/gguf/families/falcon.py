"""Falcon, with the decoders of 7B and of 40B, and under its first name RefinedWeb. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import MergedQkv, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import always, count, number
from proxy.gguf.model_config import ModelConfig

_LAYER = "transformer.h.{}."


def _kv_heads(config: ModelConfig) -> int:
    return config.positive("num_kv_heads", "n_head_kv")


def _one_kv_head(_: ModelConfig) -> int:
    return 1


_COMMON: Mapping[str, Rule | str] = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    _LAYER + "input_layernorm": "blk.{}.attn_norm",
    _LAYER + "self_attention.dense": "blk.{}.attn_output",
    _LAYER + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
    _LAYER + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
}
_QKV, _TARGET = _LAYER + "self_attention.query_key_value", "blk.{}.attn_qkv"

_KEYS = (
    always("context_length", Field.uint32(2048)),
    always("tensor_data_layout", Field.string("jploski")),
    count("embedding_length", "hidden_size", required=True),
    lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
    count("block_count", "num_hidden_layers", "n_layer", required=True),
    count("attention.head_count", "num_attention_heads", "n_head", required=True),
    number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
)

_NEW = Family(
    "falcon",
    {
        **_COMMON,
        _LAYER + "ln_mlp": "blk.{}.attn_norm",
        _LAYER + "ln_attn": "blk.{}.attn_norm_2",
        _QKV: MergedQkv(_TARGET, _kv_heads, lambda config: config.heads),
    },
    (*_KEYS, lambda config: iter([("attention.head_count_kv", Field.uint32(_kv_heads(config)))])),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    optional_tensors=frozenset({"attn_norm_2"}),
    required_biases=frozenset({"output_norm", "attn_norm"}),
    optional_biases=frozenset({"attn_norm_2"}),
    accepted_values={
        "new_decoder_architecture": (True,),
        "alibi": (False, None),
        "rope_theta": (10000, None),
        "bias": (False, None),
        "activation": ("gelu", None),
        "parallel_attn": (True, None),
    },
    # What the weights show anyway, what only the old architecture reads, and a context length that nothing uses.
    harmless_keys=frozenset({"ffn_hidden_size", "num_ln_in_parallel_attn", "multi_query", "max_position_embeddings"}),
    heads_fill_embedding=True,
)
"""The decoder of 40B, 180B and Falcon 2."""

_OLD = replace(
    _NEW,
    tensors={**_COMMON, _QKV: MergedQkv(_TARGET, _one_kv_head, lambda config: config.heads)},
    hyperparameters=(*_KEYS, always("attention.head_count_kv", Field.uint32(1))),
    # Without `multi_query` each head would have its own K and V, in an order that llama.cpp's converter does not know.
    accepted_values={
        **_NEW.accepted_values,
        "new_decoder_architecture": (False, None),
        "multi_query": (True, None),
    },
    # transformers reads the number of heads of K and V only for the other decoder; some files of 7B have 71.
    harmless_keys=_NEW.harmless_keys | {"num_kv_heads"},
)
"""The decoder of 7B."""

FALCON = replace(_NEW, variant=lambda config: _NEW if config.find("new_decoder_architecture") else _OLD)

_OWN_CODE_VALUES: Mapping[str, tuple[object, ...]] = {
    "parallel_attn": (True,),
    "apply_residual_connection_post_layernorm": (False, None),
}
_REFINED_WEB_NEW = replace(
    _NEW,
    has_transformers_class=False,
    accepted_values={**_NEW.accepted_values, **_OWN_CODE_VALUES, "new_decoder_architecture": (True, None)},
)
_REFINED_WEB_OLD = replace(
    _OLD,
    has_transformers_class=False,
    accepted_values={**_OLD.accepted_values, **_OWN_CODE_VALUES, "multi_query": (True,)},
)

REFINED_WEB = replace(
    _REFINED_WEB_NEW,
    # Only 40B's configuration class has the key.
    variant=lambda config: _REFINED_WEB_OLD if config.find("n_head_kv") is None else _REFINED_WEB_NEW,
)
