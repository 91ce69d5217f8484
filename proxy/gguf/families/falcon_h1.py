"""Falcon-H1: each layer has attention and Mamba 2 side by side. Pure."""

from collections.abc import Callable

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_unlimited_steps, head_dim
from proxy.gguf.families.common_tensors import BOTH_BIASES, LAYER, same_shape
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_BIASES
from proxy.gguf.families.mamba import MAMBA2_SHAPES, mamba2_tensors
from proxy.gguf.families.rules import Reshaped, Scaled
from proxy.gguf.hyperparameters import VOCABULARY_SIZE, count, number, rope_base
from proxy.gguf.model_config import CannotConvert, ModelConfig, finite

_Shares = tuple[tuple[int, tuple[float, ...]], ...]


def _numbers(config: ModelConfig, name: str, count: int) -> list[float]:
    values = config.find(name)
    if not isinstance(values, list) or len(values) != count:
        raise CannotConvert(f"config.json has no {count} numbers in {name}")
    return [finite(f"config.json has {name} with", value) for value in values]


def _by_keys(*names: str) -> Callable[[ModelConfig], _Shares]:
    return lambda config: ((0, tuple(config.number(name) for name in names)),)


def _by_item(index: int, name: str, count: int) -> Callable[[ModelConfig], _Shares]:
    return lambda config: ((0, (_numbers(config, name, count)[index],)),)


def _ssm_in_shares(config: ModelConfig) -> _Shares:
    """`in_proj` has the rows of the gate, x, B, C and the time steps, one below the other."""
    inner, states = config.positive("mamba_d_ssm"), config.positive("mamba_n_groups") * config.positive("mamba_d_state")
    common, factors = config.number("ssm_in_multiplier"), _numbers(config, "ssm_multipliers", 5)
    rows = (inner, inner, states, states, config.positive("mamba_n_heads"))
    return tuple((count, (common, factor)) for count, factor in zip(rows, factors, strict=True))


def _variant(config: ModelConfig) -> Family:
    """llama.cpp applies the norm after the gate."""
    if config.flag("mamba_rms_norm", default=False) and config.flag("mamba_norm_before_gate", default=True):
        raise CannotConvert("config.json has mamba_norm_before_gate = True, unknown for this architecture")
    return FALCON_H1


FALCON_H1 = Family(
    "falcon-h1",
    {
        "model.embed_tokens": Scaled("token_embd", _by_keys("embedding_multiplier")),
        "model.final_layernorm": "output_norm",
        "lm_head": Scaled("output", _by_keys("lm_head_multiplier")),
        **mamba2_tensors(LAYER + "mamba."),
        LAYER + "mamba.in_proj": Scaled("blk.{}.ssm_in", _ssm_in_shares),
        LAYER + "mamba.out_proj": Scaled("blk.{}.ssm_out", _by_keys("ssm_out_multiplier")),
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        # This name has no ending in llama.cpp.
        LAYER + "pre_ff_layernorm.weight": Reshaped("blk.{}.ffn_norm", same_shape),
        LAYER + "self_attn.q_proj": Scaled("blk.{}.attn_q", _by_keys("attention_in_multiplier")),
        LAYER + "self_attn.k_proj": Scaled("blk.{}.attn_k", _by_keys("key_multiplier", "attention_in_multiplier")),
        LAYER + "self_attn.v_proj": Scaled("blk.{}.attn_v", _by_keys("attention_in_multiplier")),
        LAYER + "self_attn.o_proj": Scaled("blk.{}.attn_output", _by_keys("attention_out_multiplier")),
        LAYER + "feed_forward.gate_proj": Scaled("blk.{}.ffn_gate", _by_item(0, "mlp_multipliers", 2)),
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": Scaled("blk.{}.ffn_down", _by_item(1, "mlp_multipliers", 2)),
    },
    (
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        count("attention.head_count_kv", "num_key_value_heads", required=True),
        head_dim,
        count("block_count", "num_hidden_layers", required=True),
        count("ssm.conv_kernel", "mamba_d_conv", required=True),
        count("ssm.inner_size", "mamba_d_ssm", required=True),
        count("ssm.state_size", "mamba_d_state", required=True),
        count("ssm.time_step_rank", "mamba_n_heads", required=True),
        count("ssm.group_count", "mamba_n_groups", required=True),
        number("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        VOCABULARY_SIZE,
        rope_base,
        check_unlimited_steps,
    ),
    defaults={
        "max_position_embeddings": 8192,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mamba_d_ssm": 1024,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mlp_multipliers": [1.0] * 2,
        "ssm_multipliers": [1.0] * 5,
        **dict.fromkeys(
            (
                *("embedding_multiplier", "lm_head_multiplier", "key_multiplier", "ssm_in_multiplier"),
                *("ssm_out_multiplier", "attention_in_multiplier", "attention_out_multiplier"),
            ),
            1.0,
        ),
    },
    rope_types=frozenset({"default"}),
    optional_tensors=frozenset({"ssm_norm"}),
    optional_biases=LLAMA_BIASES,
    tensor_flags=BOTH_BIASES,
    # What follows from mamba_d_ssm and the number of heads, and that every layer has attention and Mamba.
    harmless_keys=frozenset({"mamba_d_head", "mamba_expand", "layer_types", "layers_block_type", "mamba_use_mlp"}),
    # The embeddings and the output have different factors, so they cannot be tied.
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "projectors_bias": (False, None),
        "mamba_proj_bias": (False, None),
        "mamba_conv_bias": (True, None),
    },
    variant=_variant,
    shapes=MAMBA2_SHAPES,
)
