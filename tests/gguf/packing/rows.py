"""The rows that our decoders make of the packed tensors of a tiny repository."""

import json
from collections.abc import Iterator, Mapping

from proxy.gguf.model_config import ModelConfig
from proxy.gguf.tensor_sources import LocatedTensor, PackedTensor
from proxy.gguf.unpacking import unpack_weights
from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import made, tensors_of, with_bytes
from tests.kit.tiny_conversions import tensors_of as tensors_in
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors


def packed_tensors(files: Mapping[str, bytes]) -> Iterator[LocatedTensor]:
    """Each tensor that is stored packed, by the name that families expect."""
    config = ModelConfig(json.loads(files["config.json"]))
    for path, tensors in unpack_weights(config, with_bytes(tensors_of(files), files)).items():
        for name, tensor in tensors.items():
            if isinstance(tensor, PackedTensor):
                yield LocatedTensor(path, name, tensor)


def rows(tensor: LocatedTensor, files: Mapping[str, bytes], first: int = 0, stop: int | None = None) -> bytes:
    """The F32 numbers of these rows."""
    assert isinstance(tensor.source, PackedTensor)
    ranges = tensor.source.unpack(tensor.rows(first, stop))
    return b"".join(part for one in ranges for part in made(one, files, 1 << 13))


def contents(gguf: bytes) -> dict[str, tuple[int, bytes]]:
    """The type and the bytes of each tensor."""
    return {name: (info.type, content) for name, (info, content) in tensors_in(gguf).items()}


def as_plain(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The repository with F32 tensors: each packed tensor becomes the numbers that it stands for."""
    found = {one.name: StoredTensor("F32", one.shape, rows(one, files)) for one in packed_tensors(files)}
    config = json.loads(files["config.json"])
    [left] = unpack_weights(ModelConfig(config), with_bytes(tensors_of(files), files)).values()
    del config["quantization_config"]
    plain = {name: tensor for name, tensor in unpack_safetensors(files[WEIGHTS]).items() if name in left}
    return {**files, "config.json": dump(config), WEIGHTS: pack_safetensors(plain | found)}
