"""Casts and Q8_0 by numpy, number for number as ggml makes them: for machines that ggml's library is not there for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxy.gguf.config import CannotConvert
from proxy.gguf.tensors import TensorType
from proxy.gguf.transforms import WIDTHS

Array = NDArray[Any]

_SLICE = 1 << 17
"""Bytes at a time: what is calculated on the way takes several times their memory."""

_Q8_0 = np.dtype([("scale", "<f2"), ("numbers", "i1", 32)])
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_BF16_INFINITY = 0x7F80
_MAGNITUDE = {"F32": 0x7FFFFFFF, "F16": 0x7FFF, "BF16": 0x7FFF}


class NumpyEngine:
    """Makes few types, and holds Python's lock for much of its time."""

    name = f"numpy {np.__version__}"
    types = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0})

    def quantize(self, kind: TensorType, dtype: str, content: bytes) -> bytes:
        """Whole blocks of numbers of `dtype` as blocks of `kind`. Raises CannotConvert for what `kind` cannot hold."""
        change = {
            TensorType.F32: _to_f32,
            TensorType.BF16: _to_bf16,
            TensorType.F16: _to_f16,
            TensorType.Q8_0: _to_q8_0,
        }[kind]
        return _by_slices(dtype, change, content)


def _by_slices(dtype: str, change: Callable[[str, Array], Array], content: bytes) -> bytes:
    numbers = np.frombuffer(content, f"<u{WIDTHS[dtype]}")
    each = _SLICE // WIDTHS[dtype]
    with np.errstate(all="ignore"):
        return b"".join(change(dtype, numbers[at : at + each]).tobytes() for at in range(0, len(numbers), each))


def _floats(dtype: str, bits: Array) -> Array:
    """As F32, which may share their memory."""
    if dtype == "F32":
        return bits.view("<f4")
    return bits.view("<f2").astype("<f4") if dtype == "F16" else (bits.astype("<u4") << 16).view("<f4")


def _to_f32(dtype: str, bits: Array) -> Array:
    return _floats(dtype, bits)


def _to_bf16(dtype: str, bits: Array) -> Array:
    """To the nearest, of two the even; a NaN keeps its upper half and becomes quiet."""
    floats = _floats(dtype, bits)
    wide = floats.view("<u4")
    upper = wide >> 16
    halves = np.where(np.isnan(floats), upper | 0x40, wide + 0x7FFF + (upper & 1) >> 16).astype("<u2")
    if np.any(np.isfinite(floats) & (halves & _MAGNITUDE["BF16"] == _BF16_INFINITY)):
        raise CannotConvert("it holds a number beyond what BF16 can hold")
    return halves


def _to_f16(dtype: str, bits: Array) -> Array:
    """To the nearest, of two the even; all NaN are one."""
    floats = _floats(dtype, bits)
    halves = _halves(floats).view("<u2")
    odd = np.isnan(floats)
    halves[odd] = halves[odd] & 0x8000 | 0x7E00
    return halves


def _halves(floats: Array) -> Array:
    """Raises CannotConvert for what would become infinite."""
    halves: Array = floats.astype("<f2")
    if not np.array_equal(np.isinf(halves), np.isinf(floats)):
        raise CannotConvert(f"a number, {np.abs(floats[np.isfinite(floats)]).max():g}, is beyond what F16 can hold")
    return halves


def _to_q8_0(dtype: str, bits: Array) -> Array:
    """Steps of a scale that makes the largest of 32 into 127; halves are rounded away from zero.

    Where a scale's reciprocal is not finite, C leaves open what the numbers become: here 0, as x86 makes them.
    """
    scale = _floats(dtype, (bits & _MAGNITUDE[dtype]).reshape(-1, 32).max(axis=1)) / np.float32(127)
    if not np.isfinite(scale).all():
        raise CannotConvert("it holds a NaN or an infinity, which makes no block of Q8_0")
    factor = 1 / scale
    floats = _floats(dtype, bits).reshape(-1, 32) * factor[:, None]
    floats[~np.isfinite(scale * factor)] = 0
    floats += np.copysign(_BELOW_HALF, floats)
    blocks = np.empty(len(scale), _Q8_0)
    blocks["scale"], blocks["numbers"] = _halves(scale), floats
    return blocks
