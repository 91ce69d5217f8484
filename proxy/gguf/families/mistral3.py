"""Ministral 3, and the text parts of Ministral 3 and Mistral Small 3; Mistral Small 4 has the same name. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU, LLAMA_ROPES, check_no_window, head_dim
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_KEYS, LLAMA_TENSORS, MISTRAL
from proxy.gguf.families.mistral4 import MISTRAL4
from proxy.gguf.families.text_part import VISION_TEXT
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown


def _yarn(config: ModelConfig) -> Pairs:
    """llama.cpp assumes `mscale` = 1; transformers divides `mscale` by `mscale_all_dim`."""
    rope = ModelConfig(config.rope)
    divisor = rope.optional_number("mscale_all_dim") or 0.0
    if divisor and rope.optional_number("mscale") != 1:
        raise CannotConvert(
            f"config.json has mscale = {shown(rope.find('mscale'))} with mscale_all_dim = {divisor}, and llama.cpp "
            "assumes 1"
        )
    if 0 in (rope.find("beta_fast"), rope.find("beta_slow")):
        raise CannotConvert(
            "config.json has a yarn with beta_fast or beta_slow = 0, and transformers uses other values instead"
        )
    rope.positive("original_max_position_embeddings")
    yield "rope.scaling.yarn_log_multiplier", Field.float32(divisor)
    yield "attention.temperature_scale", Field.float32(rope.number("llama_4_scaling_beta"))


MINISTRAL3 = Family(
    "mistral3",
    LLAMA_TENSORS,
    (*LLAMA_KEYS, head_dim, check_no_window, _yarn),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 262144,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "head_dim": 128,
    },
    rope_types=frozenset({"yarn"}),
    accepted_values={
        **ANY_SILU,
        "attention_factor": (None,),
        "truncate": (True, None),
        "partial_rotary_factor": (1, None),
    },
    optional_biases=frozenset(),
    vocabulary=MISTRAL.vocabulary,
    keeps_output=True,
    checks_own_yarn=True,
    yarn_keys=frozenset({"beta_fast", "beta_slow"}),
)

_MISTRAL_SMALL = replace(
    MISTRAL,
    hyperparameters=(*LLAMA_KEYS, head_dim, check_no_window),
    # config.json must have all other keys, because transformers' defaults differ for Ministral 3.
    defaults={"num_key_value_heads": 8, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": True},
    rope_types=LLAMA_ROPES - {"yarn"},
    accepted_values={**ANY_SILU, "partial_rotary_factor": (1, None)},
    optional_biases=frozenset(),
    keeps_output=True,
    text_part=VISION_TEXT,
)


def _variant(config: ModelConfig) -> Family:
    """By `model_type` of text_config; without one, transformers assumes that of Mistral Small."""
    match config.find("model_type"):
        case "ministral3":
            return replace(MINISTRAL3, text_part=VISION_TEXT)
        case "mistral4":
            return MISTRAL4.resolve(config)
        case "mistral" | "mistral3" | None:
            return _MISTRAL_SMALL
        case model_type:
            raise CannotConvert(
                f"config.json has a text_config of the type {shown(model_type)}, unknown for this architecture"
            )


MISTRAL3 = replace(_MISTRAL_SMALL, variant=_variant)
