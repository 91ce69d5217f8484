"""Inception's Jais 2. Pure."""

from proxy.gguf.families.common_keys import check_equal_heads, head_dim
from proxy.gguf.families.common_tensors import ATTENTION, BOTH_BIASES, EMBEDDING_AND_OUTPUT, LAYER, NORMS, QKV
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC, rope_dimensions

JAIS2 = Family(
    "jais2",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (*BASIC, head_dim, rope_dimensions, check_equal_heads),
    defaults={
        "vocab_size": 150272,
        "hidden_size": 3328,
        "intermediate_size": 26624,
        "num_hidden_layers": 32,
        "num_attention_heads": 26,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": True,
        "mlp_bias": True,
    },
    required_biases=QKV | {"output_norm", "attn_norm", "attn_output", "ffn_norm", "ffn_up", "ffn_down"},
    optional_biases=frozenset(),
    tensor_flags=BOTH_BIASES,
    accepted_values={"hidden_act": ("relu2", None)},
    heads_fill_embedding=True,
)
