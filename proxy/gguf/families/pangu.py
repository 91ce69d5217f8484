"""Huawei's openPangu Embedded. Pure."""

from proxy.gguf.families.common_keys import ANY_SILU, head_dim, space_prefix
from proxy.gguf.families.common_tensors import ATTENTION, EMBEDDING_AND_OUTPUT, MLP, NORMS, QKV
from proxy.gguf.families.family import Family
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, rope_dimensions

PANGU_EMBEDDED = Family(
    "pangu-embedded",
    {**EMBEDDING_AND_OUTPUT, **NORMS, **ATTENTION, **MLP},
    (*BASIC, VOCABULARY_SIZE, rope_dimensions, head_dim),
    tokenizers=("sentencepiece",),
    # Those of the authors' configuration_openpangu_dense.py.
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 16000000.0,
        "bias": True,
    },
    rope_types=frozenset({"default"}),
    # llama.cpp requires this one; the authors' code has biases in all four or in none.
    required_biases=QKV | {"attn_output"},
    accepted_values={**ANY_SILU, "bias": (True,)},
    has_transformers_class=False,
    vocabulary=space_prefix,
)
