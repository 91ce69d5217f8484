"""Families with a state space in the place of attention, or beside it: Mamba, Granite 4. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.config import CannotConvert, Config
from proxy.gguf.families.granite import GRANITE_KEYS, GRANITE_MOE, GRANITE_MOE_TENSORS
from proxy.gguf.families.parts import LAYER, half_of
from proxy.gguf.families.rules import Family, Reshaped, Rule, Split
from proxy.gguf.header import Field, Kind
from proxy.gguf.hyperparameters import Pairs, always, count, number

_ENDLESS = 1 << 20
"""The context of models that have no positions."""


def _same(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _flat(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's, which goes through each channel alone."""
    return (shape[0], *(size for size in shape[1:] if size != 1))


def _mixer(where: str) -> Mapping[str, Rule | str]:
    """Of Mamba's first kind."""
    return {
        where + "in_proj": "blk.{}.ssm_in",
        where + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", _flat),
        where + "conv1d.bias": "blk.{}.ssm_conv1d",
        where + "x_proj": "blk.{}.ssm_x",
        where + "dt_proj": "blk.{}.ssm_dt",
        where + "A_log": Reshaped("blk.{}.ssm_a", _same, exponential=True),
        where + "D": Reshaped("blk.{}.ssm_d", _same),
        where + "out_proj": "blk.{}.ssm_out",
    }


def _column(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1)


def _by_groups(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    groups = config.positive("mamba_n_groups")
    return (groups, shape[0] // groups)


_MIXER_2: Mapping[str, Rule | str] = {
    LAYER + "mamba.in_proj": "blk.{}.ssm_in",
    LAYER + "mamba.conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", _flat),
    LAYER + "mamba.conv1d.bias": "blk.{}.ssm_conv1d",
    LAYER + "mamba.dt_bias": Reshaped("blk.{}.ssm_dt.bias", _same),
    LAYER + "mamba.A_log": Reshaped("blk.{}.ssm_a", _column, exponential=True),
    LAYER + "mamba.D": Reshaped("blk.{}.ssm_d", _column),
    LAYER + "mamba.norm.weight": Reshaped("blk.{}.ssm_norm.weight", _by_groups),
    LAYER + "mamba.out_proj": "blk.{}.ssm_out",
}
"""Of Mamba's second kind, beside attention."""


def _normed(config: Config) -> Pairs:
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
        always("context_length", Field.uint32(_ENDLESS)),
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
    only={"hidden_act": ("silu", None)},
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


def _attends(config: Config) -> list[bool]:
    """Layer by layer, whether it has attention in the place of a state space."""
    kinds = config.find("layer_types")
    known = isinstance(kinds, list) and all(kind in ("attention", "mamba") for kind in kinds)
    if not known or len(kinds) != config.blocks:
        raise CannotConvert(f"config.json has no layer_types for {config.blocks} layers")
    return [kind == "attention" for kind in kinds]


def _granite_mixer(config: Config) -> Pairs:
    attends = _attends(config)
    yield "ssm.conv_kernel", Field.uint32(config.count("mamba_d_conv"))
    yield "ssm.state_size", Field.uint32(config.count("mamba_d_state"))
    yield "ssm.group_count", Field.uint32(config.count("mamba_n_groups"))
    yield "ssm.inner_size", Field.uint32(config.count("mamba_expand") * config.hidden)
    yield "ssm.time_step_rank", Field.uint32(config.count("mamba_n_heads"))
    heads = [config.kv_heads if attend else 0 for attend in attends]
    yield "attention.head_count_kv", Field.array(Kind.INT32, heads)
    yield "rope.scaling.finetuned", Field.boolean(all(attends))
    if not all(attends):
        yield "context_length", Field.uint32(_ENDLESS)


def _granite(config: Config) -> Family:
    """Under one name there are hybrids without positions, and models that are Granite 3 but for how they are packed."""
    attends, experts = _attends(config), config.optional_count("num_local_experts")
    tensors = {**GRANITE_MOE_TENSORS, **({} if experts else _DENSE_MLP)}
    if all(attends):
        name = "granitemoe" if experts else "granite"
        return replace(GRANITE_HYBRID, architecture=name, tensors=tensors, only=_ONLY | {_POSITIONS: ("rope",)})
    return replace(GRANITE_HYBRID, tensors={**tensors, **_MIXER_2})


_POSITIONS = "position_embedding_type"
_ONLY = {**GRANITE_MOE.only, "mamba_expand": (2,), "attention_bias": (False, None), "mamba_proj_bias": (False, None)}

GRANITE_HYBRID = Family(
    "granitehybrid",
    {},
    (
        *GRANITE_KEYS,
        count("expert_shared_feed_forward_length", "shared_intermediate_size"),
        _granite_mixer,
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
    ropes=GRANITE_MOE.ropes,
    only=_ONLY | {_POSITIONS: ("nope", None)},
    of=_granite,
)
