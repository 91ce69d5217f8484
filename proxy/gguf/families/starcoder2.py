"""BigCode's StarCoder 2. Pure."""

from proxy.gguf.families.common_keys import window_caveat
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, NORMS
from proxy.gguf.families.family import Family

STARCODER2 = Family(
    "starcoder2",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        LAYER + "mlp.c_fc": "blk.{}.ffn_up",
        LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    defaults={
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    required_biases=frozenset({"output_norm", "attn_norm", "attn_output", "ffn_norm", "ffn_up", "ffn_down"}),
    accepted_values={"hidden_act": ("gelu_pytorch_tanh", "gelu", None), "use_bias": (True, None)},
    caveat=window_caveat,
    heads_fill_embedding=True,
)
