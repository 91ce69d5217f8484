"""The text parts of InternVL, which are models of several families. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.gguf.families.family import Family
from proxy.gguf.families.internlm2 import INTERNLM2
from proxy.gguf.families.llama import LLAMA
from proxy.gguf.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from proxy.gguf.families.text_part import VISION_TEXT, TextPart
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown

_TEXTS: Mapping[str, Family] = {
    "internlm2": INTERNLM2,
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
}
"""By `model_type` of the text part."""


def _internvl(part: TextPart) -> Family:
    texts = {name: replace(family, text_part=part, keeps_output=True) for name, family in _TEXTS.items()}

    def variant(config: ModelConfig) -> Family:
        model_type = config.find("model_type")
        if model_type not in texts:
            raise CannotConvert(
                f"config.json has a {part.section} of the type {shown(model_type)}, unknown for this architecture"
            )
        return texts[model_type]

    def defaults(text: Mapping[str, Any]) -> Mapping[str, Any]:
        known = texts.get(text.get("model_type", "qwen2"))
        return {**(known.defaults if known else {}), "model_type": "qwen2", "tie_word_embeddings": True}

    return replace(texts["qwen2"], variant=variant, text_defaults=defaults)


INTERNVL = _internvl(VISION_TEXT)

INTERNVL_CHAT = replace(
    _internvl(
        TextPart(
            {"language_model.model.": "model.", "language_model.": ""},
            ("vision_model.", "mlp1."),
            "see",
            "llm_config",
        )
    ),
    has_transformers_class=False,
)
"""OpenGVLab's own layout."""
