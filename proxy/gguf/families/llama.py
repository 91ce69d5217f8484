"""Llama and the families that are built like it. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.config import CannotConvert, ModelConfig
from proxy.gguf.families.parts import (
    ANY_SILU,
    ATTENTION,
    ATTENTION_BIAS,
    BARE,
    BOTH_BIASES,
    ENDS,
    LAYER,
    LLAMA_ROPES,
    MLP,
    MLP_BIAS,
    NORMS,
    TURNED,
    all_see_all,
    experts,
    head_dim,
    prefix_space,
    rope_frequencies,
    window_ignored,
)
from proxy.gguf.families.rules import QKV, Family, Stacked
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import BASIC, VOCABULARY_SIZE, Pairs, longrope_factors, rope_dimensions
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

LLAMA_TENSORS = {**ENDS, **NORMS, **TURNED, **MLP}

LLAMA_BIASES = QKV | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}

LLAMA_KEYS = (*BASIC, VOCABULARY_SIZE, rope_dimensions)

LLAMA_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}


def llama_vocabulary(config: ModelConfig, files: TokenizerFiles) -> Pairs:
    yield from prefix_space(config, files)
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
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=LLAMA_BIASES,
    flags=BOTH_BIASES,
    only=ANY_SILU,
    renamed=BARE,
    vocabulary=llama_vocabulary,
)

MISTRAL = Family(
    "llama",
    LLAMA_TENSORS,
    LLAMA_KEYS,
    tokenizers=("sentencepiece", "bpe"),
    defaults={**LLAMA_DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=frozenset(),
    only=ANY_SILU,
    renamed=BARE,
    vocabulary=llama_vocabulary,
    told=window_ignored,
)

MIXTRAL = Family(
    "llama",
    {
        **ENDS,
        **NORMS,
        **TURNED,
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
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    optional_biases=frozenset(),
    only=ANY_SILU,
    vocabulary=llama_vocabulary,
    told=window_ignored,
)

ARCEE = Family(
    "arcee",
    {
        **ENDS,
        **NORMS,
        **TURNED,
        LAYER + "mlp.up_proj": "blk.{}.ffn_up",
        LAYER + "mlp.down_proj": "blk.{}.ffn_down",
    },
    (*LLAMA_KEYS, head_dim),
    tokenizers=("sentencepiece", "bpe"),
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    flags=BOTH_BIASES,
    only={"hidden_act": ("relu2", None)},
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
    (*LLAMA_KEYS, _layers_without_rope, all_see_all),
    tokenizers=("sentencepiece", "bpe"),
    defaults={
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2000000.0,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    made=rope_frequencies,
    ropes=LLAMA_ROPES,
    flags=BOTH_BIASES,
    # No layer has a window.
    harmless=frozenset({"sliding_window", "max_window_layers"}),
    only={**ANY_SILU, "no_rope_layer_interval": (_ROPES_EVERY, None), "use_sliding_window": (False, None)},
    vocabulary=llama_vocabulary,
)

ERNIE_NOTES = frozenset(
    {*("weight_share_add_bias", "micro_batch_size", "loss_subbatch_seqlen", "token_balance_seqlen"), "ignored_index"}
)
"""Of its training; the first is of a bias that there is with `use_bias` only."""

ERNIE4_5 = Family(
    "ernie4_5",
    {**ENDS, **NORMS, **ATTENTION, **MLP},
    tokenizers=("sentencepiece",),
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    optional_biases=QKV | {"attn_output"},
    flags={"use_bias": ATTENTION_BIAS["attention_bias"] | MLP_BIAS["mlp_bias"]},
    only={**ANY_SILU, "use_rmsnorm": (True, None)},
    harmless=ERNIE_NOTES,
    vocabulary=prefix_space,
)


def _minicpm_scales(config: ModelConfig) -> Pairs:
    yield "embedding_scale", Field.float32(config.number("scale_emb"))
    yield "residual_scale", Field.float32(config.number("scale_depth") / config.blocks**0.5)
    yield "logit_scale", Field.float32(config.hidden / config.positive("dim_model_base"))


def _even_attention(config: ModelConfig) -> Pairs:
    """MiniCPM's own code multiplies attention in a context that is longer than the original one."""
    rope = ModelConfig(config.rope)
    if not rope.find("long_factor"):
        return
    original, context = rope.positive("original_max_position_embeddings"), config.positive("max_position_embeddings")
    if context > original:
        raise CannotConvert(
            f"config.json has original_max_position_embeddings = {original} in a context of {context}, by which "
            "attention grows; llama.cpp does not let it grow for this architecture"
        )
    yield from ()


def _sparse_beyond(config: ModelConfig) -> str | None:
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
    (*BASIC, _minicpm_scales, _even_attention),
    tokenizers=("sentencepiece",),
    defaults={"tie_word_embeddings": True},
    made=lambda config: longrope_factors(config, config.hidden // config.heads),
    ropes=frozenset({"default", "linear", "dynamic", "longrope", "su"}),
    optional_biases=LLAMA_BIASES,
    flags=ATTENTION_BIAS,
    only=ANY_SILU,
    # Of models that guess ahead.
    harmless=frozenset({"mup_denominator"}),
    told=_sparse_beyond,
    in_transformers=False,
)
