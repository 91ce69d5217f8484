"""ggml's own quantizer, called by ctypes from the shared library in the package libggml-python."""

import ctypes
import importlib.metadata
import importlib.util
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import BLOCKS, TensorType
from proxy.gguf.transforms import WIDTHS

PACKAGE = "libggml-python"
_MODULE = "libggml"
_FILES = ("lib64/libggml-base.so", "lib/libggml-base.so", "lib/libggml-base.dylib", "bin/ggml-base.dll")

TYPES = frozenset(
    {TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q4_0, TensorType.Q4_1, TensorType.Q5_0}
    | {TensorType.Q5_1, TensorType.Q8_0, TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K}
    | {TensorType.Q6_K, TensorType.IQ4_NL, TensorType.IQ4_XS, TensorType.IQ3_S, TensorType.TQ1_0, TensorType.TQ2_0}
    | {TensorType.MXFP4}
)
_ABORT_ON_BAD_NUMBERS = (TensorType.IQ3_S,)
"""For these types ggml aborts the whole process on a NaN or an infinity (ggml 0.20.2, measured)."""


_Numbers: TypeAlias = "ctypes.Array[ctypes.c_char] | bytes"

_NOT_FINITE = {
    TensorType.F16: frozenset(byte for byte in range(256) if byte & 0x7C == 0x7C),  # noqa: PLR2004 - the exponent
    TensorType.BF16: frozenset((0x7F, 0xFF)),
}
"""Upper bytes of infinities and NaNs. In BF16 the largest finite numbers have the same upper bytes."""


class GgmlEngine:
    """Makes the same bits as llama-quantize on this platform. ctypes releases the GIL during each call."""

    types = TYPES

    def __init__(self, library: ctypes.CDLL, version: str) -> None:
        self.name = f"ggml {version}"
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._widen = {"F16": library.ggml_fp16_to_fp32_row, "BF16": library.ggml_bf16_to_fp32_row}
        self._narrow = {TensorType.F16: library.ggml_fp32_to_fp16_row, TensorType.BF16: library.ggml_fp32_to_bf16_row}
        for convert in (*self._widen.values(), *self._narrow.values()):
            convert.argtypes, convert.restype = (pointer, pointer, size), None
        self._chunk = library.ggml_quantize_chunk
        self._chunk.argtypes = (ctypes.c_int, pointer, pointer, size, size, size, pointer)
        self._chunk.restype = ctypes.c_size_t
        self._validate = library.ggml_validate_row_data
        self._validate.argtypes, self._validate.restype = (ctypes.c_int, pointer, ctypes.c_size_t), ctypes.c_bool

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Quantizes as `Engine.quantize` describes."""
        count = len(content) // WIDTHS[dtype]
        numbers: _Numbers = content
        if dtype != "F32":
            numbers = ctypes.create_string_buffer(4 * count)
            self._widen[dtype](content, numbers, count)
        if kind is TensorType.F32:
            return bytes(numbers)
        if kind in self._narrow:
            return self._to_halves(kind, numbers, count)
        if kind in _ABORT_ON_BAD_NUMBERS:
            self._check_finite(kind, numbers, count)
        block_numbers, block_bytes = BLOCKS[kind]
        blocks = ctypes.create_string_buffer(count // block_numbers * block_bytes)
        self._chunk(kind, numbers, blocks, 0, 1, count, None)
        return self._validated(kind, blocks)

    def _check_finite(self, kind: TensorType, numbers: _Numbers, count: int) -> None:
        """Refuses all numbers beyond F16's range: no real weight is so large, and ggml's search could overflow."""
        if _may_not_be_finite(TensorType.F16, self._cast(TensorType.F16, numbers, count)):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")

    def _to_halves(self, kind: TensorType, numbers: _Numbers, count: int) -> bytes:
        """Casts to F16 or BF16. Keeps NaNs and infinities, but refuses a finite number that becomes an infinity."""
        halves = self._cast(kind, numbers, count)
        if _may_not_be_finite(kind, halves):
            wide = ctypes.create_string_buffer(4 * count)
            self._widen[kind.name](halves, wide, count)
            pairs = zip(array("f", bytes(numbers)), array("f", bytes(wide)), strict=True)
            if any(math.isfinite(number) and math.isinf(result) for number, result in pairs):
                raise CannotConvert(f"it holds a number beyond what {kind.name} can hold")
        return halves

    def _cast(self, kind: TensorType, numbers: _Numbers, count: int) -> bytes:
        halves = ctypes.create_string_buffer(2 * count)
        self._narrow[kind](numbers, halves, count)
        return halves.raw

    def _validated(self, kind: TensorType, blocks: "ctypes.Array[ctypes.c_char]") -> bytes:
        if not self._validate(kind, blocks, len(blocks)):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")
        return blocks.raw


def _may_not_be_finite(kind: TensorType, halves: bytes) -> bool:
    # A search for one byte is ten times as fast as a look at each.
    upper = halves[1::2]
    return any(byte in upper for byte in _NOT_FINITE[kind])


def load() -> GgmlEngine | None:
    """None if the package is not installed, or its library cannot be loaded on this machine."""
    for path in _libraries():
        # Without this variable an abort in ggml starts a debugger.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        try:
            return GgmlEngine(ctypes.CDLL(str(path)), importlib.metadata.version(PACKAGE))
        except (OSError, AttributeError, importlib.metadata.PackageNotFoundError):
            continue
    return None


def _libraries() -> Iterator[Path]:
    spec = importlib.util.find_spec(_MODULE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from (path for file in _FILES if (path := Path(folder) / file).is_file())
