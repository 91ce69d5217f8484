"""Llama, Mistral, Mixtral, Arcee and SmolLM 3. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.common_keys import (
    ANY_SILU,
    LLAMA_ROPES,
    check_full_attention,
    head_dim,
    rope_frequencies,
    space_prefix,
    window_caveat,
)
from proxy.gguf.families.common_tensors import (
    BARE_PREFIXES,
    BOTH_BIASES,
    EMBEDDING_AND_OUTPUT,
    LAYER,
    MLP,
    NORMS,
    PERMUTED_ATTENTION,
    QKV,
    experts,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, rope_dimensions
from proxy.gguf.tokenizer_files import TokenizerFiles

LLAMA_TENSORS = {**EMBEDDING_AND_OUTPUT, **NORMS, **PERMUTED_ATTENTION, **MLP}

LLAMA_BIASES = QKV | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}

LLAMA_KEYS = (*BASIC, VOCABULARY_SIZE, rope_dimensions)

LLAMA_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}


def llama_vocabulary(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    yield from space_prefix(config, files)
    size = config.optional_count("vocab_size")
    if size == 49152:  # noqa: PLR2004 - llama.cpp knows Granite's small models, and SmolLM's, by it
        yield "add_bos_token", Field.boolean(False)
    if size == 32016:  # noqa: PLR2004 - and CodeLlama by this
        for kind, token in (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010)):
            yield f"{kind}_token_id", Field.uint32(token)


LLAMA = Family(
    "llama",
    LLAMA_TENSORS,
    (*LLAMA_KEYS, head_dim),
    tokenizers=("sentencepiece", "bpe"),
    defaults=LLAMA_DEFAULTS,
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=LLAMA_BIASES,
    tensor_flags=BOTH_BIASES,
    accepted_values=ANY_SILU,
    prefix_aliases=BARE_PREFIXES,
    vocabulary=llama_vocabulary,
)

MISTRAL = Family(
    "llama",
    LLAMA_TENSORS,
    LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={**LLAMA_DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    accepted_values=ANY_SILU,
    prefix_aliases=BARE_PREFIXES,
    vocabulary=llama_vocabulary,
    caveat=window_caveat,
)

MIXTRAL = Family(
    "llama",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **PERMUTED_ATTENTION,
        LAYER + "block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
        LAYER + "block_sparse_moe.experts.{}.w1": Stacked("blk.{}.ffn_gate_exps", experts),
        LAYER + "block_sparse_moe.experts.{}.w2": Stacked("blk.{}.ffn_down_exps", experts),
        LAYER + "block_sparse_moe.experts.{}.w3": Stacked("blk.{}.ffn_up_exps", experts),
    },
    LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    optional_biases=frozenset(),
    accepted_values=ANY_SILU,
    vocabulary=llama_vocabulary,
    caveat=window_caveat,
)

ARCEE = Family(
    "arcee",
    {
        **EMBEDDING_AND_OUTPUT,
        **NORMS,
        **PERMUTED_ATTENTION,
        LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (*LLAMA_KEYS, head_dim),
    tokenizers=("sentencepiece", "bpe"),
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    tensor_flags=BOTH_BIASES,
    accepted_values={"hidden_act": ("relu2", None)},
    vocabulary=llama_vocabulary,
)

_ROPES_EVERY = 4
"""llama.cpp leaves every fourth layer of SmolLM 3 without a rope."""


def _layers_without_rope(config: ModelConfig) -> Pairs:
    usual = [int(at % _ROPES_EVERY != 0) for at in range(1, config.blocks + 1)]
    if config.find("no_rope_layers") not in (None, usual):
        raise CannotConvert("config.json has no_rope_layers other than every fourth, which llama.cpp takes")
    yield from ()


SMOLLM3 = Family(
    "smollm3",
    LLAMA_TENSORS,
    (*LLAMA_KEYS, _layers_without_rope, check_full_attention),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000000.0,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    computed_tensors=rope_frequencies,
    rope_types=LLAMA_ROPES,
    tensor_flags=BOTH_BIASES,
    # No layer has a window.
    harmless_keys=frozenset({"sliding_window", "max_window_layers"}),
    accepted_values={**ANY_SILU, "no_rope_layer_interval": (_ROPES_EVERY, None), "use_sliding_window": (False, None)},
    vocabulary=llama_vocabulary,
)
