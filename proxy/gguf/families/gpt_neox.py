"""GPT-NeoX. Pure."""

from proxy.gguf.families.common_keys import UNTIED
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import MergedQkv
from proxy.gguf.hyperparameters import count, flag, number, partial_rope_dimensions

_LAYER = "gpt_neox.layers.{}."

GPT_NEOX = Family(
    "gptneox",
    {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        _LAYER + "input_layernorm": "blk.{}.attn_norm",
        _LAYER + "post_attention_layernorm": "blk.{}.ffn_norm",
        _LAYER + "attention.query_key_value": MergedQkv(
            "blk.{}.attn_qkv", lambda config: config.heads, lambda config: config.heads
        ),
        _LAYER + "attention.dense": "blk.{}.attn_output",
        _LAYER + "mlp.dense_h_to_4h": "blk.{}.ffn_up",
        _LAYER + "mlp.dense_4h_to_h": "blk.{}.ffn_down",
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
    rope_types=frozenset({"default"}),
    required_biases=frozenset(
        {"output_norm", "attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}
    ),
    accepted_values={
        **UNTIED,
        "attention_bias": (True, None),
        "hidden_act": ("gelu", None),
        "rope_theta": (10000, None),
    },
    heads_fill_embedding=True,
)
