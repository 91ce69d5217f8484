"""The tiny repositories as GGUF files in memory."""

from collections.abc import Mapping
from functools import lru_cache

from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.tensors import TensorInfo
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan, write


@lru_cache(maxsize=4)
def repository(name: str) -> Mapping[str, bytes]:
    return REPOSITORIES[name].files()


@lru_cache(maxsize=8)
def converted(name: str, quantization: str | None = None) -> bytes:
    """The whole GGUF; without a quantization in the repository's own types."""
    return write(plan(repository(name), quantization=quantization), repository(name))


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
