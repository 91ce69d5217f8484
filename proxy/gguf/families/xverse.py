"""XVERSE, without experts: Llama's structure. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED, check_head_size
from proxy.gguf.families.family import Family
from proxy.gguf.families.llama import LLAMA_TENSORS
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, Pairs, always, rope_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig

_PLAIN_CONTEXT = 8192
"""Models with longer contexts have another RoPE base in the code of their repositories alone."""


def _check_base(config: ModelConfig) -> Pairs:
    context = config.positive("max_position_embeddings")
    if config.rope.get("rope_theta") is None and context > _PLAIN_CONTEXT:
        raise CannotConvert(
            f"config.json has max_position_embeddings = {context} and no rope_theta: for contexts beyond "
            f"{_PLAIN_CONTEXT} tokens, only the repository's own code has it"
        )
    yield from ()


XVERSE = Family(
    "xverse",
    LLAMA_TENSORS,
    (
        *BASIC,
        always("tensor_data_layout", Field.string("Meta AI original pth")),
        rope_dimensions,
        check_head_size,
        _check_base,
    ),
    tokenizers=("sentencepiece", "bpe"),
    has_transformers_class=False,
    # Those of the authors' configuration_xverse.py. Without a base, llama.cpp assumes theirs, 10000.
    defaults={"max_position_embeddings": 8192, "rms_norm_eps": 1e-6},
    rope_types=frozenset({"default"}),
    optional_biases=frozenset(),
    accepted_values={**ANY_SILU, **UNTIED, "quantization_bit": (0, None)},
    harmless_keys=frozenset({"initializer_weight", "max_tokenizer_truncation"}),
    heads_fill_embedding=True,
)
