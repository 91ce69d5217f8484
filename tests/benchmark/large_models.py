"""The configurations and tensors of real mixtures of experts, for sparse files without weights."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil, prod
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories import REPOSITORIES

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, safetensors dtype, shape."""
WIDTHS = {"BF16": 2, "F32": 4, "I32": 4, "I64": 8, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1}
BLOCK = 128
"""Rows and columns of FP8 numbers that share a scale."""
SETTINGS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}

PACKED_GROUP = 32
"""Packed numbers of a row that share a scale."""
PACKED_SETTINGS = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": PACKED_GROUP,
                "dynamic": False,
                "actorder": None,
            },
        }
    },
}


@dataclass(frozen=True)
class LargeModel:
    tiny: str
    """The repository in REPOSITORIES that has the same architecture."""
    shards: int
    config: Mapping[str, Any]
    tensors: Callable[[Mapping[str, Any]], Iterator[Tensor]]

    def write(self, folder: Path, tokenizer: Mapping[str, bytes], vocabulary: int) -> dict[str, int]:
        """Writes the files that the Hub serves; returns the size of each shard's header."""
        config = json.loads(REPOSITORIES[self.tiny].files()["config.json"]) | self.config | {"vocab_size": vocabulary}
        tensors = list(self.tensors(config))
        share = sum(map(size_of, tensors)) / self.shards
        shards: list[list[Tensor]] = [[] for _ in range(self.shards)]
        before = 0
        for tensor in tensors:
            shards[int(before / share)].append(tensor)
            before += size_of(tensor)
        headers: dict[str, int] = {}
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            path = f"model-{number:05}-of-{self.shards:05}.safetensors"
            headers[path] = write_sparse(folder / path, shard)
            weight_map |= {name: path for name, _, _ in shard}
        index = json.dumps({"metadata": {"total_size": before}, "weight_map": weight_map}).encode()
        small = {**tokenizer, "config.json": json.dumps(config).encode(), "model.safetensors.index.json": index}
        for path, content in small.items():
            (folder / path).write_bytes(content)
            (folder / f"{path}.sha256").write_text(sha256(content).hexdigest())
        return headers


def size_of(tensor: Tensor) -> int:
    """In bytes."""
    _, dtype, shape = tensor
    return WIDTHS[dtype] * prod(shape)


