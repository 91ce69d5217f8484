"""OpenBMB's MiniCPM3: latent attention as in DeepSeek V2, and three scales as in MiniCPM. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import EMBEDDING_AND_OUTPUT, LAYER, MLP, NORMS
from proxy.gguf.families.deepseek import COMPRESSED_QUERY
from proxy.gguf.families.family import Family
from proxy.gguf.families.minicpm import check_attention_scale
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import FEED_FORWARD, VOCABULARY_SIZE, Pairs, count, longrope_factors, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_ROPE_BASE = 10000


def _sizes(config: ModelConfig) -> Pairs:
    """llama.cpp takes the size of the values from the embedding, and has as many heads of K and V as of Q."""
    rotated, values = config.positive("qk_rope_head_dim"), config.optional_count("v_head_dim")
    if values not in (None, config.hidden // config.heads) or config.kv_heads != config.heads:
        raise CannotConvert(
            f"config.json has v_head_dim = {values}, {config.heads} heads and {config.kv_heads} heads of K and V in an "
            f"embedding of {config.hidden}, which llama.cpp does not expect"
        )
    yield "attention.key_length", Field.uint32(config.positive("qk_nope_head_dim") + rotated)
    yield "rope.dimension_count", Field.uint32(rotated)


def _check_rope_base(config: ModelConfig) -> Pairs:
    """The converter does not write it."""
    if (base := config.rope.get("rope_theta", _ROPE_BASE)) != _ROPE_BASE:
        raise CannotConvert(f"config.json has rope_theta = {base}, and llama.cpp always uses {_ROPE_BASE}")
    yield from ()


def _rope_factors(config: ModelConfig) -> Mapping[str, bytes]:
    return longrope_factors(config, config.positive("qk_rope_head_dim"))


MINICPM3 = Family(
    "minicpm3",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **MLP,
        **COMPRESSED_QUERY,
        LAYER + "self_attn.kv_a_proj_with_mqa": "blk.{}.attn_kv_a_mqa",
        LAYER + "self_attn.kv_a_layernorm": "blk.{}.attn_kv_a_norm",
        LAYER + "self_attn.kv_b_proj": "blk.{}.attn_kv_b",
        LAYER + "self_attn.o_proj": "blk.{}.attn_output",
    },
    (
        count("block_count", "num_hidden_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        FEED_FORWARD,
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        VOCABULARY_SIZE,
        count("attention.q_lora_rank", "q_lora_rank", required=True),
        count("attention.kv_lora_rank", "kv_lora_rank", required=True),
        _sizes,
        _check_rope_base,
        check_attention_scale,
    ),
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 40,
        "rms_norm_eps": 1e-5,
        "q_lora_rank": 768,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "tie_word_embeddings": True,
    },
    computed_tensors=_rope_factors,
    rope_types=frozenset({"default", "dynamic", "longrope", "su"}),
    optional_biases=frozenset(),
    # The scales are in llama.cpp's code.
    accepted_values={
        **ANY_SILU,
        "scale_emb": (12,),
        "scale_depth": (1.4,),
        "dim_model_base": (256,),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "partial_rotary_factor": (1, None),
    },
    # The sum of two other keys, and one of them.
    harmless_keys=frozenset({"qk_head_dim", "head_dim"}),
    shapes={
        "attn_q_a": "n_embd q_lora_rank",
        "attn_q_a_norm": "q_lora_rank",
        "attn_q_b": "q_lora_rank n_q",
        "attn_kv_a_mqa": "n_embd kv_lora_rank+n_rot",
        "attn_kv_a_norm": "kv_lora_rank",
        "attn_kv_b": "kv_lora_rank n_kv_b",
        "attn_output": "n_o n_embd",
    },
)
