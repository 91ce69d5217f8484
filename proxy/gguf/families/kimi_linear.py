"""Kimi Linear: most layers have linear attention (a delta net), the others DeepSeek's latent attention. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_equal_heads, check_layer_types, count_dense_layers
from proxy.gguf.families.common_tensors import (
    ATTENTION,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    expert_count,
    same_shape,
)
from proxy.gguf.families.deepseek import LATENT_ATTENTION, LATENT_ATTENTION_SHAPES
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, Stacked, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, Writer, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tokenizer_files import TokenizerFiles, read_added_tokens_decoder

_FULL, _LINEAR = "full_attention", "linear_attention"
_NUMBERS = {_FULL: "full_attn_layers", _LINEAR: "kda_layers"}
"""Type of a layer → the key with the numbers of such layers; the first layer is 1."""
_ATTENTION, _EXPERTS = LAYER + "self_attn.", LAYER + "block_sparse_moe."


def _convolution(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[0], 1, shape[-1])


DELTA_NET: Mapping[str, Rule | str] = {
    **{f"{_ATTENTION}{part}_proj": f"blk.{{}}.attn_{part}" for part in "kv"},
    **{
        f"{_ATTENTION}{part}_conv1d.weight": Reshaped(f"blk.{{}}.ssm_conv1d_{part}.weight", _convolution)
        for part in "qkv"
    },
    _ATTENTION + "b_proj": "blk.{}.ssm_beta",
    _ATTENTION + "dt_bias": Reshaped("blk.{}.ssm_dt.bias", same_shape),
    _ATTENTION + "o_norm": "blk.{}.ssm_norm",
}
"""What only a layer with linear attention has, but for its two gates and its decay."""
_DELTA_NET: Mapping[str, Rule | str] = {
    **DELTA_NET,
    **{f"{_ATTENTION}{part}_proj": f"blk.{{}}.ssm_{part}" for part in ("f_a", "f_b", "g_a", "g_b")},
    _ATTENTION + "A_log": Reshaped("blk.{}.ssm_a", same_shape, exponential=-1),
}
LATENT: Mapping[str, Rule | str] = {key: rule for key, rule in LATENT_ATTENTION.items() if key not in ATTENTION}
"""What only a layer with latent attention has, but for Q."""
DELTA_NET_SHAPES: Mapping[str, str] = {
    **LATENT_ATTENTION_SHAPES,
    "attn_q": "n_embd n_q_kda",
    "attn_k": "n_embd n_kda",
    "attn_v": "n_embd n_kda",
    "attn_output": "n_o_kda n_embd",
    **{f"ssm_conv1d_{part}": "d_conv 1 n_kda" for part in "qkv"},
    "ssm_beta": "n_embd n_head",
    "ssm_a": "1 n_head",
    "ssm_dt": "n_kda",
    "ssm_norm": "n_embd_head_kda",
}
_MOE: Mapping[str, Rule | str] = {
    _EXPERTS + "gate": "blk.{}.ffn_gate_inp",
    _EXPERTS + "gate.e_score_correction_bias": "blk.{}.exp_probs_b",
    **{
        f"{_EXPERTS}experts.{{}}.{name}": Stacked(f"blk.{{}}.ffn_{part}_exps", expert_count)
        for name, part in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    },
    **{f"{_EXPERTS}shared_experts.{part}_proj": f"blk.{{}}.ffn_{part}_shexp" for part in ("gate", "up", "down")},
}


def _layer_types(config: ModelConfig) -> list[str]:
    """For each layer, from the list that transformers writes, or from the authors' two lists of numbers."""
    if (types := config.find("layer_types")) is not None:
        return check_layer_types(config, types, _NUMBERS)
    numbers = {layer_type: config.find(key) for layer_type, key in _NUMBERS.items()}
    if not all(isinstance(one, list) for one in numbers.values()):
        raise CannotConvert(f"config.json has no {' and '.join(_NUMBERS.values())} in linear_attn_config")
    layers = range(1, config.blocks + 1)
    if sorted([*numbers[_FULL], *numbers[_LINEAR]], key=str) != sorted(layers, key=str):
        raise CannotConvert(f"config.json has {' and '.join(_NUMBERS.values())} that do not share {len(layers)} layers")
    return [_FULL if layer in numbers[_FULL] else _LINEAR for layer in layers]


def _layers(config: ModelConfig) -> Pairs:
    """llama.cpp knows layers with linear attention by their having no head for K and V."""
    heads = [int(layer_type == _FULL) for layer_type in _layer_types(config)]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)
    yield "leading_dense_block_count", Field.uint32(_dense_layers(config))


