"""Writes a conversion from a repository's files in memory, and computes the figures that `expected` has."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from proxy.gguf.conversion import Conversion, ModelDescription, convert
from proxy.gguf.draft import DraftRequest
from proxy.gguf.families import FAMILIES
from proxy.gguf.header import GgufHeader, ValueType
from proxy.gguf.single_numbers import numbers_to_read
from proxy.gguf.tensor_sources import BesideRange, FixedBytes, ReadTensor, SourceRange, SourceTensor
from proxy.gguf.tensors import TensorType
from proxy.gguf.unpacking import tensors_to_read
from proxy.planning.embedding import name_tensors, pooling_of
from proxy.planning.safetensors import header_size, read_header

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "rwkv_vocab_v20230424.txt",
    "tiktoken.model",
    "tokenization_kimi.py",
    "hy.tiktoken",
    "tokenization_hy.py",
    "qwen.tiktoken",
    "tokenization_qwen.py",
    "tokenization_chatglm.py",
    "tokenizer.jsonl",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
SourceTensors: TypeAlias = Mapping[str, Mapping[str, SourceTensor]]
"""Tensors by path and name."""
MAX_VALUES = 16
WINDOW = 1 << 16


def plan(files: Mapping[str, bytes], **options: Any) -> Conversion:
    return plan_of(files, readable_tensors(files), **options)


def plan_of(
    files: Mapping[str, bytes],
    weights: SourceTensors,
    *,
    name: str = "Tiny Model",
    sample: str = "",
    draft: DraftRequest | None = None,
    **options: Any,
) -> Conversion:
    """The plan for these `weights`; of `files`, only the small ones are read."""
    template = json.loads(files["tokenizer_config.json"]).get("chat_template")
    return convert(
        json.loads(files["config.json"]),
        {path: files[path] for path in TOKENIZER_FILES if path in files},
        weights,
        ModelDescription(
            name,
            template,
            sample=sample,
            pooling=pooling_of("acme/tiny", files, embeds=False),
            draft=draft,
        ),
        **options,
    )


def readable_tensors(files: Mapping[str, bytes]) -> SourceTensors:
    """The tensors of the weight files, with the bytes of those that a plan reads."""
    return with_bytes(tensors_of(files), files)


def tensors_of(files: Mapping[str, bytes]) -> SourceTensors:
    """The tensors of the weight files, by path and name."""
    tensors = {
        path: read_header(path, content[: header_size(path, content[:8], len(content))], len(content)).tensors
        for path, content in sorted(files.items())
        if path.endswith(".safetensors")
    }
    return name_tensors("acme/tiny", files, tensors)


def with_bytes(weights: SourceTensors, files: Mapping[str, bytes]) -> SourceTensors:
    """The same tensors, with the bytes of those that a plan reads."""
    config = json.loads(files["config.json"])
    family = FAMILIES.get((config.get("architectures") or [""])[0])
    numbers = numbers_to_read(family, family.config(config), weights) if family else []
    wanted = [*tensors_to_read(weights), *numbers]
    read = {
        (one.path, one.name): ReadTensor(
            one.dtype, one.shape, one.source.start, one.source.stop, files[one.path][one.source.start : one.source.stop]
        )
        for one in wanted
    }
    return {
        path: {name: read.get((path, name), tensor) for name, tensor in tensors.items()}
        for path, tensors in weights.items()
    }


def made(piece: SourceRange | FixedBytes, files: Mapping[str, bytes], window: int = WINDOW) -> Iterator[bytes]:
    """The output of a piece. Its transform gets about `window` bytes at a time."""
    if isinstance(piece, FixedBytes):
        yield piece.content
        return
    block = piece.transform.block if piece.transform else 1
    blocks = max(window // block, 1)
    size = piece.stop - piece.start
    for start in range(0, size, blocks * block):
        stop = min(start + blocks * block, size)
        parts = [
            files[one.path][one.start : one.stop]
            if one.is_whole
            else files[one.path][one.start : one.stop][_share(one, start, size) : _share(one, stop, size)]
            for one in piece.beside
        ]
        content = b"".join((*parts, files[piece.path][piece.start + start : piece.start + stop]))
        yield piece.transform.change(content) if piece.transform else content


def _share(beside: BesideRange, reached: int, size: int) -> int:
    """Its bytes for the first `reached` bytes of a range of `size` bytes."""
    return (beside.stop - beside.start) * reached // size


def write(conversion: Conversion, files: Mapping[str, bytes], window: int = WINDOW) -> bytes:
    parts = [conversion.header]
    for piece in conversion.pieces:
        content = b"".join(made(piece, files, window))
        assert len(content) == piece.size
        parts.append(content)
    return b"".join(parts)


def written_to(target: Path, folder: Path) -> Path:
    """Writes the unquantized GGUF of the repository in `folder` to `target`."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix != ".sha256" and path.is_file()
    }
    conversion = plan(files)
    with target.open("wb") as file:
        file.write(conversion.header)
        for piece in conversion.pieces:
            for content in made(piece, files, 1 << 20):
                file.write(content)
    return target


def figures(header: GgufHeader, content: bytes) -> dict[str, Any]:
    """Type and value of each key; type, shape and digest of each tensor. Long arrays are digests too."""
    metadata = {key: value_of(field.kind, field.raw, field.value) for key, field in header.metadata.items()}
    tensors = {}
    for tensor in header.tensors:
        start = header.data_start + tensor.offset
        digest = hashlib.sha256(content[start : start + tensor.size]).hexdigest()
        tensors[tensor.name] = {"type": TensorType(tensor.type).name, "shape": list(tensor.shape), "sha256": digest}
    return {"metadata": metadata, "tensors": tensors}


def value_of(kind: ValueType, raw: bytes, value: Any) -> dict[str, Any]:
    if kind is not ValueType.ARRAY:
        return {"kind": kind.name, "value": value}
    items = ValueType(int.from_bytes(raw[:4], "little")).name
    if len(value) <= MAX_VALUES:
        return {"array": items, "values": value}
    digest = hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()
    return {"array": items, "length": len(value), "sha256": digest}
