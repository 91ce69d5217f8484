"""AI21's Jamba: layers of attention among layers of Mamba, some with experts. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION, LAYER, expert_count
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import MAMBA_SHAPES, mamba_tensors
from proxy.gguf.families.rules import Stacked
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, count, number
from proxy.gguf.model_config import ModelConfig


def _layers(config: ModelConfig) -> Pairs:
    """In llama.cpp a layer without K and V heads has Mamba instead of attention."""
    first, period = config.count("attn_layer_offset"), config.positive("attn_layer_period")
    attends = (layer >= first and (layer - first) % period == 0 for layer in range(config.blocks))
    kv_heads = [config.kv_heads if has_attention else 0 for has_attention in attends]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, kv_heads)
    yield "ssm.inner_size", Field.uint32(config.count("mamba_expand") * config.hidden)
    if config.find("mamba_dt_rank") == "auto":
        yield "ssm.time_step_rank", Field.uint32(-(-config.hidden // 16))
    else:
        yield "ssm.time_step_rank", Field.uint32(config.count("mamba_dt_rank"))


JAMBA = Family(
    "jamba",
    {
        "model.embed_tokens": "token_embd",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
        **ATTENTION,
        **mamba_tensors(LAYER + "mamba."),
        LAYER + "mamba.dt_layernorm": "blk.{}.ssm_dt_norm",
        LAYER + "mamba.b_layernorm": "blk.{}.ssm_b_norm",
        LAYER + "mamba.c_layernorm": "blk.{}.ssm_c_norm",
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "pre_ff_layernorm": "blk.{}.ffn_norm",
        LAYER + "feed_forward.gate_proj": "blk.{}.ffn_gate",
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": "blk.{}.ffn_down",
        LAYER + "feed_forward.router": "blk.{}.ffn_gate_inp",
        LAYER + "feed_forward.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", expert_count),
        LAYER + "feed_forward.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", expert_count),
        LAYER + "feed_forward.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", expert_count),
    },
    (
        count("block_count", "num_hidden_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        _layers,
        count("ssm.conv_kernel", "mamba_d_conv", required=True),
        count("ssm.state_size", "mamba_d_state", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        count("expert_count", "num_experts", required=True),
        count("expert_used_count", "num_experts_per_tok", required=True),
    ),
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 262144,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
    },
    required_biases=frozenset({"ssm_dt"}),
    accepted_values={
        **ANY_SILU,
        "mamba_expand": (2,),
        "mamba_proj_bias": (False, None),
        "mamba_conv_bias": (True, None),
        "sliding_window": (None,),
    },
    # The weights show which layers have experts and whether Mamba has norms; there is no RoPE.
    harmless_keys=frozenset(
        {*("expert_layer_offset", "expert_layer_period", "mamba_inner_layernorms"), *("rope_theta", "rope_parameters")}
    ),
    optional_biases=frozenset(),
    shapes=MAMBA_SHAPES,
    heads_fill_embedding=True,
    has_mixed_layers=True,
)
