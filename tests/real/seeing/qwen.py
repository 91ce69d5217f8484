"""Qwen2-VL to Qwen3.5."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tests.real.seeing.view import Seen, View

_FRAMES = 2


def _qwen(view: View) -> Seen:
    """A picture is two equal frames. Its patches come in squares that become one token each."""
    torch, vision = import_module("torch"), view.config["vision_config"]
    patch, merge, image = vision["patch_size"], vision["spatial_merge_size"], view.config["image_token_id"]
    _, _, height, width = view.pixels.shape
    rows, columns = height // patch, width // patch
    pixels = view.pixels.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    patches = pixels.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5).expand(-1, -1, -1, -1, -1, _FRAMES, -1, -1)
    count = rows * columns // merge**2
    tokens = [*view.encode("<|vision_start|>"), *[image] * count, *view.encode("<|vision_end|>")]

    def token_types(tokens: list[int]) -> Mapping[str, Any]:
        return {"mm_token_type_ids": torch.tensor([[int(token == image) for token in tokens]])}

    inputs = {
        "pixel_values": patches.reshape(rows * columns, -1),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }
    return Seen(tokens, inputs, token_types)


_OLDER = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
_NEWER = (
    *("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
)
SEEN: Mapping[str, Callable[[View], Seen]] = dict.fromkeys((*_OLDER, *_NEWER), _qwen)
SIZES: Mapping[str, int] = {
    **dict.fromkeys(_OLDER, 64 * 14),
    **dict.fromkeys(_NEWER[:2], 64 * 16),
    **dict.fromkeys(_NEWER[2:], 12 * 16),
}
"""12 patches are more than a window has, and than have a position each. Ollama enlarges pictures of the older ones to
1024 tokens, which are 64 patches each way (`qwenVLServerArgs` in llm/llama_server.go, 0.40)."""
