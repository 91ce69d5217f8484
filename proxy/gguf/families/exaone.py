"""LG's EXAONE 3 and EXAONE 4. Pure."""

from collections.abc import Mapping

from proxy.gguf.config import CannotConvert, ModelConfig, finite
from proxy.gguf.families.common_keys import ANY_SILU, LLAMA_ROPES, rope_frequencies, sliding_layers
from proxy.gguf.families.family import Family
from proxy.gguf.families.olmo import OLMO2_TENSORS
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, llama3_frequencies, number

_EXAONE = "transformer.h.{}."


def _whole_or_part(config: ModelConfig) -> Pairs:
    share = finite("config.json has partial_rotary_factor", config.rope.get("partial_rotary_factor", 1.0))
    yield "rope.dimension_count", Field.uint32(int(share * (config.hidden // config.heads)))


EXAONE = Family(
    "exaone",
    {
        "transformer.wte": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        _EXAONE + "ln_1": "blk.{}.attn_norm",
        _EXAONE + "ln_2": "blk.{}.ffn_norm",
        _EXAONE + "attn.attention.q_proj": "blk.{}.attn_q",
        _EXAONE + "attn.attention.k_proj": "blk.{}.attn_k",
        _EXAONE + "attn.attention.v_proj": "blk.{}.attn_v",
        _EXAONE + "attn.attention.out_proj": "blk.{}.attn_output",
        _EXAONE + "mlp.c_fc_0": "blk.{}.ffn_gate",
        _EXAONE + "mlp.c_fc_1": "blk.{}.ffn_up",
        _EXAONE + "mlp.c_proj": "blk.{}.ffn_down",
    },
    # llama.cpp's converter forgets what its loader wants for this family: the norms' epsilon under this name.
    (*BASIC, number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True), _whole_or_part),
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    has_transformers_class=False,
    accepted_values={"activation_function": ("silu",)},
)


def _exaone_frequencies(config: ModelConfig) -> Mapping[str, bytes]:
    made = llama3_frequencies(config, default_factor=16.0)
    return {} if made is None else {"rope_freqs.weight": made}


_WINDOWED_BLOCKS = 64
"""By its number of layers llama.cpp knows the EXAONE 4 that has windows."""


def _windows_by_layers(config: ModelConfig) -> Pairs:
    """Beside windows, a layer that sees all has no rope."""
    window = config.optional_count("sliding_window")
    if (window is not None) is not (config.blocks == _WINDOWED_BLOCKS):
        raise CannotConvert(
            f"config.json has sliding_window = {window} and {config.blocks} layers; llama.cpp has windows with "
            f"{_WINDOWED_BLOCKS} layers, and only then"
        )
    yield from ()


EXAONE4 = Family(
    "exaone4",
    OLMO2_TENSORS,
    (*BASIC, VOCABULARY_SIZE, sliding_layers, _windows_by_layers),
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    computed_tensors=_exaone_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    # Where no layer_types are told, for which it stands.
    harmless_keys=frozenset({"sliding_window_pattern"}),
    accepted_values=ANY_SILU,
)
