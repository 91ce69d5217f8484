"""The text part of a multimodal model. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


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

    @property
    def abilities(self) -> tuple[str, ...]:
        return tuple(self.lost_ability.split(" or "))


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
