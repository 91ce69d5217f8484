"""MosaicML's MPT, with ALiBi. Pure."""

from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "transformer.blocks.{}."


def _attention(config: ModelConfig) -> Pairs:
    clamp = config.optional_number("clip_qkv")
    if clamp:
        yield "attention.clamp_kqv", Field.float32(clamp)
    largest_bias = config.number("alibi_bias_max")
    if largest_bias <= 0:
        raise CannotConvert(f"config.json has an attn_config with alibi_bias_max = {largest_bias}")
    # The authors' code reads it; transformers' class always has 8.
    yield "attention.max_alibi_bias", Field.float32(largest_bias)


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
    key_aliases={f"attn_config.{key}": key for key in ("alibi", "alibi_bias_max", "clip_qkv")},
    defaults={
        "max_seq_len": 2048,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "alibi": True,
        "alibi_bias_max": 8,
    },
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={
        # Without ALiBi the authors' code learns the positions; transformers' class then uses ALiBi all the same.
        "alibi": (True,),
        # Other values of these make another attention.
        "attn_config.attn_type": ("multihead_attention", None),
        "attn_config.attn_uses_sequence_id": (False, None),
        "attn_config.kv_n_heads": (None,),
        "attn_config.prefix_lm": (False, None),
        "attn_config.qk_gn": (False, None),
        "attn_config.qk_ln": (False, None),
        "attn_config.rope": (False, None),
        "attn_config.sliding_window_size": (-1, None),
        "attn_config.softmax_scale": (None,),
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
        | {"attn_config.attn_impl", "attn_config.attn_pdrop"}
    ),
    heads_fill_embedding=True,
)
