"""Models that hear."""

from tests.gguf.tiny_repositories.byte_level import qwen_tokens
from tests.gguf.tiny_repositories.repository import Tiny, qwen2_weights
from tests.gguf.tiny_repositories.towers_audio import QWEN2_AUDIO_TOWER

SIGHTED_AUDIO: dict[str, Tiny] = {
    "qwen2_audio": Tiny(
        "Qwen2AudioForConditionalGeneration",
        "qwen2",
        qwen2_weights,
        qwen_tokens,
        {"rope_theta": 10000, "sliding_window": 32768, "use_mrope": False},
        part_of="qwen2_audio",
        towers=(QWEN2_AUDIO_TOWER,),
    ),
}
