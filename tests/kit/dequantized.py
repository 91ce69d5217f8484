"""Turns the GGUF of a real model into a safetensors repository: dequantized weights, and a tokenizer.json."""

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

TENSORS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's tensor names without the block → the names of transformers. All architectures here share them."""
CONTROL = 3
"""llama.cpp's token type of special tokens."""


class Dequantized(ABC):
    """The repository that the model's authors published."""

    tensors: ClassVar[Mapping[str, str]]
    """TENSORS and the names that only this architecture has."""
    special_tokens: ClassVar[Mapping[str, str]]
    """The entries in tokenizer_config.json."""
    generation_config: ClassVar[bytes]

    def __init__(self, gguf: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(gguf)

    def files(self, dtype: str) -> dict[str, bytes]:
        """All files except tokenizer_config.json. All tensors have this `dtype`, F16 or BF16."""
        return {
            "config.json": json.dumps(self._config()).encode(),
            "generation_config.json": self.generation_config,
            "tokenizer.json": json.dumps(self._tokenizer()).encode(),
            "model.safetensors": b"".join(self._weights(dtype)),
        }

    def tokenizer_config(self, **fields: Any) -> bytes:
        return json.dumps({**self.special_tokens, **fields}).encode()

    def field(self, key: str) -> Any:
        """A value of the GGUF's metadata."""
        field = self._reader.get_field(key)
        assert field is not None, key
        return field.contents()

    @abstractmethod
    def _config(self) -> dict[str, Any]: ...

    @abstractmethod
    def _tokenizer(self) -> dict[str, Any]: ...

    @abstractmethod
    def _restored(self, part: str, numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Undo what llama.cpp's converter did to a tensor. `part` is its name there without the block."""

    def _sizes(self, architecture: str) -> dict[str, Any]:
        """The entries of config.json that all architectures have."""
        return {
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "vocab_size": len(self.field("tokenizer.ggml.tokens")),
            "hidden_size": self.field(f"{architecture}.embedding_length"),
            "intermediate_size": self.field(f"{architecture}.feed_forward_length"),
            "num_hidden_layers": self.field(f"{architecture}.block_count"),
            "num_attention_heads": self.field(f"{architecture}.attention.head_count"),
            "num_key_value_heads": self.field(f"{architecture}.attention.head_count_kv"),
            "max_position_embeddings": self.field(f"{architecture}.context_length"),
            "rms_norm_eps": self.field(f"{architecture}.attention.layer_norm_rms_epsilon"),
            "rope_theta": self.field(f"{architecture}.rope.freq_base"),
        }

    def _weights(self, dtype: str) -> Iterator[bytes]:
        """The parts of a safetensors file: first the header, then each tensor."""
        import gguf

        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self._reader.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            start, end = end, end + 2 * tensor.n_elements
            header[self._name(tensor.name)] = {"dtype": dtype, "shape": shape, "data_offsets": [int(start), int(end)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        yield struct.pack("<Q", len(text)) + text
        for tensor in self._reader.tensors:
            numbers = self._restored(tensor.name.split(".")[-2], gguf.dequantize(tensor.data, tensor.tensor_type))
            yield gguf.quantize(numbers, gguf.GGMLQuantizationType[dtype]).tobytes()

    def _name(self, name: str) -> str:
        *block, part, _ = name.split(".")
        return ".".join(["model", *(["layers", block[1]] if block else []), self.tensors[part], "weight"])
