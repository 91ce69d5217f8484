"""All tiny repositories whose matrices are stored quantized."""

from tests.gguf.tiny_repositories import packed, packed_bnb, packed_compressed, packed_gptq
from tests.gguf.tiny_repositories.packed import Packed

PACKED: dict[str, Packed] = {
    **packed.REPOSITORIES,
    **packed_bnb.REPOSITORIES,
    **packed_compressed.REPOSITORIES,
    **packed_gptq.REPOSITORIES,
}
