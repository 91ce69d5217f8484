"""The Swiss AI Initiative's Apertus. Pure."""

from proxy.gguf.families.common_keys import LLAMA_ROPES, UNTIED, rope_frequencies
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, LAYER, QK_NORMS
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_KEYS, llama_vocabulary
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig


def _check_rope(config: ModelConfig) -> Pairs:
    """If config.json leaves it out, transformers 5 scales as Llama 3 does; transformers 4 does not if it is null."""
    if not (config.find("rope_scaling") or config.find("rope_parameters")):
        raise CannotConvert("config.json has neither rope_scaling nor rope_parameters")
    yield from ()


APERTUS = Family(
    "apertus",
    {
        **EMBEDDING_AND_OUTPUT,
        **ATTENTION,
        **QK_NORMS,
        LAYER + "attention_layernorm": "blk.{}.attn_norm",
        LAYER + "feedforward_layernorm": "blk.{}.ffn_norm",
        LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (_check_rope, *LLAMA_KEYS),
    tokenizers=("sentencepiece", "bpe"),
    defaults={"max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "rope_theta": 12000000.0},
    computed_tensors=rope_frequencies,
    single_numbers={LAYER + f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")},
    rope_types=LLAMA_ROPES,
    # Before llama-server, Ollama's llama.cpp loads biases of Q, K and V, and does not add them.
    optional_biases=frozenset(),
    accepted_values={**UNTIED, "hidden_act": ("xielu", None), "attention_bias": (False, None)},
    vocabulary=llama_vocabulary,
)
