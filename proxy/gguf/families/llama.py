"""Llama, Mistral, Mixtral, Arcee and SmolLM 3. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.bert import BIDIRECTIONAL
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
    expert_count,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Stacked
from proxy.gguf.families.text_part import AUDIO_TEXT
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, rope_dimensions
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tokenizer_files import TokenizerFiles

LLAMA_TENSORS = {**EMBEDDING_AND_OUTPUT, **NORMS, **PERMUTED_ATTENTION, **MLP}

LLAMA_BIASES = QKV | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}

LLAMA_KEYS = (*BASIC, VOCABULARY_SIZE, rope_dimensions)

LLAMA_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}


_GRANITE_VOCABULARY, _CODE_LLAMA_VOCABULARY = 49152, 32016


def llama_vocabulary(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    yield from space_prefix(config, files)
    size = config.optional_count("vocab_size")
    # By these sizes llama.cpp's converter recognizes small Granite and SmolLM models, and CodeLlama.
    if size == _GRANITE_VOCABULARY:
        yield "add_bos_token", Field.boolean(False)
    if size == _CODE_LLAMA_VOCABULARY:
        for name, token_id in (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010)):
            yield f"{name}_token_id", Field.uint32(token_id)


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

LLAMA_EMBED = replace(
    LLAMA,
    architecture="llama-embed",
    # llama.cpp has the causal attention of Llama without this key.
    hyperparameters=(*LLAMA_KEYS, BIDIRECTIONAL),
    accepted_values={**ANY_SILU, "is_causal": (False, None), "pooling": ("avg", None)},
    has_transformers_class=False,
    embeds=True,
)
"""NVIDIA's Llama without a causal mask, in code of the repositories."""

VOXTRAL = replace(
    LLAMA,
    # Those of transformers' VoxtralConfig.
    defaults={
        "vocab_size": 131072,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000000.0,
        "head_dim": 128,
    },
    accepted_values={**ANY_SILU, "sliding_window": (None,)},
    text_part=AUDIO_TEXT,
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
        LAYER + "block_sparse_moe.experts.{}.w1": Stacked("blk.{}.ffn_gate_exps", expert_count),
        LAYER + "block_sparse_moe.experts.{}.w2": Stacked("blk.{}.ffn_down_exps", expert_count),
        LAYER + "block_sparse_moe.experts.{}.w3": Stacked("blk.{}.ffn_up_exps", expert_count),
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

_NO_ROPE_PERIOD = 4
"""llama.cpp applies no RoPE in every fourth layer of SmolLM 3."""


def _check_no_rope_layers(config: ModelConfig) -> Pairs:
    expected = [int(layer % _NO_ROPE_PERIOD != 0) for layer in range(1, config.blocks + 1)]
    if config.find("no_rope_layers") not in (None, expected):
        raise CannotConvert("config.json has no_rope_layers other than every fourth; llama.cpp runs only these")
    yield from ()


SMOLLM3 = Family(
    "smollm3",
    LLAMA_TENSORS,
    (*LLAMA_KEYS, _check_no_rope_layers, check_full_attention),
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
    accepted_values={
        **ANY_SILU,
        "no_rope_layer_interval": (_NO_ROPE_PERIOD, None),
        "use_sliding_window": (False, None),
    },
    vocabulary=llama_vocabulary,
)
