"""Models with real shapes but no data, and llama-quantize's type for each of their tensors.

`LLAMA_QUANTIZE=path python -m tests.gguf.make_tensor_types` runs the `llama-quantize --dry-run` of b10488 and
writes tensor_types.json. The model files are sparse, so 405 billion numbers take no space.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.gguf.header import Field, ValueType, write_header
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out

FIGURES = Path(__file__).with_name("tensor_types.json")
REFUSED = "refused"
_NUMBER = re.compile("[0-9]+")
_LINE = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)

Shapes = Mapping[str, Sequence[int]]
"""By the name in a block without `.weight`. The length of a row comes first."""


@dataclass(frozen=True)
class Model:
    """`layers` are the shapes of each block. From the blocks in `from_block` on, other shapes apply."""

    architecture: str
    blocks: int
    metadata: Mapping[str, Any]
    ends: Shapes
    layers: Shapes
    from_block: Mapping[int, Shapes] = field(default_factory=dict)

    def fields(self) -> dict[str, Field]:
        keys = {"block_count": self.blocks, "context_length": 2048, "attention.layer_norm_rms_epsilon": 1e-5}
        keys |= {"attention.layer_norm_epsilon": 1e-5, **self.metadata}
        metadata = {f"{self.architecture}.{key}": _field(value) for key, value in keys.items()}
        return {"general.architecture": Field.string(self.architecture), **metadata}

    def tensors(self) -> tuple[TensorInfo, ...]:
        return lay_out(_tensor(name, shape) for name, shape in self._named())

    def _named(self) -> Iterator[tuple[str, Sequence[int]]]:
        yield from self.ends.items()
        layer = self.layers
        for block in range(self.blocks):
            layer = self.from_block.get(block, layer)
            for name, shape in layer.items():
                yield f"blk.{block}.{name}", shape

    def file(self) -> tuple[bytes, int]:
        """The header, and the size of the whole file."""
        tensors = self.tensors()
        header = write_header(self.fields(), tensors)
        return header, len(header) + tensors[-1].offset + tensors[-1].size


def _field(value: float | str | Sequence[int]) -> Field:
    if isinstance(value, int):
        return Field.uint32(value)
    if isinstance(value, float):
        return Field.of(ValueType.FLOAT32, value)
    return Field.string(value) if isinstance(value, str) else Field.array(ValueType.UINT32, value)


def _tensor(name: str, shape: Sequence[int]) -> TensorInfo:
    is_full_name = name.endswith((".bias", "ssm_a", "ssm_d"))
    kind = TensorType.F32 if len(shape) == 1 or "_norm" in name or "ffn_gate_inp" in name else TensorType.BF16
    return TensorInfo(name if is_full_name else f"{name}.weight", tuple(shape), kind)


def _ends(hidden: int, words: int, *, tied: bool = False) -> dict[str, Sequence[int]]:
    output = {} if tied else {"output": (hidden, words)}
    return {"token_embd": (hidden, words), "output_norm": (hidden,), **output}


def _attention(hidden: int, heads: int, kv_heads: int, head: int = 128) -> dict[str, Sequence[int]]:
    return {
        "attn_norm": (hidden,),
        "attn_q": (hidden, heads * head),
        "attn_k": (hidden, kv_heads * head),
        "attn_v": (hidden, kv_heads * head),
        "attn_output": (heads * head, hidden),
    }


def _feed_forward(hidden: int, inner: int, end: str = "", experts: Sequence[int] = ()) -> dict[str, Sequence[int]]:
    return {
        f"ffn_gate{end}": (hidden, inner, *experts),
        f"ffn_up{end}": (hidden, inner, *experts),
        f"ffn_down{end}": (inner, hidden, *experts),
    }


def _fused(hidden: int, qkv: int, inner: int, *, up: int = 1, heads: int = 0) -> dict[str, Sequence[int]]:
    return {
        "attn_norm": (hidden,),
        "attn_qkv": (hidden, qkv),
        "attn_output": (heads or hidden, hidden),
        "ffn_up": (hidden, up * inner),
        "ffn_down": (inner, hidden),
    }


def _plain(
    architecture: str,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    blocks: int,
    words: int,
    *,
    head: int = 128,
    tied: bool = False,
    more: Shapes | None = None,
    keys: Mapping[str, Any] | None = None,
) -> Model:
    """The many arguments are the sizes in config.json: each model of the table below is one line of them."""
    layers = {**_attention(hidden, heads, kv_heads, head), **_feed_forward(hidden, inner), **(more or {})}
    metadata = {**_keys(hidden, heads, kv_heads), "attention.key_length": head, **(keys or {})}
    return Model(architecture, blocks, metadata, _ends(hidden, words, tied=tied), layers)


def _keys(hidden: int, heads: int, kv_heads: int | None = None) -> dict[str, Any]:
    kv_count = {} if kv_heads is None else {"attention.head_count_kv": kv_heads}
    return {"embedding_length": hidden, "attention.head_count": heads, **kv_count}


def _experts(count: int, used: int = 2) -> dict[str, Any]:
    return {"expert_count": count, "expert_used_count": used}


def _mixtral(layers: Shapes) -> Model:
    metadata = {**_keys(4096, 32, 8), **_experts(8)}
    return Model("llama", 32, metadata, _ends(4096, 32000), {**_attention(4096, 32, 8), **layers})


def _one_by_one(hidden: int, inner: int, experts: int) -> dict[str, Sequence[int]]:
    """Experts in tensors of their own, as old versions of llama.cpp stored them."""
    return {
        f"ffn_{name}.{number}": shape
        for number in range(experts)
        for name, shape in (("gate", (hidden, inner)), ("up", (hidden, inner)), ("down", (inner, hidden)))
    }


def _deepseek2(hidden: int, heads: int, blocks: int, words: int, projections: Shapes) -> Model:
    attention: Shapes = {
        **projections,
        "attn_kv_a_mqa": (hidden, 576),
        "attn_kv_a_norm": (512,),
        "attn_output": (heads * 128, hidden),
    }
    layers = {
        **attention,
        "ffn_gate_inp": (hidden, 64),
        **_feed_forward(hidden, 1408, "_exps", (64,)),
        **_feed_forward(hidden, 2816, "_shexp"),
    }
    metadata = {**_keys(hidden, heads, 1), **_experts(64, 6), "attention.kv_lora_rank": 512}
    metadata |= {"attention.q_lora_rank": 1536, "expert_feed_forward_length": 1408, "expert_shared_count": 2}
    metadata |= {"leading_dense_block_count": 1, "vocab_size": words}
    dense = {**attention, **_feed_forward(hidden, 10944)}
    return Model("deepseek2", blocks, metadata, _ends(hidden, words), dense, {1: layers})


def _mamba(hidden: int, blocks: int, rank: int, state: int = 16) -> Model:
    inner = 2 * hidden
    metadata = {"embedding_length": hidden, "ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state}
    layers = {"attn_norm": (hidden,), **_mixer(hidden, inner, rank, state)}
    return Model("mamba", blocks, metadata | {"ssm.time_step_rank": rank}, _ends(hidden, 50280, tied=True), layers)


def _mixer(hidden: int, inner: int, rank: int, state: int) -> dict[str, Sequence[int]]:
    return {
        "ssm_in": (hidden, 2 * inner),
        "ssm_conv1d": (4, inner),
        "ssm_conv1d.bias": (inner,),
        "ssm_x": (inner, rank + 2 * state),
        "ssm_dt": (rank, inner),
        "ssm_a": (state, inner),
        "ssm_d": (inner,),
        "ssm_out": (inner, hidden),
    }


def _jamba() -> Model:
    hidden, inner = 4096, 8192
    mixer = {"attn_norm": (hidden,), **_mixer(hidden, inner, 256, 16)}
    dense = _feed_forward(hidden, 14336)
    experts = {"ffn_gate_inp": (hidden, 16), **_feed_forward(hidden, 14336, "_exps", (16,))}
    metadata = {**_keys(hidden, 32), **_experts(16), "attention.head_count_kv": [0, 0, 0, 0, 8, 0, 0, 0] * 4}
    metadata |= {"ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": 16, "ssm.time_step_rank": 256}
    layers = {
        block: {**(_attention(hidden, 32, 8) if block % 8 == 4 else mixer), **(experts if block % 2 else dense)}
        for block in range(32)
    }
    return Model("jamba", 32, metadata, _ends(hidden, 65536), {}, layers)


def _gemma3n() -> Model:
    hidden, blocks = 2048, 30
    layers = {
        **_attention(hidden, 8, 2, 256),
        **_feed_forward(hidden, 8192),
        "altup_correct_coef": (4, 4),
        "altup_router": (hidden, 4),
        "laurel_l": (hidden, 64),
        "laurel_r": (64, hidden),
        "inp_gate": (hidden, 256),
        "proj": (256, hidden),
    }
    ends = {
        **_ends(hidden, 262400, tied=True),
        "per_layer_token_embd": (256 * blocks, 262144),
        "per_layer_model_proj": (hidden, 256 * blocks),
        "altup_proj": (hidden, hidden, 3),
    }
    metadata = {**_keys(hidden, 8, 2), "attention.sliding_window": 512, "attention.key_length": 256}
    return Model("gemma3n", blocks, metadata, ends, layers)


def _bert() -> Model:
    ends = {"token_embd": (384, 30522), "position_embd": (384, 512), "token_types": (384, 2), "token_embd_norm": (384,)}
    layers = {**_attention(384, 12, 12, 32), "ffn_up": (384, 1536), "ffn_down": (1536, 384)}
    return Model("bert", 12, _keys(384, 12), ends, layers)


def _t5() -> Model:
    """The encoder and the decoder each have blocks; their names have a prefix before `blk`."""
    attention = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_o"), (512, 512))
    feed_forward = {"ffn_up": (512, 2048), "ffn_down": (2048, 512)}
    ends: dict[str, Sequence[int]] = {"token_embd": (512, 32128), "dec.blk.0.attn_rel_b": (8, 32)}
    for block in range(12):
        for half in ("enc", "dec"):
            ends |= {f"{half}.blk.{block}.{name}": shape for name, shape in (attention | feed_forward).items()}
        ends |= {f"dec.blk.{block}.cross_{name}": shape for name, shape in attention.items()}
    return Model("t5", 12, {**_keys(512, 8), "attention.relative_buckets_count": 32}, ends, {})


def _rwkv7() -> Model:
    square = ("receptance", "key", "value", "output")
    small = {"w1": 64, "w2": 64, "a1": 64, "a2": 64, "v1": 32, "v2": 32, "g1": 128, "g2": 128}
    layers: Shapes = {
        **{f"time_mix_{name}": (768, 768) for name in square},
        **{f"time_mix_{name}": (768, size) if name.endswith("1") else (size, 768) for name, size in small.items()},
        "time_mix_lerp_fused": (768, 1, 1, 6),
        "channel_mix_key": (768, 3072),
        "channel_mix_value": (3072, 768),
    }
    metadata = {"embedding_length": 768, "wkv.head_size": 64, "attention.decay_lora_rank": 64}
    metadata |= {"attention.iclr_lora_rank": 64, "attention.value_residual_mix_lora_rank": 32}
    return Model("rwkv7", 12, metadata, _ends(768, 65536), layers)


def _bailing_moe3() -> Model:
    attention: Shapes = {
        "attn_q": (1536, 3072),
        "attn_kv_a_mqa": (1536, 576),
        "attn_k_b": (128, 512, 16),
        "attn_v_b": (512, 128, 16),
        "attn_output": (2048, 1536),
    }
    layers = {**attention, "ffn_gate_inp": (1536, 256), **_feed_forward(1536, 512, "_exps", (256,))}
    metadata = {**_keys(1536, 16, 1), **_experts(256, 8), "attention.key_length_mla": 192, "expert_shared_count": 1}
    metadata |= {"attention.value_length_mla": 128, "attention.kv_lora_rank": 512, "ssm.conv_kernel": 4}
    metadata |= {"kda.head_dim": 128, "kda.gate_lower_bound": -5.0, "expert_feed_forward_length": 512}
    metadata |= {"leading_dense_block_count": 1, "expert_gating_func": 2}
    return Model("bailingmoe3", 20, metadata, _ends(1536, 157184), layers)


def _qwen35() -> Model:
    """With a layer for multi-token prediction behind the 32 others."""
    hidden = 4096
    net: Shapes = {
        "attn_norm": (hidden,),
        "attn_qkv": (hidden, 8192),
        "attn_gate": (hidden, 4096),
        "ssm_conv1d": (4, 8192),
        "ssm_dt.bias": (32,),
        "ssm_a": (32,),
        "ssm_alpha": (hidden, 32),
        "ssm_beta": (hidden, 32),
        "ssm_norm": (128,),
        "ssm_out": (4096, hidden),
    }
    attention: Shapes = {
        **_attention(hidden, 16, 4, 256),
        "attn_q": (hidden, 2 * 16 * 256),
        "attn_q_norm": (256,),
        "attn_k_norm": (256,),
    }
    rest: Shapes = {"post_attention_norm": (hidden,), **_feed_forward(hidden, 12288)}
    norms = dict.fromkeys(("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"), (hidden,))
    layers = {block: {**(net if (block + 1) % 4 else attention), **rest} for block in range(32)}
    layers[32] = {**attention, **rest, **norms, "nextn.eh_proj": (2 * hidden, hidden)}
    metadata = {**_keys(hidden, 16, 4), "attention.key_length": 256, "attention.value_length": 256}
    metadata |= {"nextn_predict_layers": 1, "full_attention_interval": 4, "rope.dimension_sections": [11, 11, 10, 0]}
    metadata |= {"ssm.conv_kernel": 4, "ssm.inner_size": 4096, "ssm.state_size": 128, "ssm.group_count": 16}
    metadata |= {"ssm.time_step_rank": 32, "rope.dimension_count": 64, "feed_forward_length": 12288}
    return Model("qwen35", 33, metadata, _ends(hidden, 248320), {}, layers)


def _lfm2() -> Model:
    conv = {"shortconv.conv": (3, 1024), "shortconv.in_proj": (1024, 3072), "shortconv.out_proj": (1024, 1024)}
    layers: dict[int, Shapes] = {}
    for block in range(16):
        attention = block in (2, 5, 8, 10, 12, 14)
        layers[block] = {**(_attention(1024, 16, 8, 64) if attention else conv), **_feed_forward(1024, 4608)}
    heads = [8 if block in (2, 5, 8, 10, 12, 14) else 0 for block in range(16)]
    metadata = {**_keys(1024, 16), "attention.head_count_kv": heads, "shortconv.l_cache": 3}
    ends = {"token_embd": (1024, 65536), "token_embd_norm": (1024,)}
    return Model("lfm2", 16, metadata, ends, {}, layers)


_BIASES = {f"attn_{name}.bias": (512,) for name in "qkv"}
_QWEN3_MOE = {"ffn_gate_inp": (2048, 128), **_feed_forward(2048, 768, "_exps", (128,))}
_GPT_OSS = {"ffn_gate_inp": (2880, 32), **_feed_forward(2880, 2880, "_exps", (32,))}

MODELS: Mapping[str, Model] = {
    "Llama 3.2 1B, tied": _plain("llama", 2048, 8192, 32, 8, 16, 128256, head=64, tied=True),
    "Llama 3 8B": _plain("llama", 4096, 14336, 32, 8, 32, 128256),
    "Llama 3 70B": _plain("llama", 8192, 28672, 64, 8, 80, 128256),
    "Llama 65B": _plain("llama", 8192, 22016, 64, 64, 80, 32000),
    "Llama 3 405B": _plain("llama", 16384, 53248, 128, 8, 126, 128256),
    "Mixtral 8x7B": _mixtral({"ffn_gate_inp": (4096, 8), **_feed_forward(4096, 14336, "_exps", (8,))}),
    "Mixtral 8x7B, experts one by one": _mixtral({"ffn_gate_inp": (4096, 8), **_one_by_one(4096, 14336, 8)}),
    "Qwen2 0.5B": _plain("qwen2", 896, 4864, 14, 2, 24, 151936, head=64, tied=True, more=_BIASES),
    "Qwen2 7B": _plain("qwen2", 3584, 18944, 28, 4, 28, 152064, more=_BIASES),
    "Qwen2 72B": _plain("qwen2", 8192, 29568, 64, 8, 80, 152064, more=_BIASES),
    "Qwen3 30B-A3B": Model(
        "qwen3moe",
        48,
        {**_keys(2048, 32, 4), **_experts(128, 8), "attention.key_length": 128},
        _ends(2048, 151936),
        {**_attention(2048, 32, 4), "attn_q_norm": (128,), "attn_k_norm": (128,), **_QWEN3_MOE},
    ),
    "Falcon 7B": Model("falcon", 32, _keys(4544, 71, 1), _ends(4544, 65024), _fused(4544, 4672, 18176)),
    "Falcon 40B": Model("falcon", 60, _keys(8192, 128, 8), _ends(8192, 65024), _fused(8192, 9216, 32768)),
    "Phi-3 mini": Model("phi3", 32, _keys(3072, 32, 32), _ends(3072, 32064), _fused(3072, 9216, 8192, up=2)),
    "OLMo, 80 layers": _plain("olmo", 8192, 22016, 64, 64, 80, 50304),
    "DeepSeek V2 Lite": _deepseek2(
        2048, 16, 27, 102400, {"attn_q": (2048, 3072), "attn_k_b": (128, 512, 16), "attn_v_b": (512, 128, 16)}
    ),
    "DeepSeek V2, undivided": _deepseek2(
        5120, 128, 60, 102400, {"attn_q_a": (5120, 1536), "attn_q_b": (1536, 24576), "attn_kv_b": (512, 32768)}
    ),
    "GLM-4 9B": Model(
        "glm4",
        40,
        _keys(4096, 32, 2),
        _ends(4096, 151552),
        {**_attention(4096, 32, 2), "ffn_up": (4096, 27392), "ffn_down": (13696, 4096)},
    ),
    "Gemma 3 4B": _plain("gemma3", 2560, 10240, 8, 4, 34, 262208, head=256, tied=True),
    "Gemma 3n E2B": _gemma3n(),
    "Mamba 2.8B": _mamba(2560, 64, 160),
    "Mamba 130M": _mamba(768, 24, 48),
    "Jamba": _jamba(),
    "BERT small": _bert(),
    "T5": _t5(),
    "RWKV7 0.1B": _rwkv7(),
    "GPT-2": Model(
        "gpt2", 12, _keys(768, 12), {**_ends(768, 50257), "position_embd": (768, 1024)}, _fused(768, 2304, 3072)
    ),
    "GPT-OSS 20B": Model(
        "gpt-oss",
        24,
        {**_keys(2880, 64, 8), **_experts(32, 4), "attention.sliding_window": 128, "expert_feed_forward_length": 2880}
        | {"attention.key_length": 64},
        _ends(2880, 201088),
        {**_attention(2880, 64, 8, 64), **_GPT_OSS},
    ),
    "Jais 2 70B": _plain("jais2", 7168, 28672, 56, 56, 68, 150272),
    "Deci, 80 layers": _plain(
        "deci", 8192, 21504, 64, 8, 80, 128256, keys={"attention.head_count_kv": [8, 0, 16, 8] * 20}
    ),
    "Bailing MoE 3": _bailing_moe3(),
    "LFM2 350M": _lfm2(),
    "Qwen3.5 9B, with its draft layer": _qwen35(),
}


def group_by_type(types: Mapping[str, str]) -> dict[str, str]:
    """Names by their types. `Q6_K 0-3,6 Q4_K` means Q6_K in the blocks 0-3 and 6, and Q4_K in the others."""
    blocks: dict[str, dict[str, list[int]]] = {}
    groups: dict[str, list[str]] = {}
    for name, kind in sorted(types.items()):
        rest, *block = _NUMBER.sub("*", name, count=1), *map(int, _NUMBER.findall(name)[:1])
        blocks.setdefault(rest, {}).setdefault(kind, []).extend(block)
    for rest, by_type in blocks.items():
        *rare, (usual, _) = sorted(by_type.items(), key=lambda item: (len(item[1]), item[0]))
        text = " ".join([*(f"{kind} {_ranges(sorted(numbers))}" for kind, numbers in rare), usual])
        groups.setdefault(text, []).append(rest)
    return {text: " ".join(names) for text, names in groups.items()}


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def dry_run(quantizer: str, path: Path, file_type: str) -> dict[str, str] | None:
    """The types that llama-quantize would choose; None if it refuses."""
    process = subprocess.run(
        [quantizer, "--dry-run", str(path), file_type], capture_output=True, text=True, check=False, timeout=60
    )
    if process.returncode:
        return None
    matches = _LINE.findall(process.stdout + process.stderr)
    return {name: (new or unchanged).upper() for name, unchanged, new in matches}


def main() -> None:
    quantizer = os.environ["LLAMA_QUANTIZE"]
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            header, size = model.file()
            path = Path(folder) / "x.gguf"
            path.write_bytes(header)
            os.truncate(path, size)
            results = {file_type: dry_run(quantizer, path, file_type) for file_type in FILE_TYPES}
            if not any(results.values()):
                raise RuntimeError(f"llama-quantize refuses every file type for {name}")
            figures[name] = {
                file_type: group_by_type(types) if types else REFUSED for file_type, types in results.items()
            }
            path.unlink()
    lines = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(kind)}: {json.dumps(types)}" for kind, types in each.items())
        + "\n }"
        for name, each in figures.items()
    ]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
