"""Gemma 3 and 4, and Llama 4."""

import math
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


def _gemma4(view: View) -> Seen:
    return _gemma4_sound(view) if view.medium.ndim == 1 else _gemma4_picture(view)


def _gemma4_sound(view: View) -> Seen:
    """Transformers adds 0.001 to the numbers of the spectrogram, and llama.cpp makes them no smaller, as here."""
    extract = import_module("transformers").Gemma4AudioFeatureExtractor(mel_floor=0.0)
    found = extract([view.medium], return_tensors="pt")
    frames = found.input_features.shape[1]
    tokens = [
        *view.encode("<|audio>"),
        *[view.config["audio_token_id"]] * -(-frames // 4),
        *view.encode("<audio|>"),
    ]
    features = found.input_features.clamp(min=math.log(0.001))
    return Seen(tokens, {"input_features": features, "input_features_mask": found.input_features_mask})


def _gemma4_picture(view: View) -> Seen:
    """A picture becomes rows of patches, each with its column and row.

    llama.cpp lets the tokens of a picture attend to each other in both directions in every layer; in transformers none
    does, or with `use_bidirectional_attention` only those with a sliding window. The masks here are llama.cpp's.
    """
    torch, image = import_module("torch"), view.config["image_token_id"]
    patch, pooled = (view.config["vision_config"][key] for key in ("patch_size", "pooling_kernel_size"))
    side = view.medium.shape[0] // patch
    patches = view.pixels[0].reshape(3, side, patch, side, patch).permute(1, 3, 2, 4, 0).reshape(1, side * side, -1)
    positions = torch.tensor([[[at % side, at // side] for at in range(side * side)]])
    tokens = [*view.encode("<|image>"), *[image] * (side // pooled) ** 2, *view.encode("<image|>")]
    window = view.config["text_config"]["sliding_window"]

    def masks(tokens: list[int]) -> Mapping[str, Any]:
        seen, at = torch.tensor([token == image for token in tokens]), torch.arange(len(tokens))
        full = (at[None] <= at[:, None]) | (seen[None] & seen[:, None])
        allowed = {"full_attention": full, "sliding_attention": full & (at[None] > at[:, None] - window)}
        return {"attention_mask": {kind: torch.where(one, 0.0, -1e30)[None, None] for kind, one in allowed.items()}}

    return Seen(tokens, {"pixel_values": patches, "image_position_ids": positions}, masks)


def _llama4(view: View) -> Seen:
    """llama.cpp takes the squares of a picture column by column (models/llama4.cpp), and so they are taken here.

    transformers 5.24 asks its text model for `image_outputs`, which that does not have.
    """
    code: Any = import_module("transformers.models.llama4.modeling_llama4")
    code.pixel_shuffle = _by_columns
    import_module("transformers.modeling_outputs").MoeCausalLMOutputWithPast.image_outputs = None
    vision = view.config["vision_config"]
    side = vision["image_size"] // vision["patch_size"] * vision["pixel_shuffle_ratio"]
    image = [view.config["image_token_index"]] * int(side * side)
    return Seen([*view.encode("<|image_start|>"), *image, *view.encode("<|image_end|>")], {"pixel_values": view.pixels})


def _by_columns(patches: Any, ratio: float) -> Any:
    """Squares of patches as vectors; the patches are [1, patches, numbers]."""
    _, count, size = patches.shape
    rows, side = math.isqrt(count), round(1 / ratio)
    squares = patches.reshape(rows // side, side, rows // side, side, size).permute(2, 0, 1, 3, 4)
    return squares.reshape(1, count // side**2, side * side * size)


SEEN: Mapping[str, Callable[[View], Seen]] = {
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma4ForConditionalGeneration": _gemma4,
    "Llama4ForConditionalGeneration": _llama4,
}
SIZES: Mapping[str, int] = {"Gemma4ForConditionalGeneration": 7 * 3 * 16}
"""The side of a picture by architecture, where config.json has none. llama.cpp enlarges one of fewer than 40 tokens."""
