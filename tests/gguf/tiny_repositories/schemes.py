"""All tiny repositories whose weights are stored quantized."""

from tests.gguf.tiny_repositories import deepseek4, experts, packed, packed_bnb, packed_compressed, packed_gptq
from tests.gguf.tiny_repositories.packed import Packed
from tests.gguf.tiny_repositories.repository import Tiny

PACKED: dict[str, Packed] = {
    **packed.REPOSITORIES,
    **packed_bnb.REPOSITORIES,
    **packed_compressed.REPOSITORIES,
    **packed_gptq.REPOSITORIES,
}
"""Those whose matrices are."""
KEPT: dict[str, Tiny] = {
    "deepseek4": deepseek4.REPOSITORIES["deepseek4"],
    "gpt_oss": experts.REPOSITORIES["gpt_oss"],
}
"""Those whose experts are in MXFP4, and stay so."""
QUANTIZED: dict[str, Packed | Tiny] = {**PACKED, **KEPT}
