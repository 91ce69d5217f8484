"""DeepSeek V4: hyper-connections, compressed attention, and experts in FP4, some of them chosen by the token. Pure.

Tensors have the names of the authors' files. Facts of the graph: src/models/deepseek4.cpp of llama.cpp b10488, compared
with modeling_deepseek_v4.py of transformers 5.24. With F32 weights and an F32 cache, a tiny model's logprobs differ by
less than 0.002 over 300 tokens. With an F16 cache, nearly equal experts or keys can change places.
"""

from collections.abc import Mapping
from typing import Any

from proxy.gguf.families.common_keys import ANY_SILU, UNTIED
from proxy.gguf.families.common_tensors import expert_count
from proxy.gguf.families.family import Family
from proxy.gguf.families.rules import Copy, Numbers32, Rule, Stacked, stems_of
from proxy.gguf.header import Field, ValueType
from proxy.gguf.hyperparameters import BASIC, FEED_FORWARD, Pairs, Writer, always, number, router_function
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_LAYER = "layers.{}."
_EXPERT, _SHARED = _LAYER + "ffn.experts.{}.", _LAYER + "ffn.shared_experts."
_COMPRESSOR, _INDEXER = _LAYER + "attn.compressor.", _LAYER + "attn.indexer."
_RATIO_WITH_INDEXER, _RATIO = 4, 128
"""How many tokens become one key of compressed attention; with the smaller one, an indexer selects among these keys."""
_LEAST_HEAD = 64
"""The size of the smallest Hadamard matrix with which llama.cpp multiplies heads of the indexer."""
_LEAST_LIMIT = 1e-6
"""Up to this limit of the feed-forward llama.cpp has none."""

_COMPRESSED: Mapping[str, Rule | str] = {
    _COMPRESSOR + "wkv": "blk.{}.attn_compressor_kv",
    _COMPRESSOR + "wgate": "blk.{}.attn_compressor_gate",
    _COMPRESSOR + "ape": "blk.{}.attn_compressor_ape",
    _COMPRESSOR + "norm": "blk.{}.attn_compressor_norm",
}
_INDEXED: Mapping[str, Rule | str] = {
    _INDEXER + "wq_b": "blk.{}.indexer.attn_q_b",
    _INDEXER + "weights_proj": Copy("blk.{}.indexer.proj", keeps_type=True),
    _INDEXER + "compressor.wkv": "blk.{}.indexer_compressor_kv",
    _INDEXER + "compressor.wgate": "blk.{}.indexer_compressor_gate",
    _INDEXER + "compressor.ape": "blk.{}.indexer_compressor_ape",
    _INDEXER + "compressor.norm": "blk.{}.indexer_compressor_norm",
}
_SQRT_SOFTPLUS = 4
"""llama.cpp's number of the router's function."""
_MOST_DRAFTS = 16
"""More layers for multi-token prediction than any model has."""
_HASHED, _ROUTED = "ffn_gate_tid2eid", "exp_probs_b"


def _hashed_layers(config: ModelConfig) -> int:
    """How many layers at the start choose experts by the token."""
    layers = config.count("num_hash_layers")
    if layers > config.blocks:
        raise CannotConvert(f"config.json has num_hash_layers = {layers} and only {config.blocks} layers")
    return layers


def _ratios(config: ModelConfig) -> list[int]:
    """The compression of each layer; layers for multi-token prediction follow."""
    ratios = config.find("compress_ratios")
    allowed = (0, _RATIO_WITH_INDEXER, _RATIO)
    known = [ratio for ratio in ratios if type(ratio) is int and ratio in allowed] if isinstance(ratios, list) else []
    if known != ratios or not config.blocks <= len(known) <= config.blocks + _MOST_DRAFTS:
        raise CannotConvert(
            f"config.json has compress_ratios = {shown(ratios)}, not 0, {_RATIO_WITH_INDEXER} or {_RATIO} for each of "
            f"its {config.blocks} layers"
        )
    if _RATIO_WITH_INDEXER not in known[: config.blocks]:
        # Without an indexer, llama.cpp b10488 ends with a division by zero (build_input_k_rot in llama-kv-cache.cpp).
        raise CannotConvert(f"config.json has no {_RATIO_WITH_INDEXER} in compress_ratios, and llama.cpp needs one")
    return known


def _positive(key: str, name: str) -> Writer:
    return lambda config: iter([(key, Field.uint32(config.positive(name)))])


def _compression(config: ModelConfig) -> Pairs:
    yield "attention.compress_ratios", Field.array(ValueType.INT32, _ratios(config))


def _hash_layers(config: ModelConfig) -> Pairs:
    yield "hash_layer_count", Field.uint32(_hashed_layers(config))


def _limits(config: ModelConfig) -> Pairs:
    limit = config.number("swiglu_limit")
    if limit <= _LEAST_LIMIT:
        raise CannotConvert(f"config.json has swiglu_limit = {limit}, which llama.cpp takes for no limit")
    for experts in ("exp", "shexp"):
        yield f"swiglu_clamp_{experts}", Field.array(ValueType.FLOAT32, [limit] * config.blocks)


