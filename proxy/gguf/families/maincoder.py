"""Maincode's Maincoder. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, NORMS, QK_NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC, Pairs, rope_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig


def _check_feed_forward(config: ModelConfig) -> Pairs:
    """llama.cpp's converter reads `intermediate_size`, the authors' code `intermediate_size_mlp`."""
    if config.find("intermediate_size_mlp") not in (None, config.find("intermediate_size")):
        raise CannotConvert("config.json has another intermediate_size_mlp than intermediate_size")
    yield from ()


MAINCODER = Family(
    "maincoder",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **ATTENTION,
        **QK_NORMS,
        LAYER + "feed_forward.gate_proj": "blk.{}.ffn_gate",
        LAYER + "feed_forward.up_proj": "blk.{}.ffn_up",
        LAYER + "feed_forward.down_proj": "blk.{}.ffn_down",
    },
    (*BASIC, rope_dimensions, _check_feed_forward),
    # llama.cpp's converter and loader know the size of the heads only from head_dim.
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True},
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={
        **ANY_SILU,
        "use_qk_norm": (True, None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    },
    has_transformers_class=False,
)
