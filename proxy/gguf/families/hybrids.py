"""Families with a state space in the place of attention, or beside it: Mamba. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import Config
from proxy.gguf.families.rules import Family, Reshaped, Rule
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, always, count, number

_ENDLESS = 1 << 20
"""The context of models that have no positions."""


def _same(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _flat(_: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's, which goes through each channel alone."""
    return tuple(size for size in shape if size != 1)


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
