"""How large a model becomes in each quantization: an estimate from the shapes of its tensors. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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


class Kind(NamedTuple):
    """What decides how many bits a number takes."""

    is_vector: bool
    is_embedding: bool
    fits_blocks: bool


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many numbers a model has of each kind."""

    of: Mapping[Kind, int]

    def size(self, quantization: str) -> int:
        """Bytes of the tensors."""
        return int(sum(count * _bits(kind, quantization) for kind, count in self.of.items()) / 8)


def count_numbers(shapes: Iterable[Shape]) -> Numbers:
    counted: Counter[Kind] = Counter()
    for shape in shapes:
        is_embedding = any(name in shape.name for name in EMBEDDINGS)
        counted[Kind(not shape.row, is_embedding, not shape.row % BLOCK)] += shape.elements
    return Numbers(counted)


def _bits(kind: Kind, quantization: str) -> float:
    if kind.is_vector:
        return VECTOR_BITS
    usual = BITS.get(quantization, BITS["Q8_0"])
    if "_K" not in quantization:
        return usual
    if not kind.fits_blocks:
        return EMBEDDING_FALLBACK_BITS if kind.is_embedding else ROW_FALLBACK_BITS
    return EMBEDDING_BITS if kind.is_embedding else usual
