"""Older families with Q, K and V in one tensor, group by group of heads: GPT-NeoX, Falcon, Bloom. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import ModelConfig
from proxy.gguf.families.parts import UNTIED
from proxy.gguf.families.rules import Family, MergedQkv, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, flag, number, partial_rope_dimensions

_NEOX = "gpt_neox.layers.{}."

GPT_NEOX = Family(
    "gptneox",
    {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        _NEOX + "input_layernorm": "blk.{}.attn_norm",
        _NEOX + "post_attention_layernorm": "blk.{}.ffn_norm",
        _NEOX + "attention.query_key_value": MergedQkv(
            "blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads
        ),
        _NEOX + "attention.dense": "blk.{}.attn_output",
        _NEOX + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _NEOX + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("block_count", "num_hidden_layers", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        partial_rope_dimensions,
        count("attention.head_count", "num_attention_heads", required=True),
        flag("use_parallel_residual", "use_parallel_residual", default=True),
        number("attention.layer_norm_epsilon", "layer_norm_eps", required=True),
    ),
    defaults={"max_position_embeddings": 2048, "rotary_pct": 0.25, "layer_norm_eps": 1e-5},
    ropes=frozenset({"default"}),
    biases=frozenset({"output_norm", "attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}),
    only={**UNTIED, "attention_bias": (True, None), "hidden_act": ("gelu", None), "rope_theta": (10000, None)},
)

_FALCON = "transformer.h.{}."


def _falcon_groups(config: ModelConfig) -> int:
    return config.positive("num_kv_heads", "n_head_kv")


FALCON = Family(
    "falcon",
    {
        "transformer.word_embeddings": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _FALCON + "input_layernorm": "blk.{}.attn_norm",
        _FALCON + "ln_mlp": "blk.{}.attn_norm",
        _FALCON + "ln_attn": "blk.{}.attn_norm_2",
        _FALCON + "self_attention.query_key_value": MergedQkv(
            "blk.{}.attn_qkv", _falcon_groups, lambda config: config.heads
        ),
        _FALCON + "self_attention.dense": "blk.{}.attn_output",
        _FALCON + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _FALCON + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
    },
    (
        always("context_length", Field.uint32(2048)),
        always("tensor_data_layout", Field.string("jploski")),
        count("embedding_length", "hidden_size", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("block_count", "num_hidden_layers", "n_layer", required=True),
        count("attention.head_count", "num_attention_heads", "n_head", required=True),
        lambda config: iter([("attention.head_count_kv", Field.uint32(_falcon_groups(config)))]),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    ),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ropes=frozenset({"default"}),
    optional=frozenset({"attn_norm_2"}),
    biases=frozenset({"output_norm", "attn_norm"}),
    optional_biases=frozenset({"attn_norm_2"}),
    # transformers counts the heads of K and V for the new architecture only; the old one has a single K and V.
    only={
        "new_decoder_architecture": (True,),
        "alibi": (False, None),
        "rope_theta": (10000, None),
        "bias": (False, None),
        "activation": ("gelu", None),
        "parallel_attn": (True, None),
    },
    # What the weights show, what only the old architecture reads, and a context that nothing is made for.
    harmless=frozenset({"ffn_hidden_size", "num_ln_in_parallel_attn", "multi_query", "max_position_embeddings"}),
)

_BLOOM: Mapping[str, Rule | str] = {
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "ln_f": "output_norm",
    "h.{}.input_layernorm": "blk.{}.attn_norm",
    "h.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "h.{}.self_attention.query_key_value": MergedQkv(
        "blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads
    ),
    "h.{}.self_attention.dense": "blk.{}.attn_output",
    "h.{}.mlp.dense_h_to_4h": "blk.{}.ffn_up",
    "h.{}.mlp.dense_4h_to_h": "blk.{}.ffn_down",
}


def _bloom_sizes(config: ModelConfig) -> Pairs:
    yield "context_length", Field.uint32(config.optional_count("seq_length") or config.hidden)
    yield "embedding_length", Field.uint32(config.hidden)
    yield "feed_forward_length", Field.uint32(4 * config.hidden)
    yield "block_count", Field.uint32(config.blocks)
    yield "attention.head_count", Field.uint32(config.heads)
    yield "attention.head_count_kv", Field.uint32(config.heads)


BLOOM = Family(
    "bloom",
    {**_BLOOM, **{f"transformer.{name}": rule for name, rule in _BLOOM.items()}, "lm_head": "output"},
    (_bloom_sizes, number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ropes=frozenset({"default"}),
    biases=GPT_NEOX.biases | {"token_embd_norm"},
    only={"apply_residual_connection_post_layernorm": (False, None)},
)
