"""Mistral 3 and Pixtral."""

from collections.abc import Callable, Mapping
from importlib import import_module

from tests.real.seeing.view import Seen, View


def _rows(view: View) -> Seen:
    """A token after each row but the last, and one after the picture."""
    size = view.config["vision_config"]["patch_size"] * view.config.get("spatial_merge_size", 1)
    height, width = (length // size for length in view.medium.shape[:2])
    row = [view.config["image_token_index"]] * width
    breaks, ends = view.encode("[IMG_BREAK]"), view.encode("[IMG_END]")
    tokens = [token for _ in range(height) for token in (*row, *breaks)][: -len(breaks)]
    sizes = import_module("torch").tensor([view.medium.shape[:2]])
    return Seen([*tokens, *ends], {"pixel_values": view.pixels, "image_sizes": sizes})


SEEN: Mapping[str, Callable[[View], Seen]] = {
    "Mistral3ForConditionalGeneration": _rows,
    "LlavaForConditionalGeneration": _rows,
}
