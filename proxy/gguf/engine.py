"""Chooses the engine for each type: the kernel, ggml or numpy. Each engine is checked once, before its first use."""

import hashlib
import importlib.util
import logging
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Protocol

from proxy.gguf import engine_ggml
from proxy.gguf.tensors import TensorType

log = logging.getLogger(__name__)

_KNOWN_NUMBERS = struct.pack("<256f", *((index * 37 % 61 - 30) / 16 for index in range(256)))
_KNOWN_DIGESTS: Mapping[TensorType, str] = {
    TensorType.F32: "9f0d55d1bed6f36b",
    TensorType.F16: "29e6feb1ac1d08ff",
    TensorType.BF16: "8a0ecf20944adfd7",
    TensorType.Q4_0: "0c28b35a03769636",
    TensorType.Q4_1: "de776ad265544cb2",
    TensorType.Q5_0: "04a756a5db2f6f92",
    TensorType.Q5_1: "f4e2bb26c673ffed",
    TensorType.Q8_0: "9df087a5bf1cf62f",
    TensorType.Q2_K: "130f6a5858be3d1c",
    TensorType.Q3_K: "b484524f4c17be8a",
    TensorType.Q4_K: "15bcdefa1727cda2",
    TensorType.Q5_K: "af4348357eedc94b",
    TensorType.Q6_K: "a42140d6e9cc643f",
    TensorType.IQ4_NL: "e837dc5496f968d5",
    TensorType.IQ4_XS: "dfdf9d9d1f62723a",
    TensorType.IQ3_S: "3b87476b493d1c39",
    TensorType.TQ1_0: "f4b109fb80269671",
    TensorType.TQ2_0: "4faeea077b837bcf",
    TensorType.MXFP4: "2041cc7e69d1c055",
}
"""The first digits of the SHA-256 of llama-quantize b10488's blocks for the known numbers."""


class Engine(Protocol):
    """Makes blocks of the `types`. Several threads may call it at once."""

    @property
    def name(self) -> str: ...
    @property
    def types(self) -> frozenset[TensorType]: ...

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Quantizes numbers of `dtype` (F32, F16, BF16) to blocks of `kind`. `content` must fill whole blocks.

        Raises CannotConvert where a NaN, an infinity or a number that is too large makes a block invalid.
        """


@cache
def engines() -> tuple[Engine, ...]:
    """The engines of this machine, the fastest first. The first call blocks for a few milliseconds."""
    return tuple(engine for engine in _load() if engine.types)


def engine_for(kind: TensorType) -> Engine | None:
    """The fastest engine that makes this type; None if there is none."""
    return next((engine for engine in engines() if kind in engine.types), None)


def engine_names() -> str:
    """The names of the engines, for logs and errors."""
    return ", ".join(engine.name for engine in engines()) or "none"


def has_kernel() -> bool:
    """Whether the C kernel is here: only with it are the types with a long search fast."""
    return _kernel() is not None


def _load() -> Iterator[Engine]:
    library = engine_ggml.load()
    for engine in (_kernel(), library, None if library else _numpy()):
        if engine is not None:
            yield _CheckedEngine(engine)


def _kernel() -> Engine | None:
    if importlib.util.find_spec("proxy.gguf._kernel") is None:
        return None
    try:
        from proxy.gguf.engine_kernel import KernelEngine
    except ImportError as error:
        log.warning("the kernel cannot be loaded and is not used: %s", error)
        return None
    return KernelEngine()


def _numpy() -> Engine | None:
    if importlib.util.find_spec("numpy") is None:
        return None
    from proxy.gguf.engine_numpy import NumpyEngine

    return NumpyEngine()


class _CheckedEngine:
    """An engine without the types for which its bits differ from llama-quantize's."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.quantize = engine.quantize
        self.types = frozenset(kind for kind in engine.types if _makes_known_blocks(engine, kind))
        if wrong := engine.types - self.types:
            names = ", ".join(sorted(kind.name for kind in wrong))
            log.warning("%s makes other bits than llama-quantize for %s; it is not used for these", self.name, names)


def _makes_known_blocks(engine: Engine, kind: TensorType) -> bool:
    blocks = engine.quantize(kind, "F32", _KNOWN_NUMBERS)
    return hashlib.sha256(blocks).hexdigest().startswith(_KNOWN_DIGESTS[kind])
