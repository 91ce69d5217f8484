"""ByteDance's Seed-OSS. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, MLP, MLP_BIAS
from proxy.gguf.families.family import Family

SEED_OSS = Family(
    "seed_oss",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **MLP,
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "post_attention_layernorm": "blk.{}.post_attention_norm",
    },
    defaults={
        "max_position_embeddings": 524288,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "head_dim": 128,
        "attention_bias": True,
    },
    tensor_flags={
        "attention_bias": frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        "attention_out_bias": frozenset({"attn_output.bias"}),
        **MLP_BIAS,
    },
    accepted_values=ANY_SILU,
)
