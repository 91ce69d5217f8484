"""InternVL, and OpenGVLab's layout of it, for which transformers has no class."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from tests.gguf.tiny_repositories.tokenizer import dump
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors
from tests.real.seeing.view import Seen, View

_NAMES = {
    "language_model.model.": "model.language_model.",
    "language_model.": "",
    "vision_model.encoder.layers.": "model.vision_tower.encoder.layer.",
    "vision_model.embeddings.class_embedding": "model.vision_tower.embeddings.cls_token",
    "vision_model.embeddings.patch_embedding.": "model.vision_tower.embeddings.patch_embeddings.projection.",
    "vision_model.embeddings.position_embedding": "model.vision_tower.embeddings.position_embeddings",
    "mlp1.0": "model.multi_modal_projector.layer_norm",
    "mlp1.1": "model.multi_modal_projector.linear_1",
    "mlp1.3": "model.multi_modal_projector.linear_2",
}
"""How names begin in OpenGVLab's repositories, and in transformers."""
_PARTS = {
    "attn.proj": "attention.projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}
_VISION = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "image_size", "patch_size")


def _internvl(view: View) -> Seen:
    image, count = view.config["image_token_id"], view.config["image_seq_length"]
    return Seen([*view.encode("<img>"), *[image] * count, *view.encode("</img>")], {"pixel_values": view.pixels})


def _renamed(name: str, tensor: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    for start, replacement in _NAMES.items():
        if name.startswith(start):
            name = replacement + name.removeprefix(start)
            break
    for part, replacement in _PARTS.items():
        name = re.sub(rf"(layer\.\d+\.){re.escape(part)}", rf"\g<1>{replacement}", name)
    if ".attn.qkv." not in name:
        yield name, tensor
        return
    dtype, (rows, *others), content = tensor
    for at, part in enumerate("qkv"):
        share = content[at * len(content) // 3 : (at + 1) * len(content) // 3]
        yield name.replace("attn.qkv", f"attention.{part}_proj"), StoredTensor(dtype, [rows // 3, *others], share)


def internvl_of_chat(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """OpenGVLab's repository as transformers would save it."""
    config = json.loads(files["config.json"])
    tokenizer = json.loads(files["tokenizer.json"])
    token = next(one["id"] for one in tokenizer["added_tokens"] if one["content"] == "<IMG_CONTEXT>")
    vision = config["vision_config"]
    side = int(vision["image_size"] / vision["patch_size"] * config["downsample_ratio"])
    tensors = unpack_safetensors(files["model.safetensors"])
    return {
        **files,
        "config.json": dump(
            {
                "architectures": ["InternVLForConditionalGeneration"],
                "model_type": "internvl",
                "text_config": config["llm_config"],
                "vision_config": {
                    "model_type": "internvl_vision",
                    "attention_bias": vision["qkv_bias"],
                    **{key: vision[key] for key in _VISION},
                },
                "image_token_id": token,
                "image_seq_length": side**2,
                "downsample_ratio": config["downsample_ratio"],
                "tie_word_embeddings": False,
            }
        ),
        "model.safetensors": pack_safetensors(
            dict(pair for name, tensor in tensors.items() for pair in _renamed(name, tensor))
        ),
    }


def _rows(view: View) -> tuple[Any, int]:
    """The patches of a picture, of the shape [1, patches, numbers], and how many a side has."""
    patch = view.config["vision_config"]["patch_size"]
    pixels = view.pixels[0]
    side = pixels.shape[-1] // patch
    rows = pixels.reshape(3, side, patch, side, patch).permute(1, 3, 2, 4, 0).reshape(1, side**2, -1)
    return rows, side


def _lfm2(view: View) -> Seen:
    torch = import_module("torch")
    rows, side = _rows(view)
    count = (side // view.config["downsample_factor"]) ** 2
    tokens = [*view.encode("<|image_start|>"), *[view.config["image_token_id"]] * count, *view.encode("<|image_end|>")]
    inputs = {
        "pixel_values": rows,
        "spatial_shapes": torch.tensor([[side, side]]),
        "pixel_attention_mask": torch.ones(1, side**2, dtype=torch.int64),
    }
    return Seen(tokens, inputs)


def _paddleocr(view: View) -> Seen:
    torch, image = import_module("torch"), view.config["image_token_id"]
    vision = view.config["vision_config"]
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    rows, side = _rows(view)
    pixels = rows.reshape(side**2, patch, patch, 3).permute(0, 3, 1, 2)
    count = (side // merge) ** 2
    tokens = [*view.encode("<|IMAGE_START|>"), *[image] * count, *view.encode("<|IMAGE_END|>")]

    def token_types(tokens: list[int]) -> Mapping[str, Any]:
        return {"mm_token_type_ids": torch.tensor([[int(token == image) for token in tokens]])}

    inputs = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])}
    return Seen(tokens, inputs, token_types)


SEEN: Mapping[str, Callable[[View], Seen]] = {
    "InternVLForConditionalGeneration": _internvl,
    "Lfm2VlForConditionalGeneration": _lfm2,
    "PaddleOCRVLForConditionalGeneration": _paddleocr,
}
IN_TRANSFORMERS: Mapping[str, Callable[[Mapping[str, bytes]], Mapping[str, bytes]]] = {
    "InternVLChatModel": internvl_of_chat
}
UNSEEN = frozenset({"internvl_chat_internlm2"})
SIZES: Mapping[str, int] = {"Lfm2VlForConditionalGeneration": 256}