def _dense_layers(config: ModelConfig) -> int:
    if config.find("mlp_layer_types") is not None:
        return count_dense_layers(config)
    return config.count("first_k_dense_replace")


def _latent_heads(config: ModelConfig) -> Pairs:
    rank, rotary = config.positive("kv_lora_rank"), config.positive("qk_rope_head_dim")
    yield "attention.kv_lora_rank", Field.uint32(rank)
    yield "attention.key_length", Field.uint32(rank + rotary)
    yield "attention.key_length_mla", Field.uint32(config.positive("qk_nope_head_dim") + rotary)
    yield "attention.value_length_mla", Field.uint32(config.positive("v_head_dim"))
    yield "rope.dimension_count", Field.uint32(rotary)


def _check_linear_heads(config: ModelConfig) -> Pairs:
    if (heads := config.positive("linear_num_heads")) != config.heads:
        raise CannotConvert(
            f"config.json has {heads} heads in linear_attn_config and num_attention_heads = {config.heads}, which "
            "llama.cpp expects to be equal"
        )
    yield from ()


MIXED_KEYS: tuple[Writer, ...] = (
    *BASIC,
    VOCABULARY_SIZE,
    _latent_heads,
    count("expert_feed_forward_length", "moe_intermediate_size", required=True),
    number("expert_weights_scale", "routed_scaling_factor", required=True),
    check_equal_heads,
)
"""For families with both kinds of attention."""


def _absent_tensors(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    is_full, is_dense = _layer_types(config)[layer] == _FULL, layer < _dense_layers(config)
    absent = stems_of(_DELTA_NET if is_full else LATENT) | stems_of(_MOE if is_dense else MLP)
    return dict.fromkeys(absent, False)


def _end_of_text(_: ModelConfig, files: TokenizerFiles) -> Pairs:
    """The tokenizer's, as in llama.cpp's converter. It finds the end of a turn, config.json's, by its text."""
    ids = {token["content"]: token_id for token_id, token in read_added_tokens_decoder(files)}
    token_id = ids.get(files.config.get("eos_token"))
    if files.tiktoken is not None and not files.tokenizer and token_id is not None:
        yield "eos_token_id", Field.uint32(token_id)


KIMI_LINEAR = Family(
    "kimi-linear",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **MLP,
        **_MOE,
        **_DELTA_NET,
        **LATENT,
        _ATTENTION + "q_proj": "blk.{}.attn_q",
        _ATTENTION + "o_proj": "blk.{}.attn_output",
    },
    (
        *MIXED_KEYS,
        _layers,
        count("ssm.conv_kernel", "linear_conv_kernel_dim", required=True),
        count("kda.head_dim", "linear_head_dim", required=True),
        count("expert_shared_count", "num_shared_experts", "n_shared_experts", required=True),
        _check_linear_heads,
    ),
    tokenizers=("bpe", "tiktoken"),
    vocabulary=_end_of_text,
    defaults={
        "vocab_size": 163840,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "rms_norm_eps": 1e-5,
        "first_k_dense_replace": 1,
        "topk_group": 1,
        "routed_scaling_factor": 2.446,
        "moe_router_activation_func": "sigmoid",
        "linear_head_dim": 128,
        "linear_num_heads": 32,
        "linear_conv_kernel_dim": 4,
    },
    key_aliases={
        "linear_attn_config.head_dim": "linear_head_dim",
        "linear_attn_config.num_heads": "linear_num_heads",
        "linear_attn_config.short_conv_kernel_size": "linear_conv_kernel_dim",
        **{f"linear_attn_config.{key}": key for key in _NUMBERS.values()},
    },
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        **dict.fromkeys(("num_expert_group", "n_group", "topk_group", "moe_layer_freq"), (1, None)),
        **dict.fromkeys(("moe_renormalize", "norm_topk_prob", "mla_use_nope"), (True, None)),
        "moe_router_activation_func": ("sigmoid",),
        "q_lora_rank": (None,),
        "attention_bias": (False, None),
    },
    rope_types=frozenset({"default"}),
    # No layer has a RoPE; one group of experts is no group; the last one is the sum of two other keys.
    harmless_keys=frozenset({"rope_theta", "use_grouped_topk", "qk_head_dim"}),
    skips_extra_layers=True,
    optional_biases=frozenset(),
    absent_tensors=_absent_tensors,
    shapes={
        **DELTA_NET_SHAPES,
        **{f"ssm_{part}": "n_embd n_embd_head_kda" for part in ("f_a", "g_a")},
        **{f"ssm_{part}": "n_embd_head_kda n_kda" for part in ("f_b", "g_b")},
    },
)
