"""Casts and Q8_0 by numpy, with the same bits as ggml: for machines without ggml's library."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import TensorType
from proxy.gguf.transforms import WIDTHS

Array = NDArray[Any]

_SLICE = 1 << 17
"""Bytes to convert at a time: the intermediate results take several times their memory."""

_Q8_0 = np.dtype([("scale", "<f2"), ("numbers", "i1", 32)])
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_BF16_INFINITY = 0x7F80
_MAGNITUDE = {"F32": 0x7FFFFFFF, "F16": 0x7FFF, "BF16": 0x7FFF}


class NumpyEngine:
    """Makes few types, and holds the GIL most of the time."""

    name = f"numpy {np.__version__}"
    types = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0})

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Quantizes as `Engine.quantize` describes."""
        change = {
            TensorType.F32: _to_f32,
            TensorType.BF16: _to_bf16,
            TensorType.F16: _to_f16,
            TensorType.Q8_0: _to_q8_0,
        }[kind]
        return _by_slices(dtype, change, content)


def _by_slices(dtype: str, change: Callable[[str, Array], Array], content: bytes) -> bytes:
    numbers = np.frombuffer(content, f"<u{WIDTHS[dtype]}")
    step = _SLICE // WIDTHS[dtype]
    with np.errstate(all="ignore"):
        return b"".join(change(dtype, numbers[i : i + step]).tobytes() for i in range(0, len(numbers), step))


def to_floats(dtype: str, bits: Array) -> Array:
    """The numbers of `bits`, unsigned integers of the dtype's width, as F32; F32 is not copied."""
    if dtype == "F32":
        return bits.view("<f4")
    return bits.view("<f2").astype("<f4") if dtype == "F16" else (bits.astype("<u4") << 16).view("<f4")


def _to_f32(dtype: str, bits: Array) -> Array:
    return to_floats(dtype, bits)


def _to_bf16(dtype: str, bits: Array) -> Array:
    """Rounds to the nearest, ties to even. A NaN keeps its upper half and becomes quiet."""
    floats = to_floats(dtype, bits)
    wide = floats.view("<u4")
    upper = wide >> 16
    halves = np.where(np.isnan(floats), upper | 0x40, wide + 0x7FFF + (upper & 1) >> 16).astype("<u2")
    if np.any(np.isfinite(floats) & (halves & _MAGNITUDE["BF16"] == _BF16_INFINITY)):
        raise CannotConvert("it holds a number beyond what BF16 can hold")
    return halves


def _to_f16(dtype: str, bits: Array) -> Array:
    """Rounds to the nearest, ties to even. Every NaN becomes the same one, with its sign."""
    floats = to_floats(dtype, bits)
    halves = _halves(floats).view("<u2")
    is_nan = np.isnan(floats)
    halves[is_nan] = halves[is_nan] & 0x8000 | 0x7E00
    return halves


def _halves(floats: Array) -> Array:
    """Casts to F16. Raises CannotConvert for a finite number that becomes an infinity."""
    halves: Array = floats.astype("<f2")
    if not np.array_equal(np.isinf(halves), np.isinf(floats)):
        largest = np.abs(floats[np.isfinite(floats)]).max()
        raise CannotConvert(f"it holds a number, {largest:g}, beyond what F16 can hold")
    return halves


def _to_q8_0(dtype: str, bits: Array) -> Array:
    """Divides each 32 numbers by a scale that turns the largest into 127. Rounds halves away from zero.

    Where the reciprocal of a scale is not finite, C does not define the result. Here it is 0, as on x86.
    """
    scale = to_floats(dtype, (bits & _MAGNITUDE[dtype]).reshape(-1, 32).max(axis=1)) / np.float32(127)
    if not np.isfinite(scale).all():
        raise CannotConvert("it holds a NaN or an infinity, which Q8_0 cannot hold")
    factor = 1 / scale
    floats = to_floats(dtype, bits).reshape(-1, 32) * factor[:, None]
    floats[~np.isfinite(scale * factor)] = 0
    floats += np.copysign(_BELOW_HALF, floats)
    blocks = np.empty(len(scale), _Q8_0)
    blocks["scale"], blocks["numbers"] = _halves(scale), floats
    return blocks
