"""The text part of PaddleOCR-VL: ERNIE 4.5 with a RoPE of three axes. Pure."""

from dataclasses import replace

from proxy.gguf.families.ernie import ERNIE4_5
from proxy.gguf.families.mrope import sections
from proxy.gguf.families.text_part import TEXT_OF_MULTIMODAL, TextPart
from proxy.gguf.hyperparameters import BASIC

PADDLEOCR = replace(
    ERNIE4_5,
    architecture="paddleocr",
    hyperparameters=(*BASIC, sections((16, 24, 24))),
    rope_types=frozenset({"default", "mrope"}),
    # The published files have the names of an older class. transformers 5.24 reads none of these keys.
    harmless_keys=ERNIE4_5.harmless_keys | {"compression_ratio", "rope_is_neox_style", "use_3d_rope"},
    text_part=TextPart(
        TEXT_OF_MULTIMODAL, ("visual.", "mlp_AR.", "model.visual.", "model.projector."), "see", may_lack_section=True
    ),
    keeps_output=True,
)
