"""Gemma 3."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tests.real.seeing.view import Seen, View


def _gemma3(view: View) -> Seen:
    """Tokens of a picture attend to each other in both directions, so the model is told which they are."""
    image, count = view.config["image_token_index"], view.config["mm_tokens_per_image"]
    tokens = [*view.encode("<start_of_image>"), *[image] * count, *view.encode("<end_of_image>")]

    def token_types(tokens: list[int]) -> Mapping[str, Any]:
        return {"token_type_ids": import_module("torch").tensor([[int(token == image) for token in tokens]])}

    return Seen(tokens, {"pixel_values": view.pixels}, token_types)


SEEN: Mapping[str, Callable[[View], Seen]] = {"Gemma3ForConditionalGeneration": _gemma3}
