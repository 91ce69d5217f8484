"""A picture before a model in transformers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from tests.kit.pictures import Picture


class Seen(NamedTuple):
    """What stands for a picture."""

    tokens: list[int]
    """Before the text of the prompt, as llama.cpp puts them (tools/mtmd/mtmd.cpp of b10488)."""
    inputs: Mapping[str, Any]
    """Of transformers' model, beside the tokens."""
    of_tokens: Callable[[list[int]], Mapping[str, Any]] = lambda _: {}
    """Further inputs that depend on all tokens."""


@dataclass(frozen=True)
class View:
    """A picture, and the repository's tokenizer and settings."""

    config: Mapping[str, Any]
    images: Mapping[str, Any]
    """preprocessor_config.json."""
    encode: Callable[[str], list[int]]
    picture: Picture

    @property
    def pixels(self) -> Any:
        """Normalized, of the shape [1, 3, height, width]."""
        torch = import_module("torch")
        numbers = torch.tensor(self.picture.tolist(), dtype=torch.float32) / 255
        mean, std = (torch.tensor(self.images[f"image_{key}"]) for key in ("mean", "std"))
        return ((numbers - mean) / std).permute(2, 0, 1)[None]
