"""A picture or a sound before a model in transformers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy.typing as npt

Medium = npt.NDArray[Any]
"""A picture of three dimensions (tests/kit/pictures.py), or a sound of one (tests/kit/sounds.py)."""


class Seen(NamedTuple):
    """What stands for a picture or a sound."""

    tokens: list[int]
    """Before the text of the prompt, as llama.cpp puts them (tools/mtmd/mtmd.cpp of b10488)."""
    inputs: Mapping[str, Any]
    """Of transformers' model, beside the tokens."""
    of_tokens: Callable[[list[int]], Mapping[str, Any]] = lambda _: {}
    """Further inputs that depend on all tokens."""
    adapt: Callable[[Any], None] = lambda _: None
    """Changes transformers' model into what llama.cpp computes, where the projector's caveat says that it differs."""


@dataclass(frozen=True)
class View:
    """A picture or a sound, and the repository's tokenizer and settings."""

    config: Mapping[str, Any]
    images: Mapping[str, Any]
    """preprocessor_config.json."""
    encode: Callable[[str], list[int]]
    medium: Medium

    @property
    def pixels(self) -> Any:
        """Of a picture, normalized, of the shape [1, 3, height, width]."""
        torch = import_module("torch")
        numbers = torch.tensor(self.medium.tolist(), dtype=torch.float32) / 255
        mean, std = (torch.tensor(self.images[f"image_{key}"]) for key in ("mean", "std"))
        return ((numbers - mean) / std).permute(2, 0, 1)[None]

    @property
    def spectrogram(self) -> Any:
        """Of a sound, as Whisper's feature extractor makes it, with silence up to 30 seconds: [1, bands, 3000]."""
        extractor = import_module("transformers").WhisperFeatureExtractor(**self.images)
        return extractor(self.medium, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
