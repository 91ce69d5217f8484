"""Families with a state space in the place of attention, or beside it: Mamba, Granite 4, Falcon-H1, Jamba. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from proxy.gguf.config import CannotConvert, ModelConfig, finite
from proxy.gguf.families.granite import GRANITE_KEYS, GRANITE_MOE, GRANITE_MOE_TENSORS
from proxy.gguf.families.llama import LLAMA_BIASES
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    BOTH_BIASES,
    LAYER,
    UNTIED,
    experts,
    flat,
    half_of,
    head_dim,
    known_kinds,
    same_shape,
    steps_of_any_length,
)
from proxy.gguf.families.rules import Family, Reshaped, Rule, Scaled, Split, Stacked
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import VOCABULARY_SIZE, Pairs, always, count, number, rope_base

_Shares = tuple[tuple[int, tuple[float, ...]], ...]

ENDLESS = 1 << 20
"""The context of models that have no positions."""


def _mixer(where: str) -> Mapping[str, Rule | str]:
    """Of Mamba's first kind."""
    return {
        where + "in_proj": "blk.{}.ssm_in",
        where + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", flat),
        where + "conv1d.bias": "blk.{}.ssm_conv1d",
        where + "x_proj": "blk.{}.ssm_x",
        where + "dt_proj": "blk.{}.ssm_dt",
        where + "A_log": Reshaped("blk.{}.ssm_a", same_shape, exponential=True),
        where + "D": Reshaped("blk.{}.ssm_d", same_shape),
        where + "out_proj": "blk.{}.ssm_out",
    }


def _column(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1)


GROUPS = ("mamba_n_groups", "n_groups")


