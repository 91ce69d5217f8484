"""The smallest complete models of some families: configuration, names and shapes; the numbers do not matter."""

import json
import math
from collections.abc import Mapping
from typing import Any

from proxy.planning.safetensors import ELEMENT_BITS, SafetensorsHeader, read_header

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor."""

LLAMA, QWEN2, PHI3, MIXTRAL = "LlamaForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM", "MixtralForCausalLM"
GEMMA, GEMMA2, GEMMA3 = "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"
FAMILIES = (LLAMA, QWEN2, PHI3, MIXTRAL, GEMMA, GEMMA2, GEMMA3)
HIDDEN, HEAD, FEED_FORWARD, LAYERS, ROWS = 64, 32, 96, 2, 16
FACTORS = {"short_factor": [1.5] * (HEAD // 2), "long_factor": [2.5] * (HEAD // 2)}
MORE: Mapping[str, Mapping[str, Any]] = {
    PHI3: {
        "rope_scaling": {"type": "longrope", "rope_type": "longrope", **FACTORS},
        "original_max_position_embeddings": 256,
    },
    MIXTRAL: {"num_local_experts": 2, "num_experts_per_tok": 2},
    GEMMA2: {"sliding_window": 128, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    GEMMA3: {"sliding_window": 128},
}


def config(architecture: str, /, **changes: Any) -> dict[str, Any]:
    """A valid config.json with `changes`; the value ... removes a key."""
    result = {
        "architectures": [architecture],
        "vocab_size": ROWS,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 20000.0,
        **MORE.get(architecture, {}),
        **changes,
    }
    return {key: value for key, value in result.items() if value is not ...}


def shapes(architecture: str, dtype: str = "BF16", rows: int = ROWS) -> Shapes:
    """Exactly the tensors that the converter needs; `rows` is the number of tokens."""
    result: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        result |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer(architecture).items()}
    return {name: (dtype, shape) for name, shape in result.items()}


def _layer(architecture: str) -> dict[str, tuple[int, ...]]:
    norms = {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
    attention: dict[str, tuple[int, ...]] = {
        f"self_attn.{part}_proj.weight": (rows, HIDDEN)
        for part, rows in (("q", HIDDEN), ("k", HEAD), ("v", HEAD), ("o", HIDDEN))
    }
    up, down = (FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD)
    feed_forward = {"mlp.gate_proj.weight": up, "mlp.up_proj.weight": up, "mlp.down_proj.weight": down}
    if architecture == PHI3:
        attention = {"self_attn.qkv_proj.weight": (4 * HEAD, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN)}
        feed_forward = {"mlp.gate_up_proj.weight": (2 * FEED_FORWARD, HIDDEN), "mlp.down_proj.weight": down}
    if architecture == QWEN2:
        attention |= {
            f"self_attn.{part}_proj.bias": (rows,) for part, rows in (("q", HIDDEN), ("k", HEAD), ("v", HEAD))
        }
    if architecture in (GEMMA2, GEMMA3):
        norms |= {f"{place}_feedforward_layernorm.weight": (HIDDEN,) for place in ("pre", "post")}
    if architecture == GEMMA3:
        attention |= {f"self_attn.{part}_norm.weight": (HEAD,) for part in "qk"}
    if architecture == MIXTRAL:
        feed_forward = {"block_sparse_moe.gate.weight": (2, HIDDEN)}
        for expert in range(2):
            for name, shape in (("w1", up), ("w2", down), ("w3", up)):
                feed_forward[f"block_sparse_moe.experts.{expert}.{name}.weight"] = shape
    return {**norms, **attention, **feed_forward}


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, int]:
    """The header of a file with these tensors, and the number of data bytes after it."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ELEMENT_BITS[dtype] // 8
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return with_length(json.dumps(fields).encode()), end


def with_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def weights(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """A whole file; its data counts up, so that each place looks different."""
    content, size = header_bytes(tensors)
    return content + (bytes(range(251)) * (size // 251 + 1))[:size]


def header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> SafetensorsHeader:
    content, size = header_bytes(tensors)
    return read_header("acme/model/model.safetensors", content, len(content) + size)
