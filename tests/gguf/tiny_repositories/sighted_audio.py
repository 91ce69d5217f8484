"""Models that hear."""

from tests.gguf.tiny_repositories.byte_level import qwen_tokens, tekken_tokens
from tests.gguf.tiny_repositories.repository import Tiny, plain_weights, qwen2_weights
from tests.gguf.tiny_repositories.towers_audio import QWEN2_AUDIO_TOWER, VOXTRAL_TOWER

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
    "voxtral": Tiny(
        "VoxtralForConditionalGeneration",
        "llama",
        plain_weights,
        tekken_tokens,
        {
            "num_hidden_layers": 3,
            "rope_theta": 1e8,
            "head_dim": 64,
            "sliding_window": None,
            "attention_bias": False,
            "mlp_bias": False,
        },
        part_of="voxtral",
        towers=(VOXTRAL_TOWER,),
    ),
}
