"""The text part of a multimodal model. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TOWERS = ("text_config", "vision_config")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Where a multimodal model keeps its text model."""

    prefixes: Mapping[str, str]
    """How names of text tensors start, and how they start in a model of text alone."""
    skipped_prefixes: tuple[str, ...]
    """How names of all other tensors start."""
    lost_ability: str
    """What the text part alone cannot do; it completes "this model cannot …"."""
    section: str | None = "text_config"
    """The object in config.json that has its settings; None if they stand beside the towers' objects."""
    may_lack_section: bool = False
    """Without this object, as in older files, the settings stand beside the towers' objects. In newer files
    `tie_word_embeddings` may stand on either level (Qwen2VLConfig of transformers 5.24)."""

    @property
    def abilities(self) -> tuple[str, ...]:
        return tuple(self.lost_ability.split(" or "))

    def settings(self, fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The settings of the text model in config.json; None if it has none."""
        text = fields.get(self.section) if self.section else None
        if text is None and self.may_lack_section:
            return {key: value for key, value in fields.items() if key not in _TOWERS}
        return text if isinstance(text, dict) else None

    def ties(self, fields: Mapping[str, Any], text: Mapping[str, Any]) -> Mapping[str, Any]:
        """`tie_word_embeddings`, if it is set. transformers 5 reads it from the outer level, even if `text` has it."""
        levels = (fields, text) if self.may_lack_section else (fields,)
        found = [level["tie_word_embeddings"] for level in levels if "tie_word_embeddings" in level]
        return {"tie_word_embeddings": True if True in found else found[0]} if found else {}


TEXT_OF_MULTIMODAL: Mapping[str, str] = {"model.language_model.": "model."}
"""The prefix in transformers 5. It removes it when it loads a text model of Qwen 3.5 or Gemma 3n, which fine-tunes of
the multimodal model save with it (conversion_mapping.py of 5.24)."""

VISION_AUDIO_TEXT = TextPart(
    TEXT_OF_MULTIMODAL,
    ("model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."),
    "see or hear",
)
"""In Gemma 3n and Gemma 4."""

VISION_TEXT = TextPart(
    {"language_model.model.": "model.", "model.language_model.": "model.", "language_model.lm_head.": "lm_head."},
    ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
    "see",
)
"""In Gemma 3 and Mistral 3. transformers 5 writes the second prefix."""

AUDIO_TEXT = TextPart(
    VISION_TEXT.prefixes,
    ("audio_tower.", "multi_modal_projector.", "model.audio_tower.", "model.multi_modal_projector."),
    "hear",
)
"""In Qwen2-Audio and Voxtral. transformers 5 writes the names with `model.`."""
