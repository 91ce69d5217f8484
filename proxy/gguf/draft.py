"""Layers for multi-token prediction (MTP), with which llama.cpp drafts tokens that the model then confirms. Pure."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from proxy.gguf.families.family import Family
from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.targets import layer_of

_MTP = re.compile(r"(?:^|\.)mtp[._]")


class DraftRequest(NamedTuple):
    """The wish to keep the layers."""

    problem: str = ""
    """Why this Ollama could not use them."""


def has_draft(family: Family, config: ModelConfig, names: Iterable[str]) -> bool:
    """Whether the weights have layers for multi-token prediction, of any family."""
    extra = config.blocks if family.skips_extra_layers else None
    return any(_MTP.search(name) or (extra is not None and layer_of(name) >= extra) for name in names)


def with_draft(family: Family, config: ModelConfig, request: DraftRequest) -> Family:
    """The family with its draft layer. Raises CannotConvert if the layer would be of no use."""
    draft = family.draft
    if draft is None:
        raise CannotConvert("the proxy does not write them for this architecture")
    if request.problem:
        raise CannotConvert(request.problem)
    prefixes = {start: inside.format(config.blocks) for start, inside in draft.prefixes.items()}
    part = family.text_part
    return replace(
        family,
        tensors={**family.tensors, **draft.tensors},
        hyperparameters=(*family.hyperparameters, *draft.hyperparameters, _counts),
        prefix_aliases={**prefixes, **family.prefix_aliases},
        text_part=part and replace(part, prefixes={**prefixes, **part.prefixes}),
        draft_layers=1,
    )


def _counts(config: ModelConfig) -> Pairs:
    yield "block_count", Field.uint32(config.blocks + 1)
    yield "nextn_predict_layers", Field.uint32(1)
