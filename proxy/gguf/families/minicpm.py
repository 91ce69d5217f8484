"""OpenBMB's MiniCPM: a Llama with three scales. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.common_tensors import ATTENTION_BIAS
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_BIASES, LLAMA_TENSORS
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, longrope_factors
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown


def _minicpm_scales(config: ModelConfig) -> Pairs:
    yield "embedding_scale", Field.float32(config.number("scale_emb"))
    yield "residual_scale", Field.float32(config.number("scale_depth") / config.blocks**0.5)
    yield "logit_scale", Field.float32(config.hidden / config.positive("dim_model_base"))


def check_attention_scale(config: ModelConfig) -> Pairs:
    """MiniCPM's own code scales attention up if the context is longer than the original one."""
    rope = ModelConfig(config.rope)
    if not rope.find("long_factor"):
        return
    original, context = rope.positive("original_max_position_embeddings"), config.positive("max_position_embeddings")
    if context > original:
        raise CannotConvert(
            f"config.json has original_max_position_embeddings = {original} in a context of {context}, which scales "
            "attention up; llama.cpp does not scale it for this architecture"
        )
    yield from ()


def _sparse_attention_caveat(config: ModelConfig) -> str | None:
    sparse = config.find("sparse_config")
    if not sparse:
        return None
    length = ModelConfig(sparse).optional_count("dense_len") if isinstance(sparse, dict) else None
    if not length:
        raise CannotConvert(f"config.json has sparse_config = {shown(sparse)}, and llama.cpp attends to all tokens")
    return f"beyond {length} tokens it differs from its authors' model: llama.cpp attends to all tokens"


MINICPM = Family(
    "minicpm",
    LLAMA_TENSORS,
    (*BASIC, _minicpm_scales, check_attention_scale),
    tokenizers=("sentencepiece",),
    defaults={"tie_word_embeddings": True},
    computed_tensors=lambda config: longrope_factors(config, config.hidden // config.heads),
    rope_types=frozenset({"default", "linear", "dynamic", "longrope", "su"}),
    optional_biases=LLAMA_BIASES,
    tensor_flags=ATTENTION_BIAS,
    accepted_values=ANY_SILU,
    # Of models for speculative decoding.
    harmless_keys=frozenset({"mup_denominator"}),
    caveat=_sparse_attention_caveat,
    has_transformers_class=False,
)
