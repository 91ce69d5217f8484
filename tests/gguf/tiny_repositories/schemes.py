"""All tiny repositories whose weights are stored quantized."""

from tests.gguf.tiny_repositories import experts, packed, packed_bnb, packed_compressed, packed_gptq
from tests.gguf.tiny_repositories.packed import Packed
from tests.gguf.tiny_repositories.repository import Tiny

PACKED: dict[str, Packed] = {
    **packed.REPOSITORIES,
    **packed_bnb.REPOSITORIES,
    **packed_compressed.REPOSITORIES,
    **packed_gptq.REPOSITORIES,
}
"""Those whose matrices are."""
QUANTIZED: dict[str, Packed | Tiny] = {**PACKED, "gpt_oss": experts.REPOSITORIES["gpt_oss"]}
