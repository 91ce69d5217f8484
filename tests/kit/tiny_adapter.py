"""Makes a complete PEFT LoRA repository for the demo's tiny Llama."""

import random
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from proxy.standins.tiny_llama import FEED_FORWARD, HEADS, HIDDEN, KV_HEADS, LAYERS

KEYS = HIDDEN // HEADS * KV_HEADS
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
    "mlp.up_proj": (FEED_FORWARD, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED_FORWARD),
}
"""Rows and columns of the weights that an adapter may change."""
ATTENTION = tuple(name for name in SHAPES if name.startswith("self_attn"))

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def tiny_adapter(
    base: str,
    *,
    rank: int = 4,
    modules: Sequence[str] = ATTENTION,
    seed: int = 0,
    dtype: str = "F32",
    **config: Any,
) -> dict[str, bytes]:
    """The files. `config` goes into adapter_config.json. The adapter's change is as large as the base weights."""
    return {
        "adapter_config.json": adapter_config(base, rank=rank, target_modules=[*modules], **config),
        "adapter_model.safetensors": safetensors(adapter_tensors(rank=rank, modules=modules, seed=seed, dtype=dtype)),
    }


def adapter_config(base: str, *, rank: int = 4, **fields: Any) -> bytes:
    plain = {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "lora_alpha": 2 * rank,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return orjson.dumps(plain | fields, option=orjson.OPT_INDENT_2)


def adapter_tensors(
    *, rank: int = 4, modules: Iterable[str] = ATTENTION, seed: int = 0, dtype: str = "F32", layers: int = LAYERS
) -> Tensors:
    rng = random.Random(seed)
    tensors: Tensors = {}
    for layer in range(layers):
        for module in modules:
            rows, columns = SHAPES[module]
            prefix = f"base_model.model.model.layers.{layer}.{module}.lora_"
            tensors[f"{prefix}A.weight"] = dtype, (rank, columns), numbers(rng, dtype, rank * columns)
            tensors[f"{prefix}B.weight"] = dtype, (rows, rank), numbers(rng, dtype, rows * rank)
    return tensors


def numbers(rng: random.Random, dtype: str, count: int) -> bytes:
    values = [rng.gauss(0, 0.07) for _ in range(count)]
    if dtype == "F16":
        return struct.pack(f"<{count}e", *values)
    content = struct.pack(f"<{count}f", *values)
    if dtype == "BF16":  # the upper half of an F32
        halves = bytearray(2 * count)
        halves[0::2], halves[1::2] = content[2::4], content[3::4]
        return bytes(halves)
    return content


def safetensors(tensors: Tensors) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        start, end = end, end + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(data for _, _, data in tensors.values())])
