"""How large a model becomes in each quantization: an estimate from the shapes of its tensors. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = 256
BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q4_K_S": 4.6, "Q4_K_M": 4.8}
"""Bits a number of a matrix takes; those of a K quantization are its usual mixture of types."""
EMBEDDING_BITS = 6.5625
"""Q6_K, which Ollama takes for the embedding or the output matrix."""
ROW_FALLBACK_BITS = 5.5
EMBEDDING_FALLBACK_BITS = 8.5
"""Q5_0 and Q8_0, for rows that blocks of 256 do not divide."""
VECTOR_BITS = 32.0
EMBEDDINGS = ("embed_tokens", "lm_head", "token_embd", "word_embeddings", "wte", "output.weight")


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor's name, how many numbers it has, and how many of them make a row; 0 for a vector."""

    name: str
    elements: int
    row: int


def quantized_size(shapes: Iterable[Shape], quantization: str) -> int:
    """Bytes of the tensors."""
    return int(sum(shape.elements * _bits(shape, quantization) for shape in shapes) / 8)


def _bits(shape: Shape, quantization: str) -> float:
    if not shape.row:
        return VECTOR_BITS
    usual = BITS.get(quantization, BITS["Q8_0"])
    if "_K" not in quantization:
        return usual
    embedding = any(name in shape.name for name in EMBEDDINGS)
    if shape.row % BLOCK:
        return EMBEDDING_FALLBACK_BITS if embedding else ROW_FALLBACK_BITS
    return EMBEDDING_BITS if embedding else usual
