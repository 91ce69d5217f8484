"""MosaicML's MPT, with ALiBi. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count, number
from proxy.gguf.ignored_keys import is_harmless
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_LAYER = "transformer.blocks.{}."
_ATTENTION_DEFAULTS: Mapping[str, Any] = {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None}
_ATTENTION_VALUES: Mapping[str, tuple[object, ...]] = {
    # Without ALiBi the authors' code learns the positions; transformers' class then uses ALiBi all the same.
    "alibi": (True,),
    "attn_type": ("multihead_attention", None),
    "attn_uses_sequence_id": (False, None),
    "prefix_lm": (False, None),
    # transformers' class has no norms of Q and K.
    "qk_ln": (False, None),
    "softmax_scale": (None,),
}
_HARMLESS = frozenset({"attn_impl", "attn_pdrop"})


def _attention(config: ModelConfig) -> Pairs:
    """`attn_config`, with all of its keys."""
    written = config.find("attn_config")
    if not isinstance(written, dict | None):
        raise CannotConvert(f"config.json has attn_config = {shown(written)}, which is not an object")
    attention = ModelConfig({**_ATTENTION_DEFAULTS, **(written or {})})
    for key, values in _ATTENTION_VALUES.items():
        if attention.find(key) not in values:
            raise CannotConvert(f"config.json has an attn_config with {key} = {shown(attention.find(key))}")
    clamp = attention.optional_number("clip_qkv")
    if clamp:
        yield "attention.clamp_kqv", Field.float32(clamp)
    largest_bias = attention.number("alibi_bias_max")
    if largest_bias <= 0:
        raise CannotConvert(f"config.json has an attn_config with alibi_bias_max = {largest_bias}")
    # The authors' code reads it; transformers' class always has 8.
    yield "attention.max_alibi_bias", Field.float32(largest_bias)
    for key, value in attention.fields.items():
        is_known = key in attention.read_keys | _HARMLESS or is_harmless(key)
        if not is_known and value:
            raise CannotConvert(f"config.json has an attn_config with {key} = {shown(value)}")


MPT = Family(
    "mpt",
    {
        "transformer.wte": "token_embd",
        "transformer.norm_f": "output_norm",
        "lm_head": "output",
        _LAYER + "norm_1": "blk.{}.attn_norm",
        _LAYER + "norm_2": "blk.{}.ffn_norm",
        _LAYER + "attn.Wqkv": "blk.{}.attn_qkv",
        _LAYER + "attn.out_proj": "blk.{}.attn_output",
        _LAYER + "ffn.up_proj": "blk.{}.ffn_up",
        _LAYER + "ffn.down_proj": "blk.{}.ffn_down",
    },
    (
        count("context_length", "max_seq_len", required=True),
        count("embedding_length", "hidden_size", "d_model", required=True),
        count("block_count", "num_hidden_layers", "n_layers", required=True),
        lambda config: iter([("feed_forward_length", Field.uint32(4 * config.hidden))]),
        count("attention.head_count", "num_attention_heads", "n_heads", required=True),
        number("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
        _attention,
    ),
    defaults={"max_seq_len": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={
        # The authors' code has this epsilon; transformers' class reads the key.
        "layer_norm_epsilon": (1e-5,),
        # transformers' class knows only these values.
        "expansion_ratio": (4, None),
        "logit_scale": (None,),
        "no_bias": (True, None),
        "norm_type": ("low_precision_layernorm", "layernorm", None),
    },
    # Positions that only a model without ALiBi has, and training.
    harmless_keys=frozenset(
        {"learned_pos_emb", "embedding_fraction", "emb_pdrop", "init_config", "init_device", "verbose"}
    ),
    heads_fill_embedding=True,
)
