"""ggml's own quantizer, out of the shared library that the package libggml-python brings, called by ctypes."""

import ctypes
import importlib.metadata
import importlib.util
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from proxy.gguf.config import CannotConvert
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
"""ggml ends the whole process where it meets a NaN or an infinity (ggml 0.20.2, measured)."""


_Numbers: TypeAlias = "ctypes.Array[ctypes.c_char] | bytes"

_NOT_FINITE = {
    TensorType.F16: frozenset(byte for byte in range(256) if byte & 0x7C == 0x7C),  # noqa: PLR2004 - its exponent
    TensorType.BF16: frozenset((0x7F, 0xFF)),
}
"""The upper bytes of infinities and NaNs; with BF16 also those of the largest numbers."""


class GgmlEngine:
    """Quantizes as llama-quantize of this platform does. ctypes releases Python's lock during each call."""

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
        """Whole blocks of numbers of `dtype` as blocks of `kind`.

        Raises CannotConvert where a NaN, an infinity or a number that is too large makes a block invalid.
        """
        count = len(content) // WIDTHS[dtype]
        numbers: _Numbers = content
        if dtype != "F32":
            numbers = ctypes.create_string_buffer(4 * count)
            self._widen[dtype](content, numbers, count)
        if kind is TensorType.F32:
            return bytes(numbers)
        if kind in self._narrow:
            return self._narrowed(kind, numbers, count)
        if kind in _ABORT_ON_BAD_NUMBERS:
            self._check_finite(kind, numbers, count)
        in_block, taken = BLOCKS[kind]
        made = ctypes.create_string_buffer(count // in_block * taken)
        self._chunk(kind, numbers, made, 0, 1, count, None)
        return self._check(kind, made)

    def _check_finite(self, kind: TensorType, numbers: _Numbers, count: int) -> None:
        """Beyond F16's range is far beyond all weights, and what ggml calculates with them could overflow."""
        if not _NOT_FINITE[TensorType.F16].isdisjoint(self._cast(TensorType.F16, numbers, count)[1::2]):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")

    def _narrowed(self, kind: TensorType, numbers: _Numbers, count: int) -> bytes:
        """A NaN and an infinity stay what they are; a number that becomes an infinity is refused."""
        made = self._cast(kind, numbers, count)
        if not _NOT_FINITE[kind].isdisjoint(made[1::2]):
            wide = ctypes.create_string_buffer(4 * count)
            self._widen[kind.name](made, wide, count)
            pairs = zip(array("f", bytes(numbers)), array("f", bytes(wide)), strict=True)
            if any(math.isfinite(number) and math.isinf(result) for number, result in pairs):
                raise CannotConvert(f"it holds a number beyond what {kind.name} can hold")
        return made.raw

    def _cast(self, kind: TensorType, numbers: _Numbers, count: int) -> "ctypes.Array[ctypes.c_char]":
        made = ctypes.create_string_buffer(2 * count)
        self._narrow[kind](numbers, made, count)
        return made

    def _check(self, kind: TensorType, made: "ctypes.Array[ctypes.c_char]") -> bytes:
        if not self._validate(kind, made, len(made)):
            raise CannotConvert(f"it holds a NaN, an infinity or a number too large for {kind.name}")
        return made.raw


def load() -> GgmlEngine | None:
    """None where the package is not installed, or its library does not load on this machine."""
    for path in _libraries():
        # Without it an abort of ggml starts a debugger.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        try:
            return GgmlEngine(ctypes.CDLL(str(path)), importlib.metadata.version(PACKAGE))
        except (OSError, AttributeError, importlib.metadata.PackageNotFoundError):
            continue
    return None


def _libraries() -> Iterator[Path]:
    found = importlib.util.find_spec(_MODULE)
    for folder in (found.submodule_search_locations or []) if found else []:
        yield from (path for file in _FILES if (path := Path(folder) / file).is_file())