def _rotary(config: ModelConfig) -> Pairs:
    """RoPE rotates the end of each head, also of the indexer's."""
    rotated, head, indexer = (config.positive(key) for key in ("qk_rope_head_dim", "head_dim", "index_head_dim"))
    if indexer < _LEAST_HEAD or indexer & (indexer - 1):
        raise CannotConvert(
            f"config.json has index_head_dim = {indexer}; llama.cpp needs a power of 2 from {_LEAST_HEAD} on"
        )
    if rotated % 2 or rotated >= min(head, indexer):
        raise CannotConvert(
            f"config.json has qk_rope_head_dim = {rotated} for heads of {head} and of {indexer} (index_head_dim)"
        )
    yield "rope.dimension_count", Field.uint32(rotated)


def _check_rope(config: ModelConfig) -> Pairs:
    """In transformers and in llama.cpp, YaRN changes only layers with compressed attention, and scales no attention."""
    rope = config.rope
    kinds = [kind for kind in ("main", "compress") if kind in rope.fields]
    if kinds or (config.find("rope_scaling") and config.find("rope_parameters")):
        raise CannotConvert(f"config.json has rope_parameters = {shown(config.find('rope_parameters'))}")
    factor = rope.get("attention_factor")
    if factor not in (None, 1):
        raise CannotConvert(f"config.json has a yarn with attention_factor = {shown(factor)}, but llama.cpp uses 1")
    yield from ()


def _output_size(config: ModelConfig) -> Pairs:
    yield "embedding_length_out", Field.uint32(config.hidden * config.positive("hc_mult"))


def _check_groups(config: ModelConfig) -> Pairs:
    groups = config.positive("o_groups")
    if config.heads % groups:
        raise CannotConvert(f"config.json has o_groups = {groups}, which {config.heads} heads cannot share")
    yield "attention.output_group_count", Field.uint32(groups)


def _has_fp4(config: Mapping[str, Any]) -> bool:
    """In transformers 5, the key moves into the settings of the quantization."""
    settings = config.get("quantization_config")
    inner = settings.get("expert_dtype") if isinstance(settings, dict) else None
    return bool(config.get("expert_dtype", inner) == "fp4")


def _absent(config: ModelConfig, layer: int | None) -> Mapping[str, bool]:
    if layer is None:
        return {}
    ratio = _ratios(config)[layer]
    absent = {_ROUTED if layer < _hashed_layers(config) else _HASHED}
    absent |= stems_of(_COMPRESSED) if not ratio else set()
    absent |= stems_of(_INDEXED) if ratio != _RATIO_WITH_INDEXER else set()
    return dict.fromkeys(absent, False)


