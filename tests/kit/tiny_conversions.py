"""Converts the tiny repositories by name, with or without changes, and checks the results."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from hypothesis import strategies as st

from proxy.gguf.conversion import Conversion
from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.tensor_sources import FixedBytes
from proxy.gguf.tensors import GgufError, TensorInfo
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import Weights
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import SourceTensors, made, plan, plan_of, readable_tensors, write

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 600),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.dictionaries(
        st.sampled_from(["type", "rope_type", "factor", "rope_theta"]), st.sampled_from(["yarn", 2.0, None, "llama3"])
    ),
)


@lru_cache(maxsize=4)
def repository(name: str) -> Mapping[str, bytes]:
    return REPOSITORIES[name].files()


@cache
def small_files(name: str) -> tuple[Mapping[str, bytes], SourceTensors]:
    """What plans need: the files without weights, and the tensors. All repositories together have 600 MB of weights."""
    files = repository(name)
    small = {path: content for path, content in files.items() if not path.endswith(".safetensors")}
    return small, readable_tensors(files)


@lru_cache(maxsize=8)
def converted(name: str, quantization: str | None = None) -> bytes:
    """The whole GGUF. Without a quantization, it has the repository's own types."""
    return write(plan(repository(name), quantization=quantization), repository(name))


def plan_with(
    name: str, config: Mapping[str, Any] | None = None, tokenizer: Mapping[str, Any] | None = None
) -> Conversion:
    """The plan after changes in config.json and tokenizer.json."""
    original, weights = small_files(name)
    files = dict(original)
    files["config.json"] = dump(json.loads(files["config.json"]) | dict(config or {}))
    if tokenizer is not None:
        files["tokenizer.json"] = dump(json.loads(files["tokenizer.json"]) | dict(tokenizer))
    return plan_of(files, weights)


def with_tokenizer_config(name: str, **change: Any) -> Mapping[str, bytes]:
    """The files with another tokenizer_config.json; None removes a key."""
    files, path = repository(name), "tokenizer_config.json"
    config = {**json.loads(files[path]), **change}
    return {**files, path: dump({key: value for key, value in config.items() if value is not None})}


def edited_weights(name: str, edit: Callable[[Weights], None]) -> dict[str, bytes]:
    """The files of the repository after `edit` has changed its tensors."""
    tiny = REPOSITORIES[name]

    def make(weights: Weights) -> None:
        tiny.weights(weights)
        edit(weights)

    return replace(tiny, weights=make).files()


def check_refused_or_valid(files: Mapping[str, bytes]) -> None:
    try:
        conversion = plan(files)
    except GgufError:
        return
    header = read_header(conversion.header, size=conversion.size)
    assert header.data_start == len(conversion.header)
    assert conversion.size - header.data_start - header.data_size < header.alignment
    for piece in conversion.pieces:
        if isinstance(piece, FixedBytes) or piece.transform is None:
            continue
        assert sum(map(len, made(piece, files))) == piece.size


def read(content: bytes) -> GgufHeader:
    return read_header(content, size=len(content))


def tensors_of(content: bytes) -> dict[str, tuple[TensorInfo, bytes]]:
    """The tensors of a GGUF by name, with their bytes."""
    header = read(content)
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    return {
        tensor.name: (tensor, content[starts[tensor.name] : starts[tensor.name] + tensor.size])
        for tensor in header.tensors
    }
