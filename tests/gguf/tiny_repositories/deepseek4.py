"""DeepSeek V4, with experts in FP4 as its authors publish them, and in BF16."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import EXPERTS, FOUR_BITS, HEADS, HIDDEN, Tiny, Weights
from tests.kit.dtypes import to_bytes
from tests.kit.tiny_families import StoredTensor, pack_safetensors

_STREAMS = 4
"""Residual streams of the hyper-connections."""
_MIXES = (2 + _STREAMS) * _STREAMS
_F32 = ("_fn", "_base", "_scale", ".attn_sink", ".ape", ".gate.bias")
"""The ends of the names of tensors in F32."""
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "head_dim": 256,
    "q_lora_rank": 256,
    "qk_rope_head_dim": 32,
    "o_groups": 2,
    "o_lora_rank": 128,
    "sliding_window": 16,
    "compress_ratios": [0, 4, 128, 4, 0],
    "compress_rope_theta": 40000.0,
    # With 4 heads, several keys have a score of exactly 0, of which llama.cpp and torch choose different ones: it is a
    # sum over the heads that ReLU leaves. The authors' models have 64.
    "index_n_heads": 16,
    "index_head_dim": 512,
    "index_topk": 6,
    "hc_mult": _STREAMS,
    "hc_sinkhorn_iters": 5,
    "hc_eps": 1e-4,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": HIDDEN,
    "num_hash_layers": 2,
    "norm_topk_prob": True,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "routed_scaling_factor": 2.5,
    "swiglu_limit": 0.75,
    "rope_theta": 20000.0,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "original_max_position_embeddings": 512,
        "type": "yarn",
    },
    "attention_bias": False,
}
FP8: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}


@dataclass(frozen=True)
class _DeepSeek4(Tiny):
    """Its tensors are of several types."""

    def files(self) -> dict[str, bytes]:
        weights = Weights(self.config())
        self.weights(weights)
        tensors = {name: _stored(name, tensor) for name, tensor in weights.tensors.items()}
        return super().files() | {"model.safetensors": pack_safetensors(tensors)}


def _stored(name: str, tensor: Any) -> StoredTensor:
    if tensor.dtype == np.uint8:
        return StoredTensor("F8_E8M0" if name.endswith(".scale") else "I8", tensor.shape, tensor.tobytes())
    if tensor.dtype == np.int64:
        return StoredTensor("I64", tensor.shape, tensor.tobytes())
    dtype = "F32" if name.endswith(_F32) else "BF16"
    return StoredTensor(dtype, tensor.shape, to_bytes(dtype, tensor))


def _weights(weights: Weights) -> None:
    config = weights.config
    weights.add("embed.weight", config["vocab_size"], HIDDEN)
    weights.norm("norm")
    weights.add("head.weight", config["vocab_size"], HIDDEN)
    weights.add("hc_head_fn", _STREAMS, _STREAMS * HIDDEN)
    weights.add("hc_head_base", _STREAMS)
    weights.add("hc_head_scale", 1)
    weights.tensors["hc_head_scale"] += 1
    for number in range(config["num_hidden_layers"]):
        layer = f"layers.{number}."
        for part in ("attn", "ffn"):
            weights.norm(f"{layer}{part}_norm")
            weights.add(f"{layer}hc_{part}_fn", _MIXES, _STREAMS * HIDDEN)
            weights.add(f"{layer}hc_{part}_base", _MIXES)
            weights.add(f"{layer}hc_{part}_scale", 3)
            weights.tensors[f"{layer}hc_{part}_scale"] += 1
        _attention(weights, f"{layer}attn.", config["compress_ratios"][number])
        _feed_forward(weights, f"{layer}ffn.", is_hashed=number < config["num_hash_layers"])
    weights.norm("mtp.0.enorm")
    weights.linear("mtp.0.e_proj", HIDDEN, HIDDEN)


def _attention(weights: Weights, layer: str, ratio: int) -> None:
    config = weights.config
    head, rank, groups = config["head_dim"], config["q_lora_rank"], config["o_groups"]
    weights.add(f"{layer}attn_sink", HEADS)
    weights.linear(f"{layer}wq_a", rank, HIDDEN)
    weights.norm(f"{layer}q_norm", rank)
    weights.linear(f"{layer}wq_b", HEADS * head, rank)
    weights.linear(f"{layer}wkv", head, HIDDEN)
    weights.norm(f"{layer}kv_norm", head)
    weights.linear(f"{layer}wo_a", groups * config["o_lora_rank"], HEADS * head // groups)
    weights.linear(f"{layer}wo_b", HIDDEN, groups * config["o_lora_rank"])
    if ratio:
        _compressor(weights, f"{layer}compressor.", head, ratio)
    if ratio == 4:
        heads, size = config["index_n_heads"], config["index_head_dim"]
        weights.linear(f"{layer}indexer.wq_b", heads * size, rank)
        weights.linear(f"{layer}indexer.weights_proj", heads, HIDDEN)
        _compressor(weights, f"{layer}indexer.compressor.", size, ratio)


def _compressor(weights: Weights, name: str, size: int, ratio: int) -> None:
    """With the smaller ratio, the windows of tokens overlap."""
    width = 2 * size if ratio == 4 else size
    weights.linear(f"{name}wkv", width, HIDDEN)
    weights.linear(f"{name}wgate", width, HIDDEN)
    weights.add(f"{name}ape", ratio, width)
    weights.norm(f"{name}norm", size)


def _feed_forward(weights: Weights, layer: str, *, is_hashed: bool) -> None:
    config = weights.config
    size = config["moe_intermediate_size"]
    weights.linear(f"{layer}gate", EXPERTS, HIDDEN)
    if is_hashed:
        shape = (config["vocab_size"], config["num_experts_per_tok"])
        # Two experts that follow each other: those of a token differ.
        first = weights.octets(0, EXPERTS, shape[0]).astype(np.int64)
        weights.tensors[f"{layer}gate.tid2eid"] = np.stack([(first + at) % EXPERTS for at in range(shape[1])], axis=1)
    else:
        weights.add(f"{layer}gate.bias", EXPERTS)
    for expert in range(EXPERTS):
        for part, shape in ((1, (size, HIDDEN)), (2, (HIDDEN, size)), (3, (size, HIDDEN))):
            _expert(weights, f"{layer}experts.{expert}.w{part}", *shape)
    weights.numbered_mlp(f"{layer}shared_experts.", size)


def _expert(weights: Weights, name: str, rows: int, columns: int) -> None:
    """In FP4 if the config has expert_dtype, else the same numbers in BF16."""
    codes = weights.octets(0, 256, rows, columns // 2)
    scales = weights.octets(119, 123, rows, columns // 32)
    if "expert_dtype" in weights.config:
        weights.tensors |= {f"{name}.weight": codes, f"{name}.scale": scales}
        return
    nibbles = np.stack((codes & 15, codes >> 4), axis=-1).reshape(rows, columns // 32, 32)
    numbers = np.ldexp(np.array(FOUR_BITS, np.float32)[nibbles], scales[..., None].astype(np.int32) - 127)
    weights.tensors[f"{name}.weight"] = numbers.reshape(rows, columns)


_DROPPED = ("intermediate_size",)

REPOSITORIES: dict[str, Tiny] = {
    "deepseek4": _DeepSeek4(
        "DeepseekV4ForCausalLM",
        "deepseek_v4",
        _weights,
        lambda: byte_pairs("deepseek-v3"),
        {**CONFIG, "expert_dtype": "fp4", "quantization_config": FP8},
        drop=_DROPPED,
    ),
    "deepseek4_bf16": _DeepSeek4(
        "DeepseekV4ForCausalLM",
        "deepseek_v4",
        _weights,
        lambda: byte_pairs("deepseek-v3"),
        CONFIG,
        drop=_DROPPED,
    ),
}
