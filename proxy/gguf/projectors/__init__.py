"""The towers of models that see or hear, one declaration each: read `tower.py`, then `gemma3.py`."""

from collections.abc import Mapping

from proxy.gguf.projectors.gemma3 import GEMMA3
from proxy.gguf.projectors.gemma4 import GEMMA4_AUDIO, GEMMA4_VISION
from proxy.gguf.projectors.idefics3 import IDEFICS3
from proxy.gguf.projectors.internvl import INTERNVL, INTERNVL_CHAT
from proxy.gguf.projectors.lfm2 import LFM2
from proxy.gguf.projectors.llama4 import LLAMA4
from proxy.gguf.projectors.paddleocr import PADDLEOCR
from proxy.gguf.projectors.pixtral import MISTRAL3
from proxy.gguf.projectors.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_5, QWEN3_VL
from proxy.gguf.projectors.tower import Tower
from proxy.gguf.projectors.whisper import QWEN2_AUDIO, VOXTRAL

TOWERS: Mapping[str, tuple[Tower, ...]] = {
    "Gemma3ForConditionalGeneration": (GEMMA3,),
    "Gemma4ForConditionalGeneration": (GEMMA4_VISION, GEMMA4_AUDIO),
    "Idefics3ForConditionalGeneration": (IDEFICS3,),
    "InternVLChatModel": (INTERNVL_CHAT,),
    "InternVLForConditionalGeneration": (INTERNVL,),
    "Llama4ForConditionalGeneration": (LLAMA4,),
    "Qwen2_5_VLForConditionalGeneration": (QWEN2_5_VL,),
    "Qwen2AudioForConditionalGeneration": (QWEN2_AUDIO,),
    "Qwen2VLForConditionalGeneration": (QWEN2_VL,),
    "Qwen3_5ForConditionalGeneration": (QWEN3_5,),
    "Qwen3_5MoeForConditionalGeneration": (QWEN3_5,),
    "Qwen3VLForConditionalGeneration": (QWEN3_VL,),
    "Qwen3VLMoeForConditionalGeneration": (QWEN3_VL,),
    "Mistral3ForConditionalGeneration": (MISTRAL3,),
    "Lfm2VlForConditionalGeneration": (LFM2,),
    "VoxtralForConditionalGeneration": (VOXTRAL,),
    "PaddleOCRVLForConditionalGeneration": (PADDLEOCR,),
    "SmolVLMForConditionalGeneration": (IDEFICS3,),
}
"""By the first of `architectures` in config.json."""
