"""BLOOM. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.family import Family
from proxy.gguf.families.gpt_neox import GPT_NEOX
from proxy.gguf.families.rules import MergedQkv, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, number
from proxy.gguf.model_config import ModelConfig

_TENSORS: Mapping[str, Rule | str] = {
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


def _sizes(config: ModelConfig) -> Pairs:
    yield "context_length", Field.uint32(config.optional_count("seq_length") or config.hidden)
    yield "embedding_length", Field.uint32(config.hidden)
    yield "feed_forward_length", Field.uint32(4 * config.hidden)
    yield "block_count", Field.uint32(config.blocks)
    yield "attention.head_count", Field.uint32(config.heads)
    yield "attention.head_count_kv", Field.uint32(config.heads)


BLOOM = Family(
    "bloom",
    {**_TENSORS, **{f"transformer.{name}": rule for name, rule in _TENSORS.items()}, "lm_head": "output"},
    (_sizes, number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)),
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    required_biases=GPT_NEOX.required_biases | {"token_embd_norm"},
    accepted_values={"apply_residual_connection_post_layernorm": (False, None)},
    heads_fill_embedding=True,
)