def _by_groups(config: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    groups = config.positive(*GROUPS)
    return (groups, shape[0] // groups)


def mixer_2(where: str) -> Mapping[str, Rule | str]:
    """Of Mamba's second kind."""
    return {
        where + "in_proj": "blk.{}.ssm_in",
        where + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", flat),
        where + "conv1d.bias": "blk.{}.ssm_conv1d",
        where + "dt_bias": Reshaped("blk.{}.ssm_dt.bias", same_shape),
        where + "A_log": Reshaped("blk.{}.ssm_a", _column, exponential=True),
        where + "D": Reshaped("blk.{}.ssm_d", _column),
        where + "norm.weight": Reshaped("blk.{}.ssm_norm.weight", _by_groups),
        where + "out_proj": "blk.{}.ssm_out",
    }


_MIXER_2 = mixer_2(LAYER + "mamba.")
"""Beside attention."""


def _normed(config: ModelConfig) -> Pairs:
    yield "ssm.dt_b_c_rms", Field.boolean(config.find("model_type") == "falcon_mamba")


MAMBA = Family(
    "mamba",
    {
        "backbone.embeddings": "token_embd",
        "backbone.norm_f": "output_norm",
        "lm_head": "output",
        "backbone.layers.{}.norm": "blk.{}.attn_norm",
        **_mixer("backbone.layers.{}.mixer."),
    },
    (
        always("context_length", Field.uint32(ENDLESS)),
        count("embedding_length", "hidden_size", required=True),
        always("feed_forward_length", Field.uint32(0)),
        always("attention.head_count", Field.uint32(0)),
        count("block_count", "num_hidden_layers", "n_layer", required=True),
        count("ssm.conv_kernel", "conv_kernel", required=True),
        count("ssm.inner_size", "intermediate_size", required=True),
        count("ssm.state_size", "state_size", required=True),
        count("ssm.time_step_rank", "time_step_rank", required=True),
        number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
        _normed,
    ),
    defaults={
        "conv_kernel": 4,
        "state_size": 16,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        # It has no attention; this is for the checks, which ask for heads.
        "num_attention_heads": 1,
    },
    biases=frozenset({"ssm_dt"}),
    optional_biases=frozenset(),
    only={
        "hidden_act": ("silu", None),
        "use_bias": (False, None),
        "use_conv_bias": (True, None),
        "mixer_rms_eps": (1e-6, None),
    },
    # By how much intermediate_size is more than hidden_size.
    harmless=frozenset({"expand"}),
)


_DENSE_MLP: Mapping[str, Rule | str] = {
    LAYER + "shared_mlp.input_linear": Split(
        (
            ("blk.{}.ffn_gate", half_of("shared_intermediate_size")),
            ("blk.{}.ffn_up", half_of("shared_intermediate_size")),
        )
    ),
    LAYER + "shared_mlp.output_linear": "blk.{}.ffn_down",
}


def _attends(config: ModelConfig) -> list[bool]:
    """Layer by layer, whether it has attention instead of a state space."""
    kinds = known_kinds(config, config.find("layer_types", "layers_block_type"), _ATTENDS)
    return [_ATTENDS[kind] for kind in kinds]


_ATTENDS = {"attention": True, "full_attention": True, "mamba": False, "linear_attention": False}


def _granite_mixer(config: ModelConfig) -> Pairs:
    attends = _attends(config)
    yield "ssm.conv_kernel", Field.uint32(config.count("mamba_d_conv"))
    yield "ssm.state_size", Field.uint32(config.count("mamba_d_state"))
    yield "ssm.group_count", Field.uint32(config.count("mamba_n_groups"))
    yield "ssm.inner_size", Field.uint32(config.count("mamba_expand") * config.hidden)
    yield "ssm.time_step_rank", Field.uint32(config.count("mamba_n_heads"))
    heads = [config.kv_heads if attend else 0 for attend in attends]
    yield "attention.head_count_kv", Field.array(ValueType.INT32, heads)
    yield "rope.scaling.finetuned", Field.boolean(all(attends))
    if not all(attends):
        yield "context_length", Field.uint32(ENDLESS)


def _granite(config: ModelConfig) -> Family:
    """Under one name there are hybrids without positions, and models that are Granite 3 but for how they are packed."""
    attends, mixes = _attends(config), config.optional_count("num_local_experts")
    tensors = {**GRANITE_MOE_TENSORS, **({} if mixes else _DENSE_MLP)}
    if all(attends):
        name = "granitemoe" if mixes else "granite"
        return replace(GRANITE_HYBRID, architecture=name, tensors=tensors, only=_ONLY | {_POSITIONS: ("rope",)})
    return replace(GRANITE_HYBRID, tensors={**tensors, **_MIXER_2})


_POSITIONS = "position_embedding_type"
_ONLY = {
    **GRANITE_MOE.only,
    "mamba_expand": (2,),
    "attention_bias": (False, None),
    "mamba_proj_bias": (False, None),
    "mamba_conv_bias": (True, None),
    "normalization_function": ("rmsnorm", None),
}

GRANITE_HYBRID = Family(
    "granitehybrid",
    {},
    (
        *GRANITE_KEYS,
        count("expert_shared_feed_forward_length", "shared_intermediate_size"),
        _granite_mixer,
        steps_of_any_length,
    ),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        **GRANITE_MOE.defaults,
        "shared_intermediate_size": 1024,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    made=GRANITE_MOE.made,
    optional=GRANITE_MOE.optional,
    optional_biases=GRANITE_MOE.optional_biases,
    ropes=GRANITE_MOE.ropes,
    # As wide as the heads' number makes it.
    harmless=frozenset({"mamba_d_head"}),
    only=_ONLY | {_POSITIONS: ("nope", None)},
    of=_granite,
)


def _factors(config: ModelConfig, name: str, count: int) -> list[float]:
    values = config.find(name)
    if not isinstance(values, list) or len(values) != count:
        raise CannotConvert(f"config.json has no {count} numbers in {name}")
    return [finite(f"config.json has {name} with", value) for value in values]


def _by(*names: str) -> Callable[[ModelConfig], _Shares]:
    return lambda config: ((0, tuple(config.number(name) for name in names)),)


def _by_one_of(at: int, name: str, count: int) -> Callable[[ModelConfig], _Shares]:
    return lambda config: ((0, (_factors(config, name, count)[at],)),)


def _in_shares(config: ModelConfig) -> _Shares:
    """The gate's rows, those of what is mixed, of both states, and of the steps."""
    inner, states = config.positive("mamba_d_ssm"), config.positive("mamba_n_groups") * config.positive("mamba_d_state")
    whole, factors = config.number("ssm_in_multiplier"), _factors(config, "ssm_multipliers", 5)
    rows = (inner, inner, states, states, config.positive("mamba_n_heads"))
    return tuple((count, (whole, factor)) for count, factor in zip(rows, factors, strict=True))


def _falcon_h1(config: ModelConfig) -> Family:
    """llama.cpp lets the norm follow the gate."""
    if config.flag("mamba_rms_norm", default=False) and config.flag("mamba_norm_before_gate", default=True):
        raise CannotConvert("config.json has mamba_norm_before_gate = True, unknown for this architecture")
    return FALCON_H1


FALCON_H1 = Family(
    "falcon-h1",
    {
        "model.embed_tokens": Scaled("token_embd", _by("embedding_multiplier")),
        "model.final_layernorm": "output_norm",
        "lm_head": Scaled("output", _by("lm_head_multiplier")),
        **_MIXER_2,
        LAYER + "mamba.in_proj": Scaled("blk.{}.ssm_in", _in_shares),
        LAYER + "mamba.out_proj": Scaled("blk.{}.ssm_out", _by("ssm_out_multiplier")),
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        # llama.cpp has no suffix here.
        LAYER + "pre_ff_layernorm.weight": Reshaped("blk.{}.ffn_norm", same_shape),
        LAYER + "self_attn.q_proj": Scaled("blk.{}.attn_q", _by("attention_in_multiplier")),
        LAYER + "self_attn.k_proj": Scaled("blk.{}.attn_k", _by("key_multiplier", "attention_in_multiplier")),
        LAYER + "self_attn.v_proj": Scaled("blk.{}.attn_v", _by("attention_in_multiplier")),
        LAYER + "self_attn.o_proj": Scaled("blk.{}.attn_output", _by("attention_out_multiplier")),
        LAYER + "feed_forward.gate_proj": Scaled("blk.{}.ffn_gate", _by_one_of(0, "mlp_multipliers", 2)),
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": Scaled("blk.{}.ffn_down", _by_one_of(1, "mlp_multipliers", 2)),
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
        steps_of_any_length,
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
    ropes=frozenset({"default"}),
    optional=frozenset({"ssm_norm"}),
    optional_biases=LLAMA_BIASES,
    flags=BOTH_BIASES,
    # What mamba_d_ssm and the heads' number say, and that every layer has both.
    harmless=frozenset({"mamba_d_head", "mamba_expand", "layer_types", "layers_block_type", "mamba_use_mlp"}),
    # The embeddings and the output have factors of their own.
    only={
        **ANY_SILU,
        **UNTIED,
        "projectors_bias": (False, None),
        "mamba_proj_bias": (False, None),
        "mamba_conv_bias": (True, None),
    },
    of=_falcon_h1,
)


def _jamba_heads(config: ModelConfig) -> Pairs:
    """Layers that attend have heads of K and V, the others none."""
    first, every = config.count("attn_layer_offset"), config.positive("attn_layer_period")
    attends = (at >= first and (at - first) % every == 0 for at in range(config.blocks))
    yield (
        "attention.head_count_kv",
        Field.array(ValueType.INT32, [config.kv_heads if attend else 0 for attend in attends]),
    )
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
        **_mixer(LAYER + "mamba."),
        LAYER + "mamba.dt_layernorm": "blk.{}.ssm_dt_norm",
        LAYER + "mamba.b_layernorm": "blk.{}.ssm_b_norm",
        LAYER + "mamba.c_layernorm": "blk.{}.ssm_c_norm",
        LAYER + "input_layernorm": "blk.{}.attn_norm",
        LAYER + "pre_ff_layernorm": "blk.{}.ffn_norm",
        LAYER + "feed_forward.gate_proj": "blk.{}.ffn_gate",
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": "blk.{}.ffn_down",
        LAYER + "feed_forward.router": "blk.{}.ffn_gate_inp",
        LAYER + "feed_forward.experts.{}.gate_proj": Stacked("blk.{}.ffn_gate_exps", experts),
        LAYER + "feed_forward.experts.{}.up_proj": Stacked("blk.{}.ffn_up_exps", experts),
        LAYER + "feed_forward.experts.{}.down_proj": Stacked("blk.{}.ffn_down_exps", experts),
    },
    (
        count("block_count", "num_hidden_layers", required=True),
        count("context_length", "max_position_embeddings", required=True),
        count("embedding_length", "hidden_size", required=True),
        count("feed_forward_length", "intermediate_size", required=True),
        count("attention.head_count", "num_attention_heads", required=True),
        _jamba_heads,
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
    biases=frozenset({"ssm_dt"}),
    only={
        **ANY_SILU,
        "mamba_expand": (2,),
        "mamba_proj_bias": (False, None),
        "mamba_conv_bias": (True, None),
        "sliding_window": (None,),
    },
    # Which layers have experts, and how Mamba is normed, the weights show; nothing turns.
    harmless=frozenset(
        {*("expert_layer_offset", "expert_layer_period", "mamba_inner_layernorms"), *("rope_theta", "rope_parameters")}
    ),
    optional_biases=frozenset(),
)
