"""LG's EXAONE 3 and EXAONE 4. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, LLAMA_ROPES, rope_frequencies, rotary_dimensions, sliding_layers
from proxy.gguf.families.family import Family
from proxy.gguf.families.olmo import OLMO2_TENSORS
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, number
from proxy.gguf.model_config import CannotConvert, ModelConfig

_LAYER = "transformer.h.{}."


EXAONE = Family(
    "exaone",
    {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _LAYER + "ln_1": "blk.{}.attn_norm",
        _LAYER + "ln_2": "blk.{}.ffn_norm",
        _LAYER + "attn.attention.q_proj": "blk.{}.attn_q",
        _LAYER + "attn.attention.k_proj": "blk.{}.attn_k",
        _LAYER + "attn.attention.v_proj": "blk.{}.attn_v",
        _LAYER + "attn.attention.out_proj": "blk.{}.attn_output",
        _LAYER + "mlp.c_fc_0": "blk.{}.ffn_gate",
        _LAYER + "mlp.c_fc_1": "blk.{}.ffn_up",
        _LAYER + "mlp.c_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter does not write the norms' epsilon under this name, which its loader reads.
    (*BASIC, number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True), rotary_dimensions),
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    has_transformers_class=False,
    accepted_values={"activation_function": ("silu",)},
)


_WINDOWED_BLOCKS = 64
"""llama.cpp recognizes the EXAONE 4 with sliding windows by its number of layers."""


def _check_windows(config: ModelConfig) -> Pairs:
    """In the model with windows, llama.cpp applies no RoPE in full-attention layers."""
    window = config.optional_count("sliding_window")
    if (window is not None) is not (config.blocks == _WINDOWED_BLOCKS):
        raise CannotConvert(
            f"config.json has sliding_window = {window} and {config.blocks} layers; llama.cpp has windows "
            f"only in the model with {_WINDOWED_BLOCKS} layers"
        )
    yield from ()


EXAONE4 = Family(
    "exaone4",
    OLMO2_TENSORS,
    (*BASIC, VOCABULARY_SIZE, sliding_layers, _check_windows),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    computed_tensors=lambda config: rope_frequencies(config, default_factor=16.0),
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    # layer_types replace it.
    harmless_keys=frozenset({"sliding_window_pattern"}),
    accepted_values=ANY_SILU,
    heads_fill_embedding=True,
)
