"""Mamba and Falcon Mamba, and the Mamba tensors of hybrid families. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_tensors import same_shape, squeezed
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, Writer, always, count, number
from proxy.gguf.model_config import ModelConfig

UNLIMITED_CONTEXT = 1 << 20
"""The context length of models without positions."""


def mamba_tensors(prefix: str) -> Mapping[str, Rule | str]:
    return {
        prefix + "in_proj": "blk.{}.ssm_in",
        prefix + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", squeezed),
        prefix + "conv1d.bias": "blk.{}.ssm_conv1d",
        prefix + "x_proj": "blk.{}.ssm_x",
        prefix + "dt_proj": "blk.{}.ssm_dt",
        prefix + "A_log": Reshaped("blk.{}.ssm_a", same_shape, exponential=-1),
        prefix + "D": Reshaped("blk.{}.ssm_d", same_shape),
        prefix + "out_proj": "blk.{}.ssm_out",
    }


def _column(_: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1)


GROUP_COUNT_KEYS = ("mamba_n_groups", "n_groups")


def _one_row_per_group(config: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    groups = config.positive(*GROUP_COUNT_KEYS)
    return (groups, shape[0] // groups)


def mamba2_tensors(prefix: str) -> Mapping[str, Rule | str]:
    return {
        prefix + "in_proj": "blk.{}.ssm_in",
        prefix + "conv1d.weight": Reshaped("blk.{}.ssm_conv1d.weight", squeezed),
        prefix + "conv1d.bias": "blk.{}.ssm_conv1d",
        prefix + "dt_bias": Reshaped("blk.{}.ssm_dt.bias", same_shape),
        prefix + "A_log": Reshaped("blk.{}.ssm_a", _column, exponential=-1),
        prefix + "D": Reshaped("blk.{}.ssm_d", _column),
        prefix + "norm.weight": Reshaped("blk.{}.ssm_norm.weight", _one_row_per_group),
        prefix + "out_proj": "blk.{}.ssm_out",
    }


MAMBA_SHAPES: Mapping[str, str] = {
    "ssm_in": "n_embd 2d_inner",
    "ssm_conv1d": "d_conv d_inner",
    "ssm_x": "d_inner dt_rank+2d_state",
    "ssm_dt": "dt_rank d_inner",
    "ssm_dt_norm": "dt_rank",
    "ssm_b_norm": "d_state",
    "ssm_c_norm": "d_state",
    "ssm_a": "d_state d_inner",
    "ssm_d": "d_inner",
    "ssm_out": "d_inner n_embd",
}

MAMBA2_SHAPES: Mapping[str, str] = {
    "ssm_in": "n_embd d_in_proj",
    "ssm_conv1d": "d_conv d_mixed",
    "ssm_dt": "dt_rank",
    "ssm_a": "1 dt_rank",
    "ssm_d": "1 dt_rank",
    "ssm_norm": "d_inner/n_group n_group",
    "ssm_out": "d_inner n_embd",
}


def _norms(config: ModelConfig) -> Pairs:
    yield "ssm.dt_b_c_rms", Field.boolean(config.find("model_type") == "falcon_mamba")


BACKBONE: Mapping[str, str] = {
    "backbone.embeddings": "token_embd",
    "backbone.norm_f": "output_norm",
    "lm_head": "output",
    "backbone.layers.{}.norm": "blk.{}.attn_norm",
}
"""The tensors around the mixers."""

WITHOUT_ATTENTION: tuple[Writer, ...] = (
    always("context_length", Field.uint32(UNLIMITED_CONTEXT)),
    count("embedding_length", "hidden_size", required=True),
    always("feed_forward_length", Field.uint32(0)),
    always("attention.head_count", Field.uint32(0)),
)

MAMBA = Family(
    "mamba",
    {
        **BACKBONE,
        **mamba_tensors("backbone.layers.{}.mixer."),
    },
    (
        *WITHOUT_ATTENTION,
        count("block_count", "num_hidden_layers", "n_layer", required=True),
        count("ssm.conv_kernel", "conv_kernel", required=True),
        count("ssm.inner_size", "intermediate_size", required=True),
        count("ssm.state_size", "state_size", required=True),
        count("ssm.time_step_rank", "time_step_rank", required=True),
        number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
        _norms,
    ),
    defaults={
        "conv_kernel": 4,
        "state_size": 16,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        # It has no attention, but the general checks need a number of heads.
        "num_attention_heads": 1,
    },
    required_biases=frozenset({"ssm_dt"}),
    optional_biases=frozenset(),
    accepted_values={
        "hidden_act": ("silu", None),
        "use_bias": (False, None),
        "use_conv_bias": (True, None),
        "mixer_rms_eps": (1e-6, None),
    },
    # The ratio of intermediate_size to hidden_size.
    harmless_keys=frozenset({"expand"}),
    shapes=MAMBA_SHAPES,
)
