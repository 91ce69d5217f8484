"""Falcon, in its new decoder architecture. Pure."""

from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import MergedQkv
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import always, count, number
from proxy.gguf.model_config import ModelConfig

_LAYER = "transformer.h.{}."


def _kv_heads(config: ModelConfig) -> int:
    return config.positive("num_kv_heads", "n_head_kv")


FALCON = Family(
    "falcon",
    {
        "transformer.word_embeddings": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _LAYER + "input_layernorm": "blk.{}.attn_norm",
        _LAYER + "ln_mlp": "blk.{}.attn_norm",
        _LAYER + "ln_attn": "blk.{}.attn_norm_2",
        _LAYER + "self_attention.query_key_value": MergedQkv("blk.{}.attn_qkv", _kv_heads, lambda config: config.heads),
        _LAYER + "self_attention.dense": "blk.{}.attn_output",
        _LAYER + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _LAYER + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    (
        always("context_length", Field.uint32(2048)),
        always("tensor_data_layout", Field.string("jploski")),
        count("embedding_length", "hidden_size", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("block_count", "num_hidden_layers", "n_layer", required=True),
        count("attention.head_count", "num_attention_heads", "n_head", required=True),
        lambda config: iter([("attention.head_count_kv", Field.uint32(_kv_heads(config)))]),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    ),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    optional_tensors=frozenset({"attn_norm_2"}),
    required_biases=frozenset({"output_norm", "attn_norm"}),
    optional_biases=frozenset({"attn_norm_2"}),
    # Only the new architecture has several K and V heads in transformers; the old one has one.
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
