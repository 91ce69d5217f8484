"""The rows that our decoders make of packed tensors of files in memory."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from proxy.gguf.model_config import ModelConfig
from proxy.gguf.packing.packed import Array
from proxy.gguf.packing.schemes import find_packed
from proxy.gguf.tensor_sources import LocatedTensor, PackedTensor, ReadTensor, SourceRange
from proxy.gguf.unpacking import unpack_weights
from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import made, plan, tensors_of, with_bytes, write
from tests.kit.tiny_conversions import tensors_of as tensors_in
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

_F32 = 4


def located(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, LocatedTensor], bytes]:
    """The tensors in one file `x`, and its bytes. The plan has read them all."""
    weights, content = {}, b"..."
    for name, (dtype, shape, data) in tensors.items():
        source = ReadTensor(dtype, tuple(shape), len(content), len(content) + len(data), data)
        weights[name] = LocatedTensor("x", name, source)
        content += data
    return weights, content


def packed_tensors(files: Mapping[str, bytes], config: Mapping[str, Any] | None = None) -> dict[str, PackedTensor]:
    """The tensors that the schemes find, by name; `config` replaces the quantization_config."""
    weights = with_bytes(tensors_of(files), files)
    all_tensors = {
        name: LocatedTensor(path, name, tensor) for path, tensors in weights.items() for name, tensor in tensors.items()
    }
    found = find_packed(
        all_tensors, json.loads(files["config.json"])["quantization_config"] if config is None else config
    )
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


def row_digests(files: Mapping[str, bytes], window: int = 1 << 13) -> dict[str, str]:
    """Of the rows of each packed tensor, by its name."""
    return {
        name: hashlib.sha256(rows_of(tensor, files, window=window).tobytes()).hexdigest()
        for name, tensor in packed_tensors(files).items()
    }


def tensor_digests(gguf: bytes) -> dict[str, str]:
    """Of each tensor of a GGUF, by its name."""
    return {name: hashlib.sha256(content).hexdigest() for name, (_, content) in tensors_in(gguf).items()}


def check_file(files: Mapping[str, bytes], *quantizations: str) -> None:
    """The GGUF is that of a repository with the rows as F32 tensors."""
    plain = as_plain(files)
    for quantization in quantizations:
        packed = _contents(write(plan(files, quantization=quantization), files, 1 << 14))
        assert packed == _contents(write(plan(plain, quantization=quantization), plain))


def as_plain(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The repository with F32 tensors: each packed tensor becomes the numbers that it stands for."""
    found = {
        name: StoredTensor("F32", tensor.shape, rows_of(tensor, files).tobytes())
        for name, tensor in packed_tensors(files).items()
    }
    config = json.loads(files["config.json"])
    [left] = unpack_weights(ModelConfig(config), with_bytes(tensors_of(files), files)).values()
    del config["quantization_config"]
    plain = {name: tensor for name, tensor in unpack_safetensors(files[WEIGHTS]).items() if name in left}
    return {**files, "config.json": dump(config), WEIGHTS: pack_safetensors(plain | found)}


def _contents(gguf: bytes) -> dict[str, tuple[int, bytes]]:
    """The type and the bytes of each tensor."""
    return {name: (info.type, content) for name, (info, content) in tensors_in(gguf).items()}
