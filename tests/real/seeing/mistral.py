"""Mistral 3, Pixtral, SmolVLM and Idefics 3."""

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


def _tiles(view: View) -> Seen:
    """The tiles of a picture, row by row, and then the whole picture in the size of a tile.

    llama.cpp makes this one of single pixels (mtmd-image.cpp of b10488), where the picture has twice its size.
    """
    vision, torch = view.config["vision_config"], import_module("torch")
    size = vision["image_size"]
    count = (size // vision["patch_size"] // view.config["scale_factor"]) ** 2
    image = [view.config["image_token_id"]] * count
    rows, columns = (length // size for length in view.medium.shape[:2])
    tokens: list[int] = []
    parts = []
    for row in range(rows):
        for column in range(columns):
            tokens += [*view.encode(f"<fake_token_around_image><row_{row + 1}_col_{column + 1}>"), *image]
            parts.append(view.pixels[0, :, row * size : (row + 1) * size, column * size : (column + 1) * size])
        tokens += view.encode("\n" if row < rows - 1 else "\n\n")
    tokens += [*view.encode("<fake_token_around_image><global-img>"), *image]
    parts.append(view.pixels[0, :, ::rows, ::columns])
    tokens += view.encode("<fake_token_around_image>")
    return Seen(tokens, {"pixel_values": torch.stack(parts)[None]})


SEEN: Mapping[str, Callable[[View], Seen]] = {
    "Mistral3ForConditionalGeneration": _rows,
    "LlavaForConditionalGeneration": _rows,
    **dict.fromkeys(("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"), _tiles),
}