DEEPSEEK4 = Family(
    "deepseek4",
    {
        "embed": "token_embd",
        "norm": "output_norm",
        "head": "output",
        "hc_head_fn": "output_hc_fn",
        "hc_head_base": "output_hc_base",
        "hc_head_scale": "output_hc_scale",
        _LAYER + "hc_attn_fn": "blk.{}.hc_attn_fn",
        _LAYER + "hc_attn_base": "blk.{}.hc_attn_base",
        _LAYER + "hc_attn_scale": "blk.{}.hc_attn_scale",
        _LAYER + "hc_ffn_fn": "blk.{}.hc_ffn_fn",
        _LAYER + "hc_ffn_base": "blk.{}.hc_ffn_base",
        _LAYER + "hc_ffn_scale": "blk.{}.hc_ffn_scale",
        _LAYER + "attn_norm": "blk.{}.attn_norm",
        _LAYER + "attn.attn_sink": "blk.{}.attn_sinks",
        _LAYER + "attn.wq_a": "blk.{}.attn_q_a",
        _LAYER + "attn.q_norm": "blk.{}.attn_q_a_norm",
        _LAYER + "attn.wq_b": "blk.{}.attn_q_b",
        _LAYER + "attn.wkv": "blk.{}.attn_kv",
        _LAYER + "attn.kv_norm": "blk.{}.attn_kv_a_norm",
        _LAYER + "attn.wo_a": "blk.{}.attn_output_a",
        _LAYER + "attn.wo_b": "blk.{}.attn_output_b",
        **_COMPRESSED,
        **_INDEXED,
        _LAYER + "ffn_norm": "blk.{}.ffn_norm",
        _LAYER + "ffn.gate.weight": Copy("blk.{}.ffn_gate_inp", keeps_type=True),
        _LAYER + "ffn.gate.bias": f"blk.{{}}.{_ROUTED}",
        _LAYER + "ffn.gate.tid2eid": Numbers32(f"blk.{{}}.{_HASHED}", expert_count),
        _EXPERT + "w1": Stacked("blk.{}.ffn_gate_exps", expert_count, keeps_mxfp4=True),
        _EXPERT + "w2": Stacked("blk.{}.ffn_down_exps", expert_count, keeps_mxfp4=True),
        _EXPERT + "w3": Stacked("blk.{}.ffn_up_exps", expert_count, keeps_mxfp4=True),
        _SHARED + "w1": "blk.{}.ffn_gate_shexp",
        _SHARED + "w2": "blk.{}.ffn_down_shexp",
        _SHARED + "w3": "blk.{}.ffn_up_shexp",
    },
    (
        *(write for write in BASIC if write not in (FEED_FORWARD, router_function)),
        always("expert_gating_func", Field.uint32(_SQRT_SOFTPLUS)),
        always("expert_weights_norm", Field.boolean(True)),
        _check_rope,
        _rotary,
        _positive("attention.q_lora_rank", "q_lora_rank"),
        _positive("attention.sliding_window", "sliding_window"),
        _positive("expert_feed_forward_length", "moe_intermediate_size"),
        _positive("expert_shared_count", "n_shared_experts"),
        number("expert_weights_scale", "routed_scaling_factor", required=True),
        _limits,
        _positive("attention.indexer.head_count", "index_n_heads"),
        _positive("attention.indexer.key_length", "index_head_dim"),
        _positive("attention.indexer.top_k", "index_topk"),
        _check_groups,
        _positive("attention.output_lora_rank", "o_lora_rank"),
        _compression,
        number("attention.compress_rope_freq_base", "compress_rope_theta", required=True),
        _positive("hyper_connection.count", "hc_mult"),
        _positive("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
        number("hyper_connection.epsilon", "hc_eps", required=True),
        _hash_layers,
        _output_size,
    ),
    defaults={
        "vocab_size": 129280,
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "q_lora_rank": 1024,
        "num_experts_per_tok": 6,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "scoring_func": "sqrtsoftplus",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "max_position_embeddings": 1048576,
        "rope_theta": 10000.0,
        "compress_rope_theta": 160000.0,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "num_hash_layers": 3,
        "swiglu_limit": 10.0,
        "sliding_window": 128,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
        "rms_norm_eps": 1e-6,
    },
    accepted_values={
        **ANY_SILU,
        **UNTIED,
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "num_key_value_heads": (1,),
        # The graph asserts it.
        "hc_mult": (4,),
        # transformers has one shared expert of the size of one expert, whatever the number.
        "n_shared_experts": (1,),
        # transformers does it in any case.
        "norm_topk_prob": (True,),
        "scoring_func": ("sqrtsoftplus",),
        "topk_method": ("noaux_tc", None),
        # transformers' other name for moe_intermediate_size.
        "intermediate_size": (None,),
        # transformers' own forms of compress_ratios, num_hash_layers and qk_rope_head_dim, which it prefers.
        **dict.fromkeys(("layer_types", "mlp_layer_types", "compress_rates", "partial_rotary_factor"), (None,)),
        "compress_rate_csa": (_RATIO_WITH_INDEXER, None),
        "compress_rate_hca": (_RATIO, None),
    },
    # How the experts are stored, which their tensors tell.
    harmless_keys=frozenset({"expert_dtype"}),
    rope_types=frozenset({"default", "yarn"}),
    checks_own_yarn=True,
    tokenizers=("bpe",),
    skipped_prefixes=("mtp.",),
    keeps_experts=_has_fp4,
    absent_tensors=_absent,
    optional_biases=frozenset({_ROUTED}),
    shapes={
        "output_hc_fn": "4n_embd 4",
        "output_hc_base": "4",
        "output_hc_scale": "1",
        **{
            f"hc_{part}_{name}": shape
            for part in ("attn", "ffn")
            for name, shape in (("fn", "4n_embd 24"), ("base", "24"), ("scale", "3"))
        },
        "attn_q_a": "n_embd q_lora_rank",
        "attn_q_a_norm": "q_lora_rank",
        "attn_q_b": "q_lora_rank n_q",
        "attn_kv": "n_embd n_embd_head",
        "attn_kv_a_norm": "n_embd_head",
        "attn_output_a": "n_q/n_groups n_groups*o_lora_rank",
        "attn_output_b": "n_groups*o_lora_rank n_embd",
        "attn_compressor_kv": "n_embd n_compressed",
        "attn_compressor_gate": "n_embd n_compressed",
        "attn_compressor_ape": "n_compressed n_ratio",
        "attn_compressor_norm": "n_embd_head",
        "indexer.attn_q_b": "q_lora_rank n_q_indexer",
        "indexer.proj": "n_embd n_indexer_head",
        "indexer_compressor_kv": "n_embd 2n_embd_indexer_head",
        "indexer_compressor_gate": "n_embd 2n_embd_indexer_head",
        "indexer_compressor_ape": "2n_embd_indexer_head n_ratio",
        "indexer_compressor_norm": "n_embd_indexer_head",
        _HASHED: "n_expert_used n_vocab",
    },
)
