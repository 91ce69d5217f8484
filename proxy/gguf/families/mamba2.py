"""Mamba 2. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, check_unlimited_steps
from proxy.gguf.families.family import Family
from proxy.gguf.families.mamba import BACKBONE, MAMBA2_SHAPES, WITHOUT_ATTENTION, mamba2_tensors
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs, count, number
from proxy.gguf.model_config import CannotConvert, ModelConfig


def _sizes(config: ModelConfig) -> Pairs:
    inner, heads = config.positive("expand") * config.hidden, config.positive("num_heads")
    if heads * config.positive("head_dim") != inner:
        raise CannotConvert(
            f"config.json has num_heads = {heads} and head_dim = {config.positive('head_dim')}, but expand and "
            f"hidden_size give {inner}"
        )
    yield "ssm.inner_size", Field.uint32(inner)
    yield "ssm.time_step_rank", Field.uint32(heads)


MAMBA2 = Family(
    "mamba2",
    {
        **BACKBONE,
        **mamba2_tensors("backbone.layers.{}.mixer."),
    },
    (
        *WITHOUT_ATTENTION,
        count("block_count", "num_hidden_layers", required=True),
        count("ssm.conv_kernel", "conv_kernel", required=True),
        count("ssm.state_size", "state_size", required=True),
        count("ssm.group_count", "n_groups", required=True),
        _sizes,
        number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
        check_unlimited_steps,
    ),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "expand": 2,
        "conv_kernel": 4,
        "n_groups": 8,
        "layer_norm_epsilon": 1e-5,
        # It has no attention, but the general checks need a number of heads.
        "num_attention_heads": 1,
    },
    optional_biases=frozenset(),
    # Before Ollama 0.30, llama.cpp loads it only with an inner size of twice the embedding.
    accepted_values={**ANY_SILU, "expand": (2,), "use_bias": (False, None), "use_conv_bias": (True, None)},
    # Chunks of the calculation, and a size that Mamba 2 does not have.
    harmless_keys=frozenset({"chunk_size", "time_step_rank"}),
    # Names of the authors' files; transformers reads the first.
    prefix_aliases={
        "backbone.embedding.": "backbone.embeddings.",
        "model.backbone.embedding.": "backbone.embeddings.",
        "model.backbone.": "backbone.",
        "model.lm_head.": "lm_head.",
    },
    shapes=MAMBA2_SHAPES,
)
