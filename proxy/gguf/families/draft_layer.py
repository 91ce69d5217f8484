"""The layer of a model with which llama.cpp drafts tokens: multi-token prediction (MTP), NextN in llama.cpp. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.gguf.families.common_tensors import LAYER
from proxy.gguf.families.rules import AddOne, Rule
from proxy.gguf.hyperparameters import Writer

STEMS = "nextn."
"""How the stems of the tensors begin that no other layer has."""


@dataclass(frozen=True, slots=True)
class DraftLayer:
    """The one draft layer of a family, which follows the others in the GGUF. llama.cpp's graphs run no second one."""

    starts: tuple[str, ...]
    """How the names of its tensors start. They are skipped where the layer is left out."""
    prefixes: Mapping[str, str]
    """How names of its tensors start, and how they start in the rules; `{}` stands for the number of the layer."""
    tensors: Mapping[str, Rule | str]
    """The rules for the tensors that no other layer has."""
    hyperparameters: tuple[Writer, ...] = ()
    """Keys that change with the layer, beside `block_count` and `nextn_predict_layers`."""


_PLACES = ("mtp.", "model.mtp.", "model.language_model.mtp.")
_NAMES = {
    "layers.0.": LAYER,
    "fc.": LAYER + "eh_proj.",
    "pre_fc_norm_embedding.": LAYER + "enorm.",
    "pre_fc_norm_hidden.": LAYER + "hnorm.",
    "norm.": LAYER + "shared_head.norm.",
}

QWEN_DRAFT = DraftLayer(
    _PLACES,
    {place + name: inside for place in _PLACES for name, inside in _NAMES.items()},
    {
        LAYER + "eh_proj": "blk.{}.nextn.eh_proj",
        LAYER + "enorm": AddOne("blk.{}.nextn.enorm"),
        LAYER + "hnorm": AddOne("blk.{}.nextn.hnorm"),
        LAYER + "shared_head.norm": AddOne("blk.{}.nextn.shared_head_norm"),
    },
)
"""Of Qwen3-Next and Qwen3.5 (`_QwenMtpMixin` of llama.cpp's converter). Its layer has full attention."""
