"""The shapes of a projector's tensors. llama.cpp loads any shape and ends with an assertion when it computes. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.gguf.header import Field
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import TensorInfo

_SHAPES: Mapping[str, str] = {
    "blk.attn_q.weight": "n_embd n_embd",
    "blk.attn_k.weight": "n_embd n_embd",
    "blk.attn_v.weight": "n_embd n_embd",
    "blk.attn_out.weight": "n_embd n_embd",
    "blk.attn_qkv.weight": "n_embd 3n_embd",
    "blk.attn_qkv.bias": "3n_embd",
    "blk.ffn_gate.weight": "n_embd n_ff",
    "blk.ffn_up.weight": "n_embd n_ff",
    "blk.ffn_down.weight": "n_ff n_embd",
    **dict.fromkeys(("blk.ffn_gate.bias", "blk.ffn_up.bias"), "n_ff"),
    **dict.fromkeys(
        (f"blk.{stem}.bias" for stem in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_down", "ln1", "ln2")), "n_embd"
    ),
    **dict.fromkeys((f"blk.{stem}.weight" for stem in ("ln1", "ln2", "ls1", "ls2")), "n_embd"),
    **dict.fromkeys(("patch_embd.weight", "patch_embd.weight.1"), "patch patch 3 n_embd"),
    "patch_embd.bias": "n_embd",
    "conv1d.1.weight": "3 n_mel n_embd",
    "conv1d.2.weight": "3 n_embd n_embd",
    **dict.fromkeys(("conv1d.1.bias", "conv1d.2.bias"), "1 n_embd"),
    **dict.fromkeys(("post_ln.weight", "post_ln.bias"), "n_embd"),
}
"""Beginning with the length of a row; names without `v.` or `a.` and the number of the layer."""
_TOWER_OF = re.compile(r"([va])\.(?:(blk|deepstack)\.\d+\.)?(.+)")


def check_shapes(metadata: Mapping[str, Field], tensors: Iterable[TensorInfo], shapes: Mapping[str, str]) -> None:
    """Raises CannotConvert for the first tensor of another shape than config.json says."""
    sizes = {tower: _sizes(metadata, section) for tower, section in (("v", "vision"), ("a", "audio"))}
    for tensor in tensors:
        match = _TOWER_OF.fullmatch(tensor.name)
        of_connector = ("a" if tensor.name.startswith("mm.a.") else "v", tensor.name)
        tower, name = (match[1], ".".join(filter(None, match.groups()[1:]))) if match else of_connector
        names = shapes[name] if name in shapes else _SHAPES.get(name) if match else None
        if not names:
            continue
        expected = tuple(int(one) if one.isdecimal() else sizes[tower].get(one, 0) for one in names.split())
        if tensor.shape != expected:
            raise CannotConvert(
                f"{tensor.name} is to have the shape {list(expected)} by config.json, and has {list(tensor.shape)}"
            )


def _sizes(metadata: Mapping[str, Field], section: str) -> dict[str, int]:
    def read(key: str) -> int:
        field = metadata.get(f"clip.{section}.{key}")
        value: Any = field.value if field else 0
        return int(value)

    n_embd = read("embedding_length")
    merged = read("spatial_merge_size") or read("projector.scale_factor") or 1
    return {
        "n_embd": n_embd,
        "3n_embd": 3 * n_embd,
        "merged": merged * merged * n_embd,
        "4n_embd": 4 * n_embd,
        "n_ff": read("feed_forward_length"),
        "2n_embd": 2 * n_embd,
        "head": n_embd // max(read("attention.head_count"), 1),
        "n_text": read("projection_dim"),
        "patch": read("patch_size"),
        "pixels": 3 * read("patch_size") ** 2,
        "n_pos": (read("image_size") // read("patch_size")) ** 2 if read("patch_size") else 0,
        "n_mel": read("num_mel_bins"),
    }
