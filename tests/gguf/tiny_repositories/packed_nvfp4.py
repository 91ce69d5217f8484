"""Tiny repositories whose matrices stay NVFP4: each of them has a scale, and a scale of its inputs, of its own.

`python -m tests.gguf.tiny_repositories.packed_nvfp4 FOLDER` writes all of them, into a folder each.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.gguf.tiny_repositories import REPOSITORIES as TINY
from tests.gguf.tiny_repositories.packed import DEVIATION, Codes, Packed
from tests.gguf.tiny_repositories.packed_compressed import MODELOPT, NVFP4, OF_NVFP4, Tensors, compressed, fp4

_SCALE = 1 / 700
"""Of a matrix, about."""
ENDS = (
    *("_proj.weight", "_proj_qkv.weight", "_proj_z.weight", "_proj_a.weight", "_proj_b.weight"),
    *(".w1.weight", ".w2.weight", ".w3.weight"),
)
_FAMILIES = {
    "gemma4": TINY["gemma4"],
    "llama": TINY["llama"],
    "ministral3": TINY["ministral3"],
    "mixtral": replace(TINY["mixtral"], shards=1),
    "nemotron_h": TINY["nemotron_h"],
    "nemotron_h_moe": TINY["nemotron_h_moe"],
    "qwen3": replace(TINY["qwen3"], shards=1),
    "qwen3_5": TINY["qwen3_5"],
    "qwen3_5moe": TINY["qwen3_5moe"],
    "qwen3moe": TINY["qwen3moe"],
}


def matrix(form: str, codes: Codes, name: str, shape: tuple[int, ...]) -> Tensors:
    """`form` is that of compressed-tensors, which has reciprocals of scales, or, for ModelOpt's, empty."""
    scale, inputs = ("_global_scale", "input_global_scale") if form else ("_scale_2", "input_scale")
    count = (1,) if form else ()
    for stored_as, tensor in fp4(form, codes, name, shape):
        is_scale = stored_as.endswith(scale)
        mean = 1 / _SCALE if form else _SCALE
        yield stored_as, codes.scales("F32", count, DEVIATION / mean) if is_scale else tensor
    yield name.removesuffix("weight") + inputs, codes.scales("F32", count, DEVIATION / 20)


REPOSITORIES: dict[str, Packed] = {
    f"{name}_{layout}": Packed(tiny, partial(matrix, form), config, ends=ENDS)
    for name, tiny in _FAMILIES.items()
    for layout, form, config in (("compressed", NVFP4, compressed(NVFP4, OF_NVFP4)), ("modelopt", "", MODELOPT))
}


def main(folder: Path) -> None:
    for name, repository in REPOSITORIES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path, content in repository.files().items():
            (folder / name / path).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
