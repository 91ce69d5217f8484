"""Decodes packed tensors of files in memory, some rows or all."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from proxy.gguf.packing.packed import Array
from proxy.gguf.packing.schemes import find_packed
from proxy.gguf.tensor_sources import LocatedTensor, PackedTensor, SourceRange
from proxy.planning.safetensors import header_size, read_header
from tests.gguf.writing import made

_F32 = 4


def packed_tensors(files: Mapping[str, bytes], config: Mapping[str, Any] | None = None) -> dict[str, PackedTensor]:
    """The tensors that the schemes find, by name; `config` replaces the quantization_config."""
    located = {
        name: LocatedTensor(path, name, tensor)
        for path, content in files.items()
        if path.endswith(".safetensors")
        for name, tensor in read_header(
            path, content[: header_size(path, content[:8], len(content))], len(content)
        ).tensors.items()
    }
    settings = json.loads(files["config.json"])["quantization_config"] if config is None else config
    found = find_packed(located, settings)
    replaced = [name for one in found for name in one.replaced]
    assert len(set(replaced)) == len(replaced)
    return {one.name: one.tensor for one in found}


def rows_of(
    tensor: PackedTensor, files: Mapping[str, bytes], first: int = 0, stop: int | None = None, *, window: int = 1 << 16
) -> Array:
    """The F32 rows from `first` up to `stop`, from ranges of about `window` bytes."""
    size = _F32 * tensor.shape[-1]
    end = tensor.stop if stop is None else tensor.start + stop * size
    piece = SourceRange("", tensor.start + first * size, end)
    content = b"".join(part for one in tensor.unpack(piece) for part in made(one, files, window))
    return np.frombuffer(content, np.float32).reshape(-1, tensor.shape[-1])
