"""DeepSeek V3.2 and GLM 5: DeepSeek V3 with an indexer that selects the tokens to which each token attends. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from proxy.gguf.families.common_keys import check_layer_types, count_dense_layers
from proxy.gguf.families.common_tensors import FUSED_EXPERTS, LAYER, MLP, ROUTED_EXPERTS, SHARED_EXPERTS
from proxy.gguf.families.deepseek import (
    COMPRESSED_QUERY,
    DEEPSEEK2,
    DEEPSEEK3,
    LATENT_ATTENTION_SHAPES,
    LATENT_KEYS,
    check_yarn_scale,
)
from proxy.gguf.families.family import Family
from proxy.gguf.families.glm import GLM_MOE_SPECIAL_TOKENS
from proxy.gguf.families.rules import stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import Pairs, count
from proxy.gguf.model_config import CannotConvert, ModelConfig

_INDEXER: Mapping[str, str] = {
    LAYER + "self_attn.indexer.wq_b": "blk.{}.indexer.attn_q_b",
    LAYER + "self_attn.indexer.wk": "blk.{}.indexer.attn_k",
    LAYER + "self_attn.indexer.weights_proj": "blk.{}.indexer.proj",
    LAYER + "self_attn.indexer.k_norm": "blk.{}.indexer.k_norm",
}
_INDEXER_STEMS, _DENSE_STEMS = stems_of(_INDEXER), stems_of(MLP)
_EXPERT_STEMS = stems_of({**ROUTED_EXPERTS, **SHARED_EXPERTS}) | {"exp_probs_b"}
_LEAST_HEAD = 64
"""The size of the smallest Hadamard matrix with which llama.cpp multiplies heads of the indexer."""


def _check_layers(config: ModelConfig) -> Pairs:
    """The types only choose a cache in transformers; each layer has the same attention."""
    if (types := config.find("layer_types")) is not None:
        check_layer_types(config, types, ("indexed_attention", "deepseek_sparse_attention", "full_attention"))
    yield from ()


def _dense_layers(config: ModelConfig) -> int:
    """How many layers at the start have no experts; transformers prefers `mlp_layer_types`."""
    if config.find("mlp_layer_types") is not None:
        return count_dense_layers(config)
    return config.count("first_k_dense_replace")


def _leading_dense_blocks(config: ModelConfig) -> Pairs:
    yield "leading_dense_block_count", Field.uint32(_dense_layers(config))


def _check_query(config: ModelConfig) -> Pairs:
    if config.optional_count("q_lora_rank") is None:
        raise CannotConvert("config.json has no q_lora_rank")
    yield from ()


def _indexer(config: ModelConfig) -> Pairs:
    """Half of each head has RoPE in all published models; older versions of llama.cpp rely on it."""
    size, rotated = config.positive("index_head_dim"), config.positive("qk_rope_head_dim")
    if size != 2 * rotated or size & (size - 1) or size < _LEAST_HEAD:
        raise CannotConvert(
            f"config.json has index_head_dim = {size} and qk_rope_head_dim = {rotated}; llama.cpp needs a power of 2 "
            f"from {_LEAST_HEAD} on, and half of it"
        )
    yield "attention.indexer.key_length", Field.uint32(size)


def _has_indexer(config: ModelConfig) -> list[bool]:
    """For each layer of GLM 5 whether it has an indexer; the others attend to the tokens that an earlier one selected.

    Without `indexer_types`, transformers calculates them (configuration_glm_moe_dsa.py, 5.24).
    """
    types, pattern = config.find("indexer_types"), config.find("index_topk_pattern")
    if types is None and isinstance(pattern, str):
        types = [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]
    elif types is None and pattern is not None:
        types = pattern
    if types is not None:
        has_indexer = [each == "full" for each in check_layer_types(config, types, ("full", "shared"))]
    else:
        period, offset = config.positive("index_topk_freq"), config.count("index_skip_topk_offset")
        has_indexer = [max(layer - offset + 1, 0) % period == 0 for layer in range(config.blocks)]
    if not has_indexer[0]:
        raise CannotConvert("config.json has a first layer without an indexer")
    return has_indexer


def _indexer_types(config: ModelConfig) -> Pairs:
    yield "attention.indexer.types", Field.array(ValueType.BOOL, _has_indexer(config))


def _absent(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {"output": True} if config.tied else {}
    absent = dict.fromkeys(_EXPERT_STEMS if layer < _dense_layers(config) else _DENSE_STEMS, False)
    return absent if _has_indexer(config)[layer] else {**absent, **dict.fromkeys(_INDEXER_STEMS, True)}


_TENSORS = {**DEEPSEEK2.tensors, **COMPRESSED_QUERY, **FUSED_EXPERTS, **_INDEXER}

DEEPSEEK32: Family = replace(
    DEEPSEEK3,
    architecture="deepseek32",
    tensors=_TENSORS,
    hyperparameters=(
        *LATENT_KEYS,
        _check_layers,
        _leading_dense_blocks,
        _check_query,
        check_yarn_scale,
        count("attention.indexer.head_count", "index_n_heads", required=True),
        _indexer,
        count("attention.indexer.top_k", "index_topk", required=True),
    ),
    defaults={
        **DEEPSEEK3.defaults,
        "max_position_embeddings": 163840,
        "q_lora_rank": 1536,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
        "head_dim": 64,
    },
    accepted_values={
        **DEEPSEEK3.accepted_values,
        "indexer_rope_interleave": (False, None),
        "partial_rotary_factor": (1, None),
        "scoring_func": ("sigmoid",),
        "topk_method": ("noaux_tc", None),
    },
    # Those of GLM 5.2 for a prediction layer, and for files without indexer_types.
    harmless_keys=DEEPSEEK3.harmless_keys
    | {"index_share_for_mtp_iteration", "index_topk_freq", "index_skip_topk_offset", "index_topk_pattern"},
    optional_tensors=frozenset(),
    required_biases=frozenset({"indexer.k_norm"}),
    variant=None,
    shapes={
        **LATENT_ATTENTION_SHAPES,
        "indexer.attn_q_b": "q_lora_rank n_q_indexer",
        "indexer.attn_k": "n_embd n_embd_indexer_head",
        "indexer.proj": "n_embd n_indexer_head",
        "indexer.k_norm": "n_embd_indexer_head",
    },
)

GLM_DSA: Family = replace(
    DEEPSEEK32,
    architecture="glm-dsa",
    hyperparameters=(*DEEPSEEK32.hyperparameters, _indexer_types),
    defaults={
        **DEEPSEEK32.defaults,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "q_lora_rank": 2048,
        "index_n_heads": 32,
        "index_topk_freq": 1,
        "index_skip_topk_offset": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    accepted_values={**DEEPSEEK32.accepted_values, "indexer_rope_interleave": (True, None)},
    # llama.cpp does not read by how much this architecture's YaRN scales attention.
    rope_types=frozenset({"default", "dynamic"}),
    absent_tensors=_absent,
    special_tokens=GLM_MOE_SPECIAL_TOKENS,
)