def write_sparse(path: Path, tensors: list[Tensor]) -> int:
    """Writes a sparse safetensors file of zeros; returns the size of its header."""
    header, end = {}, 0
    # The package safetensors sorts by type, then by name.
    for name, dtype, shape in sorted(tensors, key=lambda tensor: (-WIDTHS[tensor[1]], tensor[0])):
        start, end = end, end + size_of((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    path.with_name(f"{path.name}.sha256").write_text(sha256(path.name.encode()).hexdigest())
    return 8 + len(text)


def qwen3_moe(config: Mapping[str, Any]) -> Iterator[Tensor]:
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield from ends(config)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate": (config["num_experts"], hidden),
        }.items():
            yield f"{layer}.{name}.weight", "BF16", shape
        for expert in range(config["num_experts"]):
            for name, shape in feed_forward(f"{layer}.mlp.experts.{expert}", config["moe_intermediate_size"], hidden):
                yield name, "BF16", shape


def deepseek_v3(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """In FP8, with the layer for multi-token prediction."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    low, shared_low, turned = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value, experts = config["qk_nope_head_dim"], config["v_head_dim"], config["n_routed_experts"]
    yield from ends(config)
    for number in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        layer = f"model.layers.{number}"
        for name, size in {
            "input_layernorm": hidden,
            "post_attention_layernorm": hidden,
            "self_attn.q_a_layernorm": low,
            "self_attn.kv_a_layernorm": shared_low,
        }.items():
            yield f"{layer}.{name}.weight", "BF16", (size,)
        matrices = {
            "self_attn.q_a_proj": (low, hidden),
            "self_attn.q_b_proj": (heads * (nope + turned), low),
            "self_attn.kv_a_proj_with_mqa": (shared_low + turned, hidden),
            "self_attn.kv_b_proj": (heads * (nope + value), shared_low),
            "self_attn.o_proj": (hidden, heads * value),
        }
        named = [(f"{layer}.{name}.weight", shape) for name, shape in matrices.items()]
        if number < config["first_k_dense_replace"]:
            named += feed_forward(f"{layer}.mlp", config["intermediate_size"], hidden)
        else:
            yield f"{layer}.mlp.gate.weight", "BF16", (experts, hidden)
            yield f"{layer}.mlp.gate.e_score_correction_bias", "F32", (experts,)
            names = [f"{layer}.mlp.experts.{expert}" for expert in range(experts)] + [f"{layer}.mlp.shared_experts"]
            for name in names:
                named += feed_forward(name, config["moe_intermediate_size"], hidden)
        for name, shape in named:
            yield name, "F8_E4M3", shape
            yield f"{name}_scale_inv", "F32", (ceil(shape[0] / BLOCK), ceil(shape[1] / BLOCK))


def glm_5(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """In BF16, with an indexer in each layer and the layer for multi-token prediction."""
    hidden, low = config["hidden_size"], config["q_lora_rank"]
    heads, size = config["index_n_heads"], config["index_head_dim"]
    yield from (
        (name, "BF16" if dtype == "F8_E4M3" else dtype, shape)
        for name, dtype, shape in deepseek_v3(config)
        if not name.endswith("_scale_inv")
    )
    for number in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        indexer = f"model.layers.{number}.self_attn.indexer"
        yield f"{indexer}.wq_b.weight", "BF16", (heads * size, low)
        yield f"{indexer}.wk.weight", "BF16", (size, hidden)
        yield f"{indexer}.weights_proj.weight", "BF16", (heads, hidden)
        yield f"{indexer}.k_norm.weight", "BF16", (size,)
        yield f"{indexer}.k_norm.bias", "BF16", (size,)


def kimi_k2(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """The routed experts are packed integers of 4 bits, as in Kimi-K2-Thinking; all other matrices are BF16."""
    for name, dtype, shape in deepseek_v3(config):
        if name.endswith("_scale_inv"):
            continue
        if ".mlp.experts." not in name:
            yield name, "BF16" if dtype == "F8_E4M3" else dtype, shape
            continue
        rows, columns = shape
        yield f"{name}_packed", "I32", (rows, columns // 8)
        yield f"{name}_scale", "BF16", (rows, columns // PACKED_GROUP)
        yield f"{name}_shape", "I32", (2,)


def deepseek_v4(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """Experts in FP4, other matrices in FP8 or BF16, as in the authors' repositories."""
    hidden, vocabulary, streams = config["hidden_size"], config["vocab_size"], config["hc_mult"]
    mixes = (2 + streams) * streams
    yield "embed.weight", "BF16", (vocabulary, hidden)
    yield "norm.weight", "BF16", (hidden,)
    yield "head.weight", "BF16", (vocabulary, hidden)
    yield "hc_head_fn", "F32", (streams, streams * hidden)
    yield "hc_head_base", "F32", (streams,)
    yield "hc_head_scale", "F32", (1,)
    for number in range(config["num_hidden_layers"]):
        layer = f"layers.{number}"
        for part in ("attn", "ffn"):
            yield f"{layer}.{part}_norm.weight", "BF16", (hidden,)
            yield f"{layer}.hc_{part}_fn", "F32", (mixes, streams * hidden)
            yield f"{layer}.hc_{part}_base", "F32", (mixes,)
            yield f"{layer}.hc_{part}_scale", "F32", (3,)
        yield from _deepseek_v4_attention(f"{layer}.attn", config, config["compress_ratios"][number])
        experts, size = config["n_routed_experts"], config["moe_intermediate_size"]
        yield f"{layer}.ffn.gate.weight", "BF16", (experts, hidden)
        if number < config["num_hash_layers"]:
            yield f"{layer}.ffn.gate.tid2eid", "I64", (vocabulary, config["num_experts_per_tok"])
        else:
            yield f"{layer}.ffn.gate.bias", "F32", (experts,)
        shapes = {"w1": (size, hidden), "w2": (hidden, size), "w3": (size, hidden)}
        for name, (rows, columns) in shapes.items():
            yield from in_blocks(f"{layer}.ffn.shared_experts.{name}", rows, columns)
            for expert in range(experts):
                yield f"{layer}.ffn.experts.{expert}.{name}.weight", "I8", (rows, columns // 2)
                yield f"{layer}.ffn.experts.{expert}.{name}.scale", "F8_E8M0", (rows, columns // 32)


def _deepseek_v4_attention(layer: str, config: Mapping[str, Any], ratio: int) -> Iterator[Tensor]:
    hidden, heads, head, rank = (
        config[key] for key in ("hidden_size", "num_attention_heads", "head_dim", "q_lora_rank")
    )
    groups = config["o_groups"]
    yield f"{layer}.attn_sink", "F32", (heads,)
    yield f"{layer}.q_norm.weight", "BF16", (rank,)
    yield f"{layer}.kv_norm.weight", "BF16", (head,)
    yield from in_blocks(f"{layer}.wq_a", rank, hidden)
    yield from in_blocks(f"{layer}.wq_b", heads * head, rank)
    yield from in_blocks(f"{layer}.wkv", head, hidden)
    yield from in_blocks(f"{layer}.wo_a", groups * config["o_lora_rank"], heads * head // groups)
    yield from in_blocks(f"{layer}.wo_b", hidden, groups * config["o_lora_rank"])
    compressors = [(f"{layer}.compressor", head)] if ratio else []
    if ratio == 4:
        size = config["index_head_dim"]
        yield from in_blocks(f"{layer}.indexer.wq_b", config["index_n_heads"] * size, rank)
        yield f"{layer}.indexer.weights_proj.weight", "BF16", (config["index_n_heads"], hidden)
        compressors.append((f"{layer}.indexer.compressor", size))
    for name, size in compressors:
        width = 2 * size if ratio == 4 else size
        yield f"{name}.wkv.weight", "BF16", (width, hidden)
        yield f"{name}.wgate.weight", "BF16", (width, hidden)
        yield f"{name}.ape", "F32", (ratio, width)
        yield f"{name}.norm.weight", "BF16", (size,)


def in_blocks(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    """A matrix in FP8 with DeepSeek V4's scales."""
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.scale", "F8_E8M0", (ceil(rows / BLOCK), ceil(columns / BLOCK))


def ends(config: Mapping[str, Any]) -> Iterator[Tensor]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", "BF16", (vocabulary, hidden)
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (vocabulary, hidden)


def feed_forward(prefix: str, size: int, hidden: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, shape in (("gate", (size, hidden)), ("up", (size, hidden)), ("down", (hidden, size))):
        yield f"{prefix}.{name}_proj.weight", shape


DEEPSEEK_V4 = {
    "num_hidden_layers": 43,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "sliding_window": 128,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "routed_scaling_factor": 1.5,
    "quantization_config": {**SETTINGS, "scale_fmt": "ue8m0"},
}
MODELS = {
    "Qwen3-235B-A22B": LargeModel(
        "qwen3moe",
        118,
        {
            "num_hidden_layers": 94,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "moe_intermediate_size": 1536,
            "intermediate_size": 12288,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
        qwen3_moe,
    ),
    "DeepSeek-V3": LargeModel(
        "deepseek3",
        160,
        {
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "first_k_dense_replace": 3,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "quantization_config": SETTINGS,
        },
        deepseek_v3,
    ),
    "GLM-5": LargeModel(
        "glm_dsa",
        282,
        {
            "num_hidden_layers": 78,
            "hidden_size": 6144,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "intermediate_size": 12288,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 3,
            "q_lora_rank": 2048,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64,
            "v_head_dim": 256,
            "index_n_heads": 32,
            "index_head_dim": 128,
            "index_topk": 2048,
            "indexer_types": None,
        },
        glm_5,
    ),
    "DeepSeek-V4-Flash": LargeModel("deepseek4", 46, DEEPSEEK_V4, deepseek_v4),
    "DeepSeek-V4-Pro": LargeModel(
        "deepseek4",
        64,
        {
            **DEEPSEEK_V4,
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "num_attention_heads": 128,
            "q_lora_rank": 1536,
            "o_groups": 16,
            "moe_intermediate_size": 3072,
            "n_routed_experts": 384,
            "index_topk": 1024,
            "routed_scaling_factor": 2.5,
            "compress_ratios": [128, *[128, 4] * 30, 0],
        },
        deepseek_v4,
    ),
    "Kimi-K2": LargeModel(
        "kimi_k2",
        62,
        {
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 384,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "num_nextn_predict_layers": 0,
            "quantization_config": PACKED_SETTINGS,
        },
        kimi_k2,
    ),
}
