"""Talkie, a Llama whose norms have no weights, with gains instead. Pure."""

from collections.abc import Mapping

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_head_size
from proxy.gguf.families.common_tensors import same_shape
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Reshaped, Rule, Scaled
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, always
from proxy.gguf.model_config import ModelConfig

_LAYER = "model.blocks.{}."
_EPSILON = 2.0**-23
"""PyTorch's for F32, which its rms_norm takes if it gets none."""


def _turned_back(config: ModelConfig) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Talkie's RoPE turns in the other direction: so do the usual one's results with half of each head negated."""
    half = config.head_size // 2
    return ((half, (1.0,)), (half, (-1.0,))) * config.heads


_TENSORS: Mapping[str, Rule | str] = {
    "model.embed": "token_embd",
    "lm_head": "output",
    _LAYER + "attn.attn_query": Scaled("blk.{}.attn_q", _turned_back),
    _LAYER + "attn.attn_key": Scaled("blk.{}.attn_k", _turned_back),
    _LAYER + "attn.attn_value": "blk.{}.attn_v",
    _LAYER + "attn.attn_resid": "blk.{}.attn_output",
    _LAYER + "attn.head_gain.head_g": Reshaped("blk.{}.attn_q_norm.weight", lambda _, shape: (*shape, 1)),
    _LAYER + "attn_gain.a_g": Reshaped("blk.{}.attn_output.scale", same_shape),
    _LAYER + "mlp.mlp_gate": "blk.{}.ffn_gate",
    _LAYER + "mlp.mlp_linear": "blk.{}.ffn_up",
    _LAYER + "mlp.mlp_resid": "blk.{}.ffn_down",
    _LAYER + "mlp_gain.a_g": Reshaped("blk.{}.ffn_down.scale", same_shape),
    _LAYER + "embed_skip.a_g": Reshaped("blk.{}.layer_output_scale.weight", same_shape),
}

TALKIE = Family(
    "talkie",
    _TENSORS,
    (*BASIC, always("attention.layer_norm_rms_epsilon", Field.float32(_EPSILON)), check_head_size),
    rope_types=frozenset({"default"}),
    single_numbers={"lm_head_gain.w_g": "talkie.logit_scale"},
    shapes={
        "attn_q_norm": "1 n_head",
        "attn_output.scale": "1",
        "ffn_down.scale": "1",
        "layer_output_scale": "1",
    },
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "rms_norm_eps": (_EPSILON, None)},
    has_transformers_class=False,
    # The output is a bare parameter: its name has no ending.
    prefix_aliases={"lm_head.": "lm_head.", "lm_head_gain.": "lm_head_gain.", "lm_head": "lm_head.weight"},
)
